"""The metadata of one frame: JSON in centimetres, checked, in metres."""

import dataclasses
from typing import Any

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data.records import MAX_POSITION_M
from epfv2_jax.geometry import layout, skeleton, transforms

#: Farthest that a joint can be from the headset, metres: our choice.
MAX_JOINT_DISTANCE_M = 5.0

#: Frame time of the release, seconds. It states no times; 30 frames a second are inferred.
FRAME_S = 1 / 30

_J = skeleton.EGOBODY3M.num_joints
_V = layout.EGOBODY3M.num_views


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameMetadata:
    """The JSON of one frame, checked."""

    frame_index: int
    frame_s: float  # time from one frame index to the next
    annotation_level: int  # 0 is the best grade
    T_world_headset: np.ndarray  # (4, 4) float64, metres
    joints_world_m: np.ndarray  # (J, 3) float64
    uvz: np.ndarray  # (V, J, 3) float64: stored pixel column and row, depth in metres; may hold non-finite values

    @property
    def time_s(self) -> float:
        """Seconds from frame 0 of the sequence."""
        return self.frame_index * self.frame_s


def parse_frame(content: bytes, where: str) -> FrameMetadata:
    """Returns the checked metadata of one frame from its JSON; `where` names the file in errors.

    A field `frame_s`, which the release does not have and synthetic data do, gives another frame time than FRAME_S.

    Raises:
      ValueError: naming the file, the field, its value and what is allowed.
    """
    fields = files.parse_json(content, where, "fetch the file again", finite=False)
    checks.instance(where, fields, dict, "a JSON object")
    frame_index = _integer(fields, "frame_index", where)
    level = _integer(fields, "annotation_level", where)
    frame_s = fields.get("frame_s", FRAME_S)
    checks.instance(f"{where}: frame_s", frame_s, (int, float), "seconds from one frame to the next")
    checks.above(0, **{f"{where}: frame_s": frame_s})
    T_world_headset = _array(fields, "world_from_headset_xf_cm", (4, 4), where)
    joints_cm = _array(fields, "joint_positions_world_cm", (_J, 3), where)
    transforms.check_rigid(T_world_headset, f"{where}: world_from_headset_xf_cm")
    headset_m = float(np.abs(T_world_headset[:3, 3]).max()) / 100
    checks.within(0, MAX_POSITION_M, **{f"{where}: world_from_headset_xf_cm, largest coordinate in metres": headset_m})
    with np.errstate(over="ignore"):  # numbers near 1e308
        distance_m = np.linalg.norm(joints_cm - T_world_headset[:3, 3], axis=-1) / 100
    farthest = int(distance_m.argmax())
    name = f"{where}: joint_positions_world_cm[{farthest}], metres from the headset"
    checks.within(0, MAX_JOINT_DISTANCE_M, **{name: float(distance_m[farthest])})
    uvz = [
        _array(fields, f"projected_joint_positions_cam{view}_px", (_J, 3), where, finite=False) for view in range(_V)
    ]
    T_world_headset[:3, 3] /= 100
    return FrameMetadata(
        frame_index=frame_index,
        frame_s=float(frame_s),
        annotation_level=level,
        T_world_headset=T_world_headset,
        joints_world_m=joints_cm / 100,
        uvz=np.stack(uvz) * (1.0, 1.0, 0.01),
    )


def _integer(fields: dict[str, Any], name: str, where: str) -> int:
    value = _field(fields, name, where)
    checks.instance(f"{where}: {name}", value, int, "an integer")
    checks.within(0, 2**31 - 1, **{f"{where}: {name}": value})
    return value


def _array(fields: dict[str, Any], name: str, shape: tuple[int, ...], where: str, finite: bool = True) -> np.ndarray:
    value = _field(fields, name, where)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(value, object)  # rows of different lengths
    checks.array(f"{where}: {name}", array, shape, np.number, "fetch the file again")
    array = array.astype(np.float64)
    if finite and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{where}: {name}{list(index)} is {array[index]}, expected finite numbers")
    return array


def _field(fields: dict[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise ValueError(f"{where}: {name} is missing")
    return fields[name]
