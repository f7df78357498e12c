"""The common form of all motion capture files: a tree of joints with rest offsets, and rotations over time.

In the rest pose every joint's axes are those of the world, whatever axes the file uses. A global rotation therefore
says how far a body part has turned from rest.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.geometry import kinematics


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArticulatedMotion:
    """The motion of N joints over F frames, y up. Joint 0 is the root; every parent comes before its children."""

    source: str  # path of the file, for error messages
    fps: float
    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root
    offsets_m: np.ndarray  # (N, 3) from the parent joint, in the rest pose; zero for the root
    tips_m: np.ndarray  # (N, 3) end of the joint's own bone in the rest pose, from the joint; NaN if not given
    root_position_m: np.ndarray  # (F, 3)
    joint_rotations: np.ndarray  # (F, N, 3, 3) local, identity in the rest pose

    @property
    def num_frames(self) -> int:
        """F."""
        return len(self.root_position_m)


def world_pose(motion: ArticulatedMotion) -> tuple[np.ndarray, np.ndarray]:
    """Returns R_world_joint (F, N, 3, 3) and the joints in the world (F, N, 3), metres."""
    identity = np.broadcast_to(np.eye(3), (motion.num_frames, 3, 3))
    offsets_m = np.broadcast_to(motion.offsets_m, motion.joint_rotations.shape[:-1])
    positions, rotations = kinematics.forward_kinematics(
        motion.parents, identity, motion.root_position_m, motion.joint_rotations, offsets_m
    )
    return rotations, positions


def rest_joints_m(motion: ArticulatedMotion) -> np.ndarray:
    """Returns the joints (N, 3), metres from the root, in the rest pose."""
    identity = np.broadcast_to(np.eye(3), (len(motion.parents), 3, 3))
    joints_m, _ = kinematics.forward_kinematics(motion.parents, np.eye(3), np.zeros(3), identity, motion.offsets_m)
    return joints_m


def only(motion: ArticulatedMotion, names: Mapping[int, str]) -> ArticulatedMotion:
    """Returns the motion of the joints in `names` under these names; the first of them is above all others.

    They keep their rotations in the world, and their offsets are sums over the joints left out. Where those turn the
    next joint off the line to it, as roll joints do not, the joint above takes the smallest further turn that points at
    the next joint again. It must have no other joint below it then.
    """
    joints = sorted(names)
    row = {joint: k for k, joint in enumerate(joints)}
    rotations = np.empty((motion.num_frames, len(joints), 3, 3))
    offsets_m = np.zeros((len(joints), 3))
    parents = [-1] * len(joints)
    root_position_m = motion.root_position_m
    for k, joint in enumerate(joints):
        above = _left_out_above(motion, joint, row)
        turn = np.eye(3)[None]  # R_parent_last, over the joints left out
        way_m, rest_m = np.zeros((1, 3)), np.zeros(3)
        for i in (*above, joint):
            way_m = way_m + (turn @ motion.offsets_m[i])
            rest_m = rest_m + motion.offsets_m[i]
            turn = turn @ motion.joint_rotations[:, i]
        if k == 0:
            root_position_m = root_position_m + way_m
        else:
            parents[k], offsets_m[k] = row[motion.parents[(*above, joint)[0]]], rest_m
            if above and min(np.linalg.norm(rest_m), np.linalg.norm(way_m, axis=-1).min()) > 0:
                unit, ways = rest_m / np.linalg.norm(rest_m), way_m / np.linalg.norm(way_m, axis=-1, keepdims=True)
                bend = kinematics.smallest_rotation(unit, ways)
                rotations[:, parents[k]] = rotations[:, parents[k]] @ bend
                turn = np.swapaxes(bend, -1, -2) @ turn
        rotations[:, k] = turn
    return dataclasses.replace(
        motion,
        names=tuple(names[joint] for joint in joints),
        parents=tuple(parents),
        offsets_m=offsets_m,
        tips_m=motion.tips_m[joints],
        root_position_m=root_position_m,
        joint_rotations=rotations,
    )


def turned(motion: ArticulatedMotion, world: np.ndarray, axes: np.ndarray) -> ArticulatedMotion:
    """Returns the motion in a world turned by `world` (3, 3), with each joint's axes turned in the rest pose.

    Args:
      motion: of N joints.
      world: R_new_old of the world.
      axes: (N, 3, 3) R_new_old of each joint's axes: all the same turn the rest pose as a whole, others bend it.
    """
    above = axes[np.maximum(motion.parents, 0)]
    rotations = above @ motion.joint_rotations @ np.swapaxes(axes, -1, -2)
    rotations[:, 0] = world @ motion.joint_rotations[:, 0] @ axes[0].T
    return dataclasses.replace(
        motion,
        offsets_m=(above @ motion.offsets_m[..., None])[..., 0],
        tips_m=(axes @ motion.tips_m[..., None])[..., 0],
        root_position_m=motion.root_position_m @ world.T,
        joint_rotations=rotations,
    )


def resampled(motion: ArticulatedMotion, fps: float) -> ArticulatedMotion:
    """Returns the motion at `fps` frames a second, from its first frame on.

    Between two frames positions are interpolated linearly and rotations at constant angular velocity; where the rate of
    the motion is a whole multiple of `fps`, the result is every k-th frame. Nothing is filtered (our choice).
    """
    last = motion.num_frames - 1
    place = np.arange(int(last * fps / motion.fps + 1e-6) + 1) * (motion.fps / fps)  # in frames of the motion
    before = np.minimum(place.astype(int), last)
    after, share = np.minimum(before + 1, last), place - before
    start_m = motion.root_position_m[before]
    # Rotation takes a flat list of rotations; every joint of a frame turns by the same share of its own way.
    shape = (len(place), *motion.joint_rotations.shape[1:])
    start, end = (Rotation.from_matrix(motion.joint_rotations[i].reshape(-1, 3, 3)) for i in (before, after))
    turn = Rotation.from_rotvec(np.repeat(share, shape[1])[:, None] * (start.inv() * end).as_rotvec())
    return dataclasses.replace(
        motion,
        fps=fps,
        root_position_m=start_m + share[:, None] * (motion.root_position_m[after] - start_m),
        joint_rotations=(start * turn).as_matrix().reshape(shape),
    )


def _left_out_above(motion: ArticulatedMotion, joint: int, kept: Mapping[int, int]) -> list[int]:
    """Returns the joints between `joint` and the next one above it that is kept, or the root; from above to below."""
    path: list[int] = []
    while (joint := motion.parents[joint]) >= 0 and joint not in kept:
        path.insert(0, joint)
    return path
