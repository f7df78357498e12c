"""Motion clips of a person: rotations of the joints over time, on bones of constant length."""

import dataclasses
import functools

import numpy as np

from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

#: Frames a second of every clip before `cut`: the rate of procedural motion, to which motion files are resampled.
FPS = 30.0

#: Points of the sole: a joint and the offset from it in the foot's axes, metres in the rest pose.
SOLE_POINTS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("subtalar", (0.0, -0.025, -0.045)),
    ("transversetarsal", (0.0, -0.050, 0.020)),
    ("transversetarsal", (0.0, -0.050, 0.090)),
)

_JOINT = {name: i for i, name in enumerate(SKELETON.joint_names)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MotionClip:
    """F frames of one person. Forward kinematics gives the joints in the world (y up, metres)."""

    fps: float
    root_rotation: np.ndarray  # (F, 3, 3) float32 R_world_root
    root_position_m: np.ndarray  # (F, 3) float32, in the world
    joint_rotations: np.ndarray  # (F, J, 3, 3) float32 local, R_parent_joint
    offsets_m: np.ndarray  # (J, 3) float32 from the parent, in the parent's axes

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.root_position_m)

    @functools.cached_property
    def world_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """R_world_joint (F, J, 3, 3) and the joints in the world (F, J, 3), metres; float64 host arrays."""
        offsets_m = np.broadcast_to(self.offsets_m.astype(np.float64), (self.num_frames, *self.offsets_m.shape))
        root = self.root_rotation.astype(np.float64), self.root_position_m
        joints_m, rotations = kinematics.forward_kinematics(SKELETON.parents, *root, self.joint_rotations, offsets_m)
        return rotations, joints_m


def sole_heights(clip: MotionClip) -> np.ndarray:
    """Returns the height (F,), metres, of the lowest point of both soles."""
    rotations, joints_m = clip.world_pose
    size = -clip.offsets_m[_JOINT["b_l_leg"], 1] / -SKELETON.rest_offsets_m[_JOINT["b_l_leg"]][1]
    heights = [
        joints_m[:, _JOINT[f"b_{side}_{name}"], 1]
        + rotations[:, _JOINT[f"b_{side}_{name}"], 1] @ (size * np.array(point))
        for side in "lr"
        for name, point in SOLE_POINTS
    ]
    return np.min(heights, axis=0)


def cut(clip: MotionClip, start: int, stop: int, step: int = 1) -> MotionClip:
    """Returns every `step`-th frame of the frames [start, stop) of the clip."""
    part = slice(start, stop, step)
    return dataclasses.replace(
        clip,
        fps=clip.fps / step,
        root_rotation=clip.root_rotation[part],
        root_position_m=clip.root_position_m[part],
        joint_rotations=clip.joint_rotations[part],
    )


def grounded(clip: MotionClip) -> MotionClip:
    """Returns the clip moved up or down so that the tenth percentile of its `sole_heights` is 0."""
    shift = np.array([0.0, np.quantile(sole_heights(clip), 0.1), 0.0])
    return dataclasses.replace(clip, root_position_m=(clip.root_position_m - shift).astype(np.float32))
