"""Skeletons of Aria Digital Twin: which one wears the glasses, and its joints over time."""

import os
import pathlib
from typing import Any

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.core.findings import Finding
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.data.records import MAX_POSITION_M

_FINGERS = tuple(f"{finger}{i}" for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky") for i in (1, 2, 3))


def _arm(side: str) -> tuple[str, ...]:
    return tuple(f"{side}{part}" for part in ("Shoulder", "UArm", "FArm", "Hand", *_FINGERS))


def _leg(side: str) -> tuple[str, ...]:
    return tuple(f"{side}{part}" for part in ("Thigh", "Shin", "Foot", "Toe"))


#: The 51 joints, in the order of the files.
LABELS: tuple[str, ...] = ("Skeleton", "Ab", "Chest", "Neck", "Head", *_arm("L"), *_arm("R"), *_leg("L"), *_leg("R"))
_SIDE = {
    "arm": "UArm",
    "forearm": "FArm",
    "wrist": "Hand",
    "upleg": "Thigh",
    "leg": "Shin",
    "talocrural": "Foot",
    "foot_twist": "Foot",
}
#: Joint of EgoBody3M -> the label of the same point. Head, neck, shoulders, spine and toes are other points.
JOINTS: dict[str, str] = {f"b_{s}_{ours}": s.upper() + theirs for s in "lr" for ours, theirs in _SIDE.items()}

_REMEDY = "download it again"
_SENSOR = tracks.JointSensor(sensor_type="joints", frame="world", unit="m", names=LABELS)


def skeleton_of(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of the skeleton that wears the glasses of a sequence.

    Raises:
      ValueError: metadata.json or skeleton_aria_association.json is damaged, or no skeleton wears them.
    """
    metadata = folder / "metadata.json"
    content = files.read_json(metadata, _REMEDY, max_bytes=1_000_000)
    with checks.naming(os.fspath(metadata), remedy=_REMEDY):
        serial = _field(content, "serial", str)
    path = folder / "skeleton_aria_association.json"
    content = files.read_json(path, "sequences without a skeleton have no truth", max_bytes=1_000_000)
    with checks.naming(os.fspath(path), remedy=_REMEDY):
        names = {}
        for entry in _field(content, "SkeletonMetadata", list):
            names[_field(entry, "AssociatedDeviceSerial", str)] = _field(entry, "SkeletonName", str)
    with checks.naming(os.fspath(path)):
        checks.one_of(names, **{f"devices with a skeleton, for serial of {metadata}": serial})
        name = names[serial]
        if not name.isidentifier() or not name.startswith("Skeleton"):
            raise ValueError(
                f"SkeletonName is {checks.short(name)}: no skeleton wears these glasses, there is no truth"
            )
        files.check_file(folder / f"{name}.json", _REMEDY)
    return folder / f"{name}.json"


def read_joints(path: pathlib.Path) -> tuple[tracks.JointTrack, Finding]:
    """Returns the joints of a skeleton, and how many of its frames are left out because they are damaged.

    Raises:
      ValueError: the file is missing or no frame of it is readable.
    """
    content = files.read_json(path, _REMEDY)
    with checks.naming(os.fspath(path), remedy=_REMEDY):
        frames = _field(content, "frames", list)
        checks.not_empty("frames", frames, "the file is empty")
        stamps_ns, positions_m, problem, left_out = [], [], "", 0
        for i, frame in enumerate(frames):
            try:
                with checks.naming(f"frames[{i}]"):
                    stamp_ns, joints_m = _frame(frame)
                    if stamps_ns:
                        checks.above(stamps_ns[-1], timestamp_ns=stamp_ns)
            except ValueError as error:
                left_out, problem = left_out + 1, problem or f"{path}: {error}"
            else:
                stamps_ns.append(stamp_ns)
                positions_m.append(joints_m)
        checks.not_empty(f"readable frames of {len(frames)}", stamps_ns, f"the first: {problem}")
    track = tracks.JointTrack(
        path=path, sensor=_SENSOR, stamps_ns=np.array(stamps_ns, np.int64), positions_m=np.stack(positions_m)
    )
    value = f"{left_out} of {len(frames)} frames are damaged"
    return track, Finding(check="skeleton", value=value, limit="none", problem=problem, is_error=False)


def _frame(fields: Any) -> tuple[int, np.ndarray]:
    """Returns the device's time, nanoseconds, and the joints (51, 3) in the scene, metres, of a frame."""
    stamp_ns = _field(fields, "timestamp_ns", int)
    checks.within(0, 2**62, timestamp_ns=stamp_ns)
    joints = _field(fields, "joints", list)
    with checks.naming(f"joints: expected {len(LABELS)} triples of numbers", (ValueError, TypeError)):
        joints_m = np.asarray(joints).astype(np.float64, casting="same_kind").reshape(len(LABELS), 3)
    checks.within(0, MAX_POSITION_M, **{"joints, largest coordinate": float(np.abs(joints_m).max())})  # NaN is not
    return stamp_ns, joints_m


def _field(fields: Any, name: str, kind: type) -> Any:
    checks.instance("content", fields, dict, f"an object with the field {name}")
    value = fields.get(name)
    checks.instance(name, value, kind, kind.__name__)
    return value
