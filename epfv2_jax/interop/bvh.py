"""Motions as Biovision hierarchies (BVH), which Blender, MotionBuilder, Unreal and Unity read.

A BVH figure has bones of constant length; predicted ones change a little from frame to frame. The figure is fitted to
the joints in the world (`kinematics.fit_body`): bones of the mean length, with the predicted directions. How a bone
turns about itself is taken from the model's body; for models without one it follows from the bone above (our choice).

Lengths are centimetres, y is up, angles are degrees in the order Z, X, Y: R = Rz Rx Ry. In the rest pose all axes are
those of the world.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import TextIO

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks, files
from epfv2_jax.data import records
from epfv2_jax.data.mocap.lines import MAX_JOINT_FRAMES
from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.interop.motion import Motion

#: Of a BVH file's lengths, metres.
UNIT_M = 0.01
_ORDER = "ZXY"
_CHANNELS = " ".join(f"{axis}rotation" for axis in _ORDER)
# Frames, spread evenly over a motion, to which the lengths of the bones are fitted.
_FITTED_FRAMES = 2000
# Length of a bone that has no joint at its end: of a hand, foot or head.
_END_M = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class BvhReport:
    """What was written, and how well the figure fits."""

    num_rows: int  # one for each frame time from the first valid frame to the last
    num_interpolated: int  # rows between which frames were dropped or not valid
    mean_cm: float  # how far the joints moved to become those of a figure with constant bones
    max_cm: float


def write_bvh(path: str | os.PathLike, motion: Motion) -> BvhReport:
    """Writes a motion as a BVH file, whole or not at all.

    Rows are a frame time apart; joints of dropped or invalid frames are interpolated linearly.

    Raises:
      ValueError: no frame is valid, or there are more rows than a reader takes.
    """
    skeleton = motion.about.skeleton
    num_rows, num_known = _count(motion)
    name = f"BVH of {motion.about.sequence}"
    checks.at_least(1, **{f"{name}: frames with a pose": num_known})
    checks.within(0, MAX_JOINT_FRAMES, **{f"{name}: joints times frame times": num_rows * skeleton.num_joints})
    offsets_m = _fit_offsets(motion, num_rows)
    order = depth_first(skeleton.parents)
    total_m, largest_m, before_deg = 0.0, 0.0, None
    with files.publishing(path) as own, own.open("w", encoding="utf-8") as file:
        _write_hierarchy(file, skeleton, offsets_m)
        file.write(f"MOTION\nFrames: {num_rows}\nFrame Time: {motion.about.frame_s:.9f}\n")
        for poses in _even_rows(motion):
            body = kinematics.fit_body(skeleton, poses.joints_m, offsets_m, poses.rotations)
            turns = np.concatenate([body.root_rotation[:, None], body.joint_rotations[:, order]], axis=1)
            angles_deg = _continuous_angles(turns, before_deg)
            before_deg = angles_deg[-1]
            values = np.concatenate([body.root_position_m / UNIT_M, angles_deg.reshape(len(turns), -1)], axis=1)
            np.savetxt(file, np.round(values, 5) + 0.0, fmt="%.5f")  # + 0: no -0
            moved_m = _moved_m(skeleton, body, poses.joints_m)[poses.known]
            total_m, largest_m = total_m + float(moved_m.sum()), max(largest_m, float(moved_m.max(initial=0)))
    return BvhReport(
        num_rows=num_rows,
        num_interpolated=num_rows - num_known,
        mean_cm=100 * total_m / (num_known * skeleton.num_joints),
        max_cm=100 * largest_m,
    )


def depth_first(parents: tuple[int, ...]) -> list[int]:
    """Returns the joints in the order of a hierarchy's text: each before those below it."""
    order, stack = [], [-1]
    while stack:
        joint = stack.pop()
        if joint >= 0:
            order.append(joint)
        stack += [j for j in reversed(range(len(parents))) if parents[j] == joint]
    return order


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Poses:
    """Poses of n rows of the file, in the world."""

    row: np.ndarray  # (n,) increasing
    joints_m: np.ndarray  # (n, J, 3)
    rotations: np.ndarray | None  # (n, J + 1, 3, 3) R_world_joint of the model's body, the root's last
    known: np.ndarray  # (n,) bool, False where the pose is interpolated

    def take(self, index: np.ndarray) -> "_Poses":
        """Returns the poses at these places."""
        return _Poses(**{name: None if value is None else value[index] for name, value in vars(self).items()})


def _joined(parts: list[_Poses]) -> _Poses:
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return _Poses(**({"rotations": None} | joined))


def _predicted_poses(motion: Motion) -> Iterator[_Poses]:
    """Yields the poses of the valid frames."""
    body = [
        name for name in ("T_world_headset", "root_rotation", "joint_rotations") if "root_rotation" in motion.columns
    ]
    before_s, last = None, -1
    for rows in motion.chunks(["frame_valid", "time_s", "joints_world_m", *body]):
        rows = {name: values[rows["frame_valid"]] for name, values in rows.items()}
        time_s = rows["time_s"]
        if not len(time_s):
            continue
        row = last + np.cumsum(records.frame_gaps(time_s, motion.about.frame_s, before_s), dtype=np.int64)
        before_s, last = float(time_s[-1]), int(row[-1])
        yield _Poses(
            row=row,
            joints_m=rows["joints_world_m"].astype(np.float64),
            rotations=_world_rotations(motion.about.skeleton, rows) if body else None,
            known=np.ones(len(row), bool),
        )


def _world_rotations(skeleton: Skeleton, rows: dict[str, np.ndarray]) -> np.ndarray:
    root = rows["T_world_headset"][:, :3, :3].astype(np.float64) @ rows["root_rotation"].astype(np.float64)
    local = rows["joint_rotations"].astype(np.float64)
    still = np.zeros(local.shape[:-1])
    _, rotations = kinematics.forward_kinematics(skeleton.parents, root, still[:, 0], local, still)
    return np.concatenate([rotations, root[:, None]], axis=1)


def _count(motion: Motion) -> tuple[int, int]:
    """Returns the number of rows, and how many of them have a valid frame."""
    num_rows = num_known = 0
    for poses in _predicted_poses(motion):
        num_rows, num_known = int(poses.row[-1]) + 1, num_known + len(poses.row)
    return num_rows, num_known


def _fit_offsets(motion: Motion, num_rows: int) -> np.ndarray:
    """Returns the offsets (J, 3) of the figure, fitted to frames that are spread evenly over the motion."""
    step = -(-num_rows // _FITTED_FRAMES)
    chosen, before = [], -1
    for poses in _predicted_poses(motion):
        spans = poses.row // step
        first = np.diff(spans, prepend=before) > 0
        before = spans[-1]
        chosen.append(poses.take(first))
    poses = _joined(chosen)
    return kinematics.fit_body(motion.about.skeleton, poses.joints_m, like=poses.rotations).offsets_m


def _even_rows(motion: Motion) -> Iterator[_Poses]:
    """Yields the poses of all rows: joints are interpolated linearly between valid frames, rotations stay."""
    before = None
    for poses in _predicted_poses(motion):
        if before is not None:
            poses = _joined([before, poses])
        rows = np.arange(poses.row[0] + (before is not None), poses.row[-1] + 1)
        after = np.searchsorted(poses.row, rows)  # the valid frame at the row, or the next after it
        known = poses.row[after] == rows
        start = np.where(known, after, after - 1)
        share = ((rows - poses.row[start]) / np.where(known, 1, poses.row[after] - poses.row[start]))[:, None, None]
        joints_m = (1 - share) * poses.joints_m[start] + share * poses.joints_m[after]
        yield dataclasses.replace(poses.take(start), row=rows, joints_m=joints_m, known=known)
        before = poses.take(np.array([-1]))


def _moved_m(skeleton: Skeleton, body: kinematics.FittedBody, joints_m: np.ndarray) -> np.ndarray:
    """Returns how far the joints of a body are from observed ones (n, J), metres."""
    fitted_m, _ = kinematics.forward_kinematics(
        skeleton.parents,
        body.root_rotation,
        body.root_position_m,
        body.joint_rotations,
        np.broadcast_to(body.offsets_m, joints_m.shape),
    )
    return np.linalg.norm(fitted_m - joints_m, axis=-1)


def _continuous_angles(turns: np.ndarray, before_deg: np.ndarray | None) -> np.ndarray:
    """Returns angles (n, N, 3), degrees, of rotations (n, N, 3, 3) that go on from `before_deg` without whole turns."""
    angles = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_euler(_ORDER, degrees=True, suppress_warnings=True)
    angles = angles.reshape(*turns.shape[:2], 3)
    if before_deg is None:
        return np.unwrap(angles, axis=0, period=360)
    return np.unwrap(np.concatenate([before_deg[None], angles]), axis=0, period=360)[1:]


def _write_hierarchy(file: TextIO, skeleton: Skeleton, offsets_m: np.ndarray) -> None:
    root = "root"
    while root in skeleton.joint_names:
        root += "_"

    def offset(vector_m: np.ndarray) -> str:
        return "OFFSET " + " ".join(f"{x:.5f}" for x in np.round(vector_m / UNIT_M, 5) + 0.0)

    def write(joint: int, depth: int) -> None:
        indent = "\t" * depth
        name = root if joint < 0 else "_".join(skeleton.joint_names[joint].split())
        channels = f"6 Xposition Yposition Zposition {_CHANNELS}" if joint < 0 else f"3 {_CHANNELS}"
        file.write(f"{indent}{'ROOT' if joint < 0 else 'JOINT'} {name}\n{indent}{{\n")
        file.write(f"{indent}\t{offset(np.zeros(3) if joint < 0 else offsets_m[joint])}\n")
        file.write(f"{indent}\tCHANNELS {channels}\n")
        for child in skeleton.children(joint):
            write(child, depth + 1)
        if joint >= 0 and not skeleton.children(joint):
            length = np.linalg.norm(offsets_m[joint])
            along = offsets_m[joint] / length if length > 0 else np.array([0.0, 1.0, 0.0])
            file.write(f"{indent}\tEnd Site\n{indent}\t{{\n{indent}\t\t{offset(_END_M * along)}\n{indent}\t}}\n")
        file.write(f"{indent}}}\n")

    file.write("HIERARCHY\n")
    write(-1, 0)
