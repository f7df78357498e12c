"""The labels of one frame: JSON in centimetres and Unreal's left-handed world, checked, in metres and ours."""

import dataclasses
import os
from typing import Any

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data.readers.unrealego.body import LAYOUT, UNREALEGO
from epfv2_jax.data.records import MAX_POSITION_M

#: Largest JSON of a frame, bytes: our choice. 72 joints with seven fields each take about 50 kB.
MAX_JSON_BYTES = 1_000_000

_REMEDY = "fetch the file again"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameLabels:
    """The labels of one frame: V = 2 cameras, J = 16 joints."""

    joints_world_m: np.ndarray  # (J, 3) float64, right-handed, y up, the ground at y = 0
    joints_cam_m: np.ndarray  # (V, J, 3) float64, x right, y down, z forward of the stored images
    uv_px: np.ndarray  # (V, J, 2) float64, stored images; may hold any value for what no camera sees


def read_labels(path: str | os.PathLike) -> FrameLabels:
    """Returns the labels in the JSON of one frame.

    Raises:
      ValueError: naming the file, the joint, the field and what is allowed.
    """
    fields = files.read_json(path, _REMEDY, MAX_JSON_BYTES)
    with checks.naming(os.fspath(path)):
        checks.instance("content", fields, dict, "a JSON object")
        ground_cm = _numbers(fields, "ground_z_value", 1)
        joints = _field(fields, "joints")
        checks.instance("joints", joints, dict, "a JSON object")
        found = {name: _field(joints, name, "joints.") for name in UNREALEGO.joint_names}
        for name, joint in found.items():
            checks.instance(f"joints.{name}", joint, dict, "a JSON object")

        def stacked(field: str, size: int) -> np.ndarray:
            return np.stack([_numbers(joint, field, size, f"joints.{name}.") for name, joint in found.items()])

        unreal_cm = stacked("trans", 3) - [0, 0, ground_cm[0]]
        cameras = [f"camera_{side}" for side in LAYOUT.view_names]
        labels = FrameLabels(
            joints_world_m=unreal_cm[:, [0, 2, 1]] / 100,  # exchanging two axes turns left-handed to right-handed
            joints_cam_m=np.stack([stacked(f"{camera}_pts3d", 3) for camera in cameras]) / 100,
            uv_px=np.stack([stacked(f"{camera}_pts2d", 2) for camera in cameras]),
        )
        for name in ("joints_world_m", "joints_cam_m"):
            farthest_m = float(np.abs(getattr(labels, name)).max())
            checks.within(0, MAX_POSITION_M, **{f"{name}: largest coordinate": farthest_m})
    return labels


def _numbers(fields: dict[str, Any], name: str, size: int, prefix: str = "") -> np.ndarray:
    """Returns a field's finite numbers (size,), however they are nested."""
    value = _field(fields, name, prefix)
    with checks.naming(f"{prefix}{name}: expected {size} numbers, got {checks.short(value)}", (ValueError, TypeError)):
        numbers = np.asarray(value).astype(np.float64, casting="same_kind").reshape(size)
    checks.finite(f"{prefix}{name}", numbers, _REMEDY)
    return numbers


def _field(fields: dict[str, Any], name: str, prefix: str = "") -> Any:
    if name not in fields:
        raise ValueError(f"{prefix}{name} is missing; {_REMEDY}")
    return fields[name]
