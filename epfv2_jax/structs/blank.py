"""Frames in which nothing is seen: the shapes of a batch, and what an empty slot holds."""

import jax
import numpy as np

from epfv2_jax.geometry import cameras
from epfv2_jax.structs.frames import Frames, Rig


def blank_frames(
    batch: int, frames: int, views: int, image_size_hw: tuple[int, int], camera_model: cameras.Model = "fisheye"
) -> Frames:
    """Returns numpy `Frames` (B, T, V, H, W): black images, poses at the origin, every frame and view invalid.

    The cameras are plain ones that any projection takes; `camera_model` is the lens model of the frames to come, which
    is part of the type of a batch.
    """
    height, width = image_size_hw
    camera = cameras.pinhole(
        focal_px=(width, height), center_px=((width - 1) / 2, (height - 1) / 2), size_px=(width, height)
    )
    rig = Rig(cameras=camera.replace(model=camera_model), T_cam_headset=np.eye(4, dtype=np.float32))
    return Frames(
        images=np.zeros((batch, frames, views, height, width), np.uint8),
        rig=jax.tree.map(lambda x: np.broadcast_to(x, (batch, views, *np.shape(x))).astype(np.float32), rig),
        T_world_headset=np.broadcast_to(np.eye(4, dtype=np.float32), (batch, frames, 4, 4)).copy(),
        view_valid=np.zeros((batch, frames, views), bool),
        frame_valid=np.zeros((batch, frames), bool),
        frame_gap=np.ones((batch, frames), np.int32),
    )


def abstract(tree):
    """Returns the tree with a `jax.ShapeDtypeStruct` in place of each array."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
