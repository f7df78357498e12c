"""Labels: what a teacher says of records, in files that lie beside them. Label record i belongs to image record i.

A directory of labels is the output of one label pass:

    plan.json                      what is labelled, by which teacher, in which units; its sha256 names the pass
    labels/00000007.arrayrecord    the labels of unit 7: a LabelRun for each of its records, then a footer
    progress/00000007.json         who labelled it, in what time, and how many bad rows there are

A row is a frame. The hashes of plan and teacher are in every label record (some 64 rows) and so said of every row,
without 128 bytes in each. The footer has the digest of the records before it: a file tells by itself whether it is
whole. A row takes 1701 bytes with the parametric body and uncertainty; floats are float32, rotations the first two
columns of the matrix, covariances the lower triangle of their Cholesky factor.
"""

import collections
import contextlib
import dataclasses
import enum
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from array_record.python import array_record_module
from etils import epath
from flax import serialization

from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records as records_lib

FORMAT_VERSION = 1
PLAN_NAME = "plan.json"
UNIT_FOLDER = "labels"

# As in records: each label record is readable on its own. Float32 values hardly compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0"
_MAX_OPEN_UNITS = 256
_TRIL = np.tril_indices(3)


class Status(enum.IntEnum):
    """What became of a frame. The worst applies; everything but OK is quarantined."""

    OK = 0
    MISSING_VIEW = 1  # a view has no image: labelled from the others
    BAD_IMAGE = 2  # the image of a view cannot be decoded: labelled from the others
    NON_FINITE = 3  # the headset's pose is no finite rigid transform, or the teacher's answer not finite: zeros
    BAD_RECORD = 4  # the record cannot be read: zeros


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelRun:
    """The labels of one record: n rows, J joints, headset frame, metres; as in `structs.Predictions`."""

    plan_sha256: str
    teacher_sha256: str
    record: int  # index of the image record
    sequence: str
    split: str
    frame_index: np.ndarray  # (n,) int32
    status: np.ndarray  # (n,) uint8, values of Status
    joints_headset_m: np.ndarray  # (n, J, 3) float32
    cholesky6_m: np.ndarray | None  # (n, J, 6) float32 lower triangle of L, row by row; None without uncertainty
    root_rotation6: np.ndarray | None  # (n, 6) float32; this and the next are None for the keypoint body
    root_position_m: np.ndarray | None  # (n, 3) float32
    joint_rotations6: np.ndarray | None  # (n, J, 6) float32
    bone_scales: np.ndarray | None  # (n, J) float32

    def __post_init__(self):
        n = len(self.frame_index) if isinstance(self.frame_index, np.ndarray) else -1
        joints = self.joints_headset_m
        J = joints.shape[1] if isinstance(joints, np.ndarray) and joints.ndim == 3 else -1
        for name, dtype, shape in (
            ("frame_index", np.int32, (n,)),
            ("status", np.uint8, (n,)),
            *((name, np.float32, shape) for name, shape in row_shapes(J, n).items()),
        ):
            value = getattr(self, name)
            if value is None and name not in ("frame_index", "status", "joints_headset_m"):
                continue
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
                found = f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
                raise ValueError(f"labels of {self.sequence}: {name} must be {shape} {np.dtype(dtype)}, got {found}")
        if np.any(self.status > max(Status)):
            raise ValueError(f"labels of {self.sequence}: unknown status {self.status.max()}")

    @property
    def num_frames(self) -> int:
        return len(self.frame_index)

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool: the rows that nothing is wrong with."""
        return self.status == Status.OK

    @property
    def cholesky_m(self) -> np.ndarray | None:
        """(n, J, 3, 3) float32 lower-triangular L of the covariance L L^T; zero where there is no label."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRow:
    """Why a row is quarantined."""

    record: int
    frame: int  # its frame_index
    status: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footer:
    """The last entry of a unit's file: what is before it."""

    version: int = FORMAT_VERSION
    plan_sha256: str
    unit: int
    num_rows: int
    counts: tuple[int, ...]  # rows by Status
    sha256: str  # of the label records' digests
    bad_rows: tuple[BadRow, ...]  # the first of them


def encode(run: LabelRun) -> bytes:
    """Returns the bytes of a label record (msgpack with plain arrays; no pickle)."""
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return serialization.msgpack_serialize({"version": FORMAT_VERSION, **fields})


def decode(data: bytes) -> LabelRun:
    """Returns the run that `encode` wrote.

    Raises:
      ValueError: the bytes are no label record or of another format version, or a field is missing, unknown or
        ill-shaped.
    """
    fields = _restore(data)
    expected = {f.name for f in dataclasses.fields(LabelRun)}
    if set(fields) != expected:
        raise ValueError(f"labels: missing or unknown fields {sorted(set(fields) ^ expected)}; label again")
    return LabelRun(**fields)


def write_unit(path: str | os.PathLike, unit: int, runs: Iterable[LabelRun], bad_rows: Iterable[BadRow]) -> Footer:
    """Returns the footer of the file that is written at `path` for a unit and read back.

    The bytes depend on the arguments only. This writes in place: the caller gives a temporary name and then publishes.

    Raises:
      ValueError: there are no runs.
      OSError: the file cannot be written whole, or does not read back as written; nothing is left at `path`.
    """
    path = pathlib.Path(path)
    counts, num_rows, digests = np.zeros(len(Status), np.int64), 0, []
    try:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
        try:
            for run in runs:
                data = encode(run)
                writer.write(data)
                digests.append(hashlib.sha256(data).digest())
                counts += np.bincount(run.status, minlength=len(Status))
                num_rows += run.num_frames
            if not digests:
                raise ValueError(f"{path}: a unit needs at least one record")
            footer = Footer(
                plan_sha256=run.plan_sha256,
                unit=unit,
                num_rows=num_rows,
                counts=tuple(counts.tolist()),
                sha256=hashlib.sha256(b"".join(digests)).hexdigest(),
                bad_rows=tuple(bad_rows),
            )
            writer.write(serialization.msgpack_serialize(config_lib.to_mapping(footer)))
        finally:
            writer.close()
        with UnitReader(path, len(digests)) as reader:
            if reader.footer != footer or reader.sha256() != footer.sha256:
                raise OSError("what was read back differs from what was written")
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError, ValueError) as error:  # the writer's own error is a RuntimeError
        path.unlink(missing_ok=True)
        if isinstance(error, ValueError) and not digests:
            raise
        raise OSError(f"unit {unit}: {path} could not be written ({error}); is the disk full?") from error
    return footer


class UnitReader:
    """The published file of one unit. Threads may share it."""

    def __init__(self, path: str | os.PathLike, num_records: int):
        """Opens the file of a unit that was planned with `num_records` records.

        Raises:
          ValueError: the file is empty, cut, or has another number of records.
        """
        self.path = pathlib.Path(path)
        self.num_records = num_records
        try:
            self._reader = array_record_module.ArrayRecordReader(os.fspath(path), _READER_OPTIONS)
        except RuntimeError as error:
            raise ValueError(f"{path}: {error}; delete it and run the label pass again") from error
        found = self._reader.num_records()  # 0 of a file that is no ArrayRecord
        if found != num_records + 1:
            self.close()
            raise ValueError(
                f"{path}: {found} entries in {self.path.stat().st_size} bytes, expected {num_records} label records "
                "and a footer: half-written or cut in a copy; delete it and run the label pass again"
            )
        self.footer = self._read_footer()

    def __getitem__(self, index: int) -> LabelRun:
        try:
            return decode(self._read(index))
        except ValueError as error:
            raise ValueError(f"{self.path}: label record {index}: {error}") from error

    def sha256(self) -> str:
        """Returns the digest that the footer should have."""
        digests = (hashlib.sha256(self._read(i)).digest() for i in range(self.num_records))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(RuntimeError):  # repeats what was wrong with the file
            self._reader.close()

    def __enter__(self) -> "UnitReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, index: int) -> bytes:
        try:
            return self._reader.read([index])[0]
        except RuntimeError as error:
            raise ValueError(
                f"{self.path}: entry {index} is damaged ({error}); delete the file and run again"
            ) from error

    def _read_footer(self) -> Footer:
        fields = _restore(self._read(self.num_records))
        return config_lib.from_mapping(Footer, fields, path=f"{self.path}: footer")


class Labels:
    """The labels of a pass: `labels[i]` is the LabelRun of image record i. Threads may share it; it can be pickled."""

    def __init__(self, directory: str | os.PathLike):
        """Opens `directory`; use `open_labels`."""
        if "://" in os.fspath(directory):
            raise ValueError(f"{directory}: labels are read from a disk; copy the directory there first")
        self.directory = pathlib.Path(directory)
        data = read_plan_bytes(self.directory)
        self.plan_sha256 = hashlib.sha256(data).hexdigest()
        plan = json.loads(data)
        self.manifest_sha256: str = plan["records"]["manifest_sha256"]
        self.teacher_sha256: str = plan["teacher"]["sha256"]
        #: Whether the teacher says how sure it is.
        self.with_uncertainty: bool = plan["teacher"]["model"]["uncertainty"]
        #: (U + 1,) first record of each unit, and the number of records.
        self.bounds = np.array([0, *(stop for _, stop, _ in plan["units"])], np.int64)
        self._restart()

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, index: int) -> LabelRun:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.directory}: label record {index} of {len(self)}")
        unit = int(np.searchsorted(self.bounds, index, side="right")) - 1
        run = self.unit(unit)[index - int(self.bounds[unit])]
        if run.record != index or run.plan_sha256 != self.plan_sha256:
            raise ValueError(f"{self.directory}: unit {unit} is not of this pass; delete its file and run again")
        return run

    @property
    def num_units(self) -> int:
        return len(self.bounds) - 1

    def unit(self, unit: int) -> UnitReader:
        """Returns the open file of a unit."""
        with self._lock:
            if unit in self._open:
                self._open.move_to_end(unit)
                return self._open[unit]
            size = int(self.bounds[unit + 1] - self.bounds[unit])
            self._open[unit] = reader = UnitReader(self.directory / UNIT_FOLDER / unit_file(unit), size)
            # One that is left out is closed when the last thread that reads from it lets go of it.
            if len(self._open) > _MAX_OPEN_UNITS:
                self._open.popitem(last=False)
            return reader

    def _restart(self) -> None:
        self._open: collections.OrderedDict[int, UnitReader] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._restart()


def open_labels(directory: str | os.PathLike, records: records_lib.Records | None = None) -> Labels:
    """Returns the labels of a finished pass in a local directory; those of `records`, if given.

    Raises:
      ValueError: there is no plan, a unit is not labelled yet, or the labels are of other records.
    """
    labels = Labels(directory)
    there = published_units(labels.directory, labels.num_units)
    missing = [unit for unit in range(labels.num_units) if unit not in there]
    if missing:
        raise ValueError(
            f"{directory}: {len(missing)} of {labels.num_units} units are not labelled, the first is {missing[0]}; run "
            "the label pass again, it goes on where it stopped"
        )
    if records is not None:
        found = hashlib.sha256((records.directory / records_lib.MANIFEST_NAME).read_bytes()).hexdigest()
        if found != labels.manifest_sha256:
            raise ValueError(
                f"{directory}: the labels are not of {records.directory} (manifest {found[:12]}, labelled was "
                f"{labels.manifest_sha256[:12]}); label these records"
            )
    return labels


def read_plan_bytes(directory: str | os.PathLike) -> bytes:
    """Returns the content of plan.json; its sha256 is the identity of the pass.

    Raises:
      ValueError: there is none.
    """
    path = epath.Path(directory) / PLAN_NAME
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{directory}: no {PLAN_NAME}; this is no label pass: plan one") from None


def unit_file(unit: int) -> str:
    """Returns the file name of a unit."""
    return f"{unit:08d}{records_lib.SHARD_SUFFIX}"


def published_units(directory: str | os.PathLike, num_units: int) -> set[int]:
    """Returns those of units 0 ... `num_units` - 1 that have a file, by listing their folder once."""
    folder = epath.Path(directory) / UNIT_FOLDER
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {unit for unit in range(num_units) if unit_file(unit) in names}


def export_parquet(path: str | os.PathLike, runs: Iterable[LabelRun]) -> int:
    """Returns the number of rows of the Parquet file that is written at `path`, one row a frame, columns by name.

    Arrays are lists of fixed size in row-major order; hashes are in the schema's metadata. Needs pyarrow.
    """
    import pyarrow
    import pyarrow.parquet

    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    rows = 0

    def column(values: np.ndarray | None, n: int) -> Any:
        if values is None:
            return pyarrow.nulls(n)
        flat = values.reshape(n, -1)
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.ravel()), flat.shape[1])

    writer = None
    try:
        for run in runs:
            n = run.num_frames
            columns = {
                "record": pyarrow.array(np.full(n, run.record, np.int64)),
                "sequence": pyarrow.array([run.sequence] * n, pyarrow.string()),
                "split": pyarrow.array([run.split] * n, pyarrow.string()),
                "frame_index": pyarrow.array(run.frame_index),
                "status": pyarrow.array([Status(s).name.lower() for s in run.status], pyarrow.string()),
                **{name: column(getattr(run, name), n) for name in row_shapes(0, 0)},
            }
            table = pyarrow.table(columns)
            if writer is None:
                hashes = {"plan_sha256": run.plan_sha256, "teacher_sha256": run.teacher_sha256}
                writer = pyarrow.parquet.ParquetWriter(temporary, table.schema.with_metadata(hashes))
            writer.write_table(table)
            rows += n
    finally:
        if writer is not None:
            writer.close()
    os.replace(temporary, path)
    return rows


def iterate(reader: UnitReader) -> Iterator[LabelRun]:
    """Returns the runs of a unit in order."""
    return (reader[i] for i in range(reader.num_records))


def _restore(data: bytes) -> dict[str, Any]:
    try:
        fields = serialization.msgpack_restore(data)
    except Exception as error:  # msgpack raises its own family of exceptions, ValueError and TypeError
        raise ValueError(f"labels: {len(data)} bytes are no label record ({error}); label again") from error
    if not isinstance(fields, dict) or fields.get("version") != FORMAT_VERSION:
        raise ValueError(f"labels: not of version {FORMAT_VERSION}, which this code reads; label again")
    return {k: v for k, v in fields.items() if k != "version"}


def _matrix(rotation6: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) from their first two columns (..., 6)."""
    x, y = rotation6[..., :3], rotation6[..., 3:]
    return np.stack([x, y, np.cross(x, y)], axis=-1)
