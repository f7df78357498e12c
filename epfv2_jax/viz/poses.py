"""The two poses that a picture compares, the true and the predicted one, and where the cameras see their bones."""

import dataclasses

import numpy as np

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.skeleton import Skeleton

#: Colours of all pictures, told apart with every common colour vision (Okabe and Ito): red-orange and sky blue.
PREDICTION_COLOR = "#FF6A13"
TRUTH_COLOR = "#4CC2FF"

_POINTS_PER_BONE = 25  # a fisheye bends straight bones


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DrawnPose:
    """One pose of a frame, and how pictures show it."""

    name: str  # "truth" or "prediction"
    color: str
    joints_headset_m: np.ndarray  # (J, 3); zeros where `present` is False
    present: np.ndarray  # (J,) bool


def truth(example: FrameExample) -> DrawnPose:
    """Returns the true pose; its valid joints are present."""
    return _pose("truth", TRUTH_COLOR, example.true_joints_headset_m, example.joint_valid)


def prediction(example: FrameExample) -> DrawnPose:
    """Returns the predicted pose; its finite joints are present."""
    joints = example.joints_headset_m
    return _pose("prediction", PREDICTION_COLOR, joints, np.isfinite(joints).all(-1))


def to_world(example: FrameExample, points_headset_m: np.ndarray) -> np.ndarray:
    """Returns points (..., 3) of the headset frame in the world, float64, metres."""
    T = example.T_world_headset.astype(np.float64)
    return points_headset_m @ T[:3, :3].T + T[:3, 3]


def project_bones(example: FrameExample, pose: DrawnPose, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels (V, bones, points, 2) along each bone and whether each point is visible (V, bones, points).

    A point is visible if both joints of its bone are present and it lies in front of the camera, within the valid angle
    of the lens and inside the image. Occlusion is not considered.
    """
    bones = np.array(skeleton.bones).reshape(-1, 2)
    start, end = (pose.joints_headset_m[bones[:, i]] for i in (0, 1))
    share = np.linspace(0.0, 1.0, _POINTS_PER_BONE)[None, :, None]
    points = (start[:, None] * (1 - share) + end[:, None] * share).reshape(-1, 3).astype(np.float32)
    V = example.view_valid.shape[0]
    points = np.broadcast_to(points[None], (V, *points.shape))
    uv_px, valid = cameras.project(example.rig.cameras, transforms.apply(example.rig.T_cam_headset, points))
    visible = np.asarray(valid & cameras.inside_image(example.rig.cameras, uv_px))
    shape = (V, len(bones), _POINTS_PER_BONE)
    present = pose.present[bones].all(-1)
    return np.asarray(uv_px).reshape(*shape, 2), visible.reshape(shape) & present[None, :, None]


def visible_runs(points: np.ndarray, visible: np.ndarray) -> list[np.ndarray]:
    """Returns the stretches of two or more consecutive visible points: points (n, 2), visible (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], visible, [False]]).astype(np.int8)))
    return [points[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]


def _pose(name: str, color: str, joints_headset_m: np.ndarray, present: np.ndarray) -> DrawnPose:
    joints = np.where(present[:, None], joints_headset_m, 0.0)
    return DrawnPose(name=name, color=color, joints_headset_m=joints, present=present)
