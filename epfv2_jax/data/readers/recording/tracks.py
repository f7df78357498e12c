"""What moves in a recording, at its own rate and brought to the times of frames: the poses of the body, and joints."""

import dataclasses
import pathlib
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.readers.recording.tables import read_table

#: How far a frame may lie before the first row, or after the last: nanoseconds.
MAX_BEYOND_NS = 5_000_000
# Between a known and an unknown row, a joint is known this near to the known one.
_SAME_NS = 1_000_000

_ASL = ("timestamp", 1, ("p_RS_R_x", "p_RS_R_y", "p_RS_R_z"), ("q_RS_w", "q_RS_x", "q_RS_y", "q_RS_z"))
_WORDS = ("timestamp", "tx", "ty", "tz", "qx", "qy", "qz", "qw")
# File in a sequence -> stamp and its unit in nanoseconds, position, and quaternion in the order w, x, y, z.
_POSES = {
    "gt/data.csv": _ASL,
    "state_groundtruth_estimate0/data.csv": _ASL,
    "mocap0/data.csv": _ASL,
    "gt.tum": ("timestamp", 10**9, _WORDS[1:4], ("qw", "qx", "qy", "qz")),
    "closed_loop_trajectory.csv": (
        "tracking_timestamp_us",
        1000,
        ("tx_world_device", "ty_world_device", "tz_world_device"),
        ("qw_world_device", "qx_world_device", "qy_world_device", "qz_world_device"),
    ),
}
_JOINTS, _JOINTS_SENSOR = "joints0/data.csv", "joints0/sensor.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PoseTrack:
    """Poses of the body in the recording's world, as stored."""

    path: pathlib.Path
    stamps_ns: np.ndarray  # (n,) int64
    positions_m: np.ndarray  # (n, 3)
    quaternions: np.ndarray  # (n, 4) w, x, y, z

    def at(self, stamps_ns: np.ndarray) -> np.ndarray:
        """Returns T_world_body (k, 4, 4) float64 at times (k,): slerp and lerp between rows, constant beyond."""
        before, after, share = _neighbours(self.stamps_ns, stamps_ns)
        T = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        rotations = Rotation.from_quat(self.quaternions, scalar_first=True)
        if len(self.stamps_ns) > 1:  # Slerp takes at least two
            seconds = (self.stamps_ns - self.stamps_ns[0]) / 1e9
            at_s = np.clip((stamps_ns - self.stamps_ns[0]) / 1e9, 0, seconds[-1])
            T[:, :3, :3] = Slerp(seconds, rotations)(at_s).as_matrix()
        else:
            T[:, :3, :3] = rotations.as_matrix()
        T[:, :3, 3] = _lerp(self.positions_m[before], self.positions_m[after], share)
        return T


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointSensor:
    """The content of joints0/sensor.yaml."""

    sensor_type: Literal["joints"]
    frame: Literal["world", "headset"]
    unit: Literal["m"]
    names: tuple[str, ...]
    rate_hz: float | None = None
    comment: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JointTrack:
    """Joints of the wearer."""

    path: pathlib.Path
    sensor: JointSensor
    stamps_ns: np.ndarray  # (n,) int64
    positions_m: np.ndarray  # (n, names, 3) float64, NaN where not known

    def at(self, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns joints (k, names, 3) at times (k,), between rows by lerp, and whether each is known (k, names)."""
        before, after, share = _neighbours(self.stamps_ns, stamps_ns)
        one, other = self.positions_m[before], self.positions_m[after]
        known, known_other = np.isfinite(one).all(-1), np.isfinite(other).all(-1)
        at_one = np.abs(stamps_ns - self.stamps_ns[before]) <= _SAME_NS
        at_other = np.abs(stamps_ns - self.stamps_ns[after]) <= _SAME_NS
        one = np.where(known[..., None], one, other)
        other = np.where(known_other[..., None], other, one)
        valid = (known & known_other) | (known & at_one[:, None]) | (known_other & at_other[:, None])
        return np.where(valid[..., None], _lerp(one, other, share), 0.0), valid


def distance_ns(rows_ns: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """Returns how far each time (k,) is from the nearest row (n,); beyond `MAX_BEYOND_NS` of the ends, the most."""
    nearest = rows_ns[nearest_rows(rows_ns, stamps_ns)]
    beyond = np.maximum(rows_ns[0] - stamps_ns, stamps_ns - rows_ns[-1])
    return np.where(beyond > MAX_BEYOND_NS, np.iinfo(np.int64).max, np.abs(nearest - stamps_ns))


def nearest_rows(rows_ns: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """Returns the index of the nearest of increasing times (n,) for each time (k,)."""
    before, after, share = _neighbours(rows_ns, stamps_ns)
    return np.where(share > 0.5, after, before)


def read_poses(folder: pathlib.Path) -> PoseTrack:
    """Returns the poses in the first file of `_POSES` that a sequence has.

    Raises:
      ValueError: it has none, or the file is damaged.
    """
    found = [name for name in _POSES if (folder / name).is_file()]
    checks.not_empty(f"{folder}: files of poses", found, f"give one of {', '.join(_POSES)}")
    path = folder / found[0]
    stamp, ns_per_unit, position, quaternion = _POSES[found[0]]
    table = read_table(path, _WORDS if path.suffix == ".tum" else None)
    return PoseTrack(
        path=path,
        stamps_ns=table.stamps_ns(table.column(stamp), ns_per_unit),
        positions_m=table.numbers([table.column(name) for name in position], "m"),
        quaternions=table.numbers([table.column(name) for name in quaternion], ""),
    )


def read_joints(folder: pathlib.Path) -> JointTrack | None:
    """Returns the joints of a sequence; None where it has no joints0.

    Raises:
      ValueError: a file of joints0 is missing or damaged.
    """
    path, sensor_path = folder / _JOINTS, folder / _JOINTS_SENSOR
    if not path.parent.exists():
        return None
    content = files.read_yaml(sensor_path, "describe the joints there")
    with checks.naming(f"{sensor_path}"):
        sensor = config_lib.from_mapping(JointSensor, content, "")
    table = read_table(path)
    columns = [table.column(f"{name}_{axis}") for name in sensor.names for axis in "xyz"]
    values = table.numbers(columns, "m", may_be_empty=True)
    return JointTrack(
        path=path,
        sensor=sensor,
        stamps_ns=table.stamps_ns(table.column("timestamp"), 1),
        positions_m=values.reshape(len(values), -1, 3),
    )


def _neighbours(rows_ns: np.ndarray, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows before and after each time, and how far it is from the first to the second, in [0, 1]."""
    after = np.clip(np.searchsorted(rows_ns, stamps_ns), 0, len(rows_ns) - 1)
    before = np.maximum(after - (rows_ns[after] > stamps_ns), 0)
    gap_ns = np.maximum(rows_ns[after] - rows_ns[before], 1)
    return before, after, np.clip((stamps_ns - rows_ns[before]) / gap_ns, 0.0, 1.0)


def _lerp(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share.reshape(-1, *([1] * (one.ndim - 1)))
    return one * (1 - share) + other * share
