"""Inputs that several benchmarks share: random images from a headset of four fisheye cameras."""

import jax
import numpy as np

from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.structs import Batch, Frames, Rig, Targets


def make_frames(clips: int, num_frames: int, size: int) -> Frames:
    """Returns clips of random images (clips, num_frames, 4, size, size) of a headset that stands still."""
    center = (size - 1) / 2
    camera = cameras.fisheye62(
        focal_px=size / 3.2, center_px=(center, center), k=[0.05, 0, 0, 0, 0, 0], p=(0, 0), size_px=(size, size)
    )
    T_cam_headset = np.tile(np.diag([-1.0, 1.0, -1.0, 1.0]).astype(np.float32), (4, 1, 1))
    rig = Rig(cameras=cameras.stack([camera] * 4), T_cam_headset=T_cam_headset)
    return Frames(
        images=np.random.default_rng(0).integers(0, 255, (clips, num_frames, 4, size, size), np.uint8),
        rig=jax.tree.map(lambda x: np.broadcast_to(x, (clips, *x.shape)), rig),
        T_world_headset=np.tile(np.eye(4, dtype=np.float32), (clips, num_frames, 1, 1)),
        view_valid=np.ones((clips, num_frames, 4), bool),
        frame_valid=np.ones((clips, num_frames), bool),
        frame_gap=np.ones((clips, num_frames), np.int32),
    )


def make_batch(clips: int, num_frames: int, size: int) -> Batch:
    """Returns `make_frames` with the rest pose as the truth."""
    joints_m = np.broadcast_to(EGOBODY3M.rest_joints_headset_m(), (clips, num_frames, EGOBODY3M.num_joints, 3))
    return Batch(
        frames=make_frames(clips, num_frames, size),
        targets=Targets(joints_headset_m=joints_m, joint_valid=np.ones(joints_m.shape[:-1], bool)),
        clip_id=np.arange(clips, dtype=np.int32),
        time_s=np.tile(np.arange(num_frames, dtype=np.float32) / 30, (clips, 1)),
    )
