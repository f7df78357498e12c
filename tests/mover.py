"""The predicted motion of a person who moves all joints, on bones of constant lengths."""

import dataclasses
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.interop import motion as motion_lib

J = EGOBODY3M.num_joints
FRAME_S = 1 / 30
ABOUT = motion_lib.About(
    sequence="walk",
    split="test",
    skeleton=EGOBODY3M,
    view_names=("left", "right"),
    frame_s=FRAME_S,
    model="epfv2",
    model_step=7,
    model_sha256="0" * 64,
    degrees_of_freedom=4.0,
)


def _smooth(num_frames: int, rng: np.random.Generator, *shape: int) -> np.ndarray:
    phase, speed = rng.uniform(0, 6, shape), rng.uniform(0.05, 0.2, shape)
    return np.sin(phase + speed * np.arange(num_frames).reshape(-1, *(1,) * len(shape)))


def rows(num_frames: int, body: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the rows of a motion."""
    rng = np.random.default_rng(seed)
    local = Rotation.from_rotvec(_smooth(num_frames, rng, J, 3).reshape(-1, 3)).as_matrix()
    local = local.reshape(num_frames, J, 3, 3)
    leaves = [j for j in range(J) if j not in EGOBODY3M.inner_joints]
    local[:, leaves] = np.eye(3)
    root = Rotation.from_rotvec(2 * _smooth(num_frames, rng, 3)).as_matrix()
    root_m = np.array([0.0, -0.6, -0.1]) + 0.1 * _smooth(num_frames, rng, 3)
    scales = rng.uniform(0.9, 1.1, J)
    scales[list(EGOBODY3M.children(-1))] = 1.0  # the hips stay on both sides of the root
    offsets_m = np.broadcast_to(scales[:, None] * np.asarray(EGOBODY3M.rest_offsets_m), (num_frames, J, 3))
    joints_m, _ = kinematics.forward_kinematics(EGOBODY3M.parents, root, root_m, local, offsets_m)
    T = np.tile(np.eye(4), (num_frames, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(_smooth(num_frames, rng, 3)).as_matrix()
    T[:, :3, 3] = np.array([1.0, 1.6, -3.0]) + _smooth(num_frames, rng, 3)
    lower = np.tril(rng.uniform(0.01, 0.05, (num_frames, J, 3, 3)))
    turned = T[:, None, :3, :3] @ lower
    found = {
        "frame_index": np.arange(num_frames),
        "time_s": np.arange(num_frames) * FRAME_S,
        "frame_valid": np.ones(num_frames, bool),
        "view_valid": np.ones((num_frames, 2), bool),
        "T_world_headset": T,
        "joints_headset_m": joints_m,
        "joints_world_m": joints_m @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3],
        "cholesky_headset_m": lower,
        "covariance_world_m2": turned @ np.swapaxes(turned, -1, -2),
    }
    if body:
        found |= {"root_rotation": root, "root_position_m": root_m, "joint_rotations": local}
        found |= {"bone_scales": np.tile(scales, (num_frames, 1))}
    kinds = motion_lib.columns(J, 2, uncertain=True, body=body)
    return {name: found[name].astype(kinds[name][0]) for name in kinds}


def motion(folder: pathlib.Path, *parts: dict[str, np.ndarray], **changes) -> motion_lib.Motion:
    """Returns a motion of rows, given in parts, with its files in a new folder and changes to `ABOUT`."""
    folder.mkdir()
    columns = motion_lib.columns(J, 2, uncertain=True, body="root_rotation" in parts[0])
    found = motion_lib.Motion(folder, dataclasses.replace(ABOUT, **changes), columns)
    for part in parts:
        found.append(part)
    return found
