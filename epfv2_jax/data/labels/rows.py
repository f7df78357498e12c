"""The format of label rows: one `LabelRun` for each image record, one row for each frame.

Floats are float32. A rotation is stored as the first two columns of its matrix, a scale matrix as the lower triangle of
its Cholesky factor. A row of 26 joints with body parameters and uncertainty takes 1701 bytes. The hashes of plan and
teacher are stored once in each label record, which covers about 64 rows.
"""

import dataclasses
import enum
from typing import Any

import numpy as np
from flax import serialization

from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.records import MAX_POSITION_M

FORMAT_VERSION = 1
REMEDY = "delete the file and run the label pass again"

_TRIL = np.tril_indices(3)


class Status(enum.IntEnum):
    """The condition of a frame; the highest value applies. Every row that is not OK is quarantined."""

    OK = 0
    MISSING_VIEW = 1  # a view has no image; the row is labelled from the others
    BAD_IMAGE = 2  # the image of a view cannot be decoded; the row is labelled from the others
    # The headset pose is no finite rigid transform, or the prediction is not finite, or either goes beyond
    # `MAX_POSITION_M`; the row is zeros.
    NON_FINITE = 3
    BAD_RECORD = 4  # the record cannot be read; the row is zeros


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelRun:
    """The labels of one record: n rows, J joints, headset frame, metres, as in `structs.Predictions`.

    All numbers are finite and no larger than `MAX_POSITION_M`, as in records.
    """

    plan_sha256: str
    teacher_sha256: str
    record: int  # index of the image record
    sequence: str
    split: str
    frame_index: np.ndarray  # (n,) int32
    status: np.ndarray  # (n,) uint8, values of Status
    joints_headset_m: np.ndarray  # (n, J, 3) float32
    cholesky6_m: np.ndarray | None  # (n, J, 6) float32 lower triangle of L, row by row; None without uncertainty
    root_rotation6: np.ndarray | None  # (n, 6) float32; None, like the three below, without a body model
    root_position_m: np.ndarray | None  # (n, 3) float32
    joint_rotations6: np.ndarray | None  # (n, J, 6) float32
    bone_scales: np.ndarray | None  # (n, J) float32

    def __post_init__(self):
        where = f"labels of {self.sequence}"
        checks.array(f"{where}: frame_index", self.frame_index, (None,), np.int32)
        n = self.num_frames
        checks.array(f"{where}: status", self.status, (n,), np.uint8)
        checks.array(f"{where}: joints_headset_m", self.joints_headset_m, (n, None, 3), np.float32)
        for name, shape in row_shapes(self.joints_headset_m.shape[1], n).items():
            if getattr(self, name) is not None:
                checks.array(f"{where}: {name}", getattr(self, name), shape, np.float32)
        checks.within(0, max(Status), **{f"{where}: status": int(self.status.max(initial=0))})
        for name in row_shapes(0, 0):
            if (rows := getattr(self, name)) is not None:
                largest = float(np.abs(rows).max(initial=0))
                checks.within(0, MAX_POSITION_M, **{f"{where}: {name}, largest value": largest})

    @property
    def num_frames(self) -> int:
        """n."""
        return len(self.frame_index)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool: the rows that are not quarantined."""
        return self.status == Status.OK

    @property
    def cholesky_m(self) -> np.ndarray | None:
        """(n, J, 3, 3) float32 lower-triangular L of the scale matrix L L^T; zero where there is no label."""
        if self.cholesky6_m is None:
            return None
        out = np.zeros((*self.cholesky6_m.shape[:2], 3, 3), np.float32)
        out[..., _TRIL[0], _TRIL[1]] = self.cholesky6_m
        return out

    @property
    def root_rotation(self) -> np.ndarray | None:
        """(n, 3, 3) float32 R_headset_root."""
        return None if self.root_rotation6 is None else _matrix(self.root_rotation6)

    @property
    def joint_rotations(self) -> np.ndarray | None:
        """(n, J, 3, 3) float32 R_parent_joint."""
        return None if self.joint_rotations6 is None else _matrix(self.joint_rotations6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRow:
    """Why a row is quarantined."""

    record: int
    frame: int  # its frame_index
    status: str  # name of the Status, lower case
    reason: str


def row_shapes(num_joints: int, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each float32 array of a LabelRun by name."""
    n, J = num_rows, num_joints
    return {
        "joints_headset_m": (n, J, 3),
        "cholesky6_m": (n, J, 6),
        "root_rotation6": (n, 6),
        "root_position_m": (n, 3),
        "joint_rotations6": (n, J, 6),
        "bone_scales": (n, J),
    }


#: Names of the float32 arrays of a LabelRun.
ROW_ARRAYS: tuple[str, ...] = tuple(row_shapes(0, 0))


def encode(run: LabelRun) -> bytes:
    """Returns the bytes of a label record: msgpack of plain arrays, no pickle."""
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return serialization.msgpack_serialize({"version": FORMAT_VERSION, **fields})


def decode(data: bytes) -> LabelRun:
    """Returns the run that `encode` wrote.

    Raises:
      ValueError: the bytes are not a label record or are of another format version, or a field is missing, unknown or
        ill-shaped.
    """
    with checks.naming("labels", remedy=REMEDY):
        return config_lib.from_mapping(LabelRun, restore(data), "")


def restore(data: bytes) -> dict[str, Any]:
    """Returns the fields of an entry of a unit's file.

    Raises:
      ValueError: the bytes are not msgpack, or are of another format version.
    """
    # Exception: msgpack raises its own classes.
    with checks.naming(f"{len(data)} bytes are not a label record", Exception):
        fields = serialization.msgpack_restore(data)
    if not isinstance(fields, dict) or fields.get("version") != FORMAT_VERSION:
        raise ValueError(f"not of version {FORMAT_VERSION}, which this code reads")
    return {k: v for k, v in fields.items() if k != "version"}


def _matrix(rotation6: np.ndarray) -> np.ndarray:
    """Returns rotations (..., 3, 3) from their first two columns (..., 6)."""
    x, y = rotation6[..., :3], rotation6[..., 3:]
    return np.stack([x, y, np.cross(x, y)], axis=-1)
