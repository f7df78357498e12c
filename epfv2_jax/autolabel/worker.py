"""The work of a label pass: units in, published files out, with reading, decoding and writing beside the compute.

Labelling a unit is a function of the plan and of nothing else: which frames meet in a batch is decided by
`plan.schedule`, every stream starts with an empty slot, padding is masked, and all batches of a pass have one shape, so
there is one compilation. Done again, also by another process, it gives the same bytes (on the same number and kind of
devices, with the same libraries).

Three stages, each a thread, joined by short queues: read records and decode images (a pool of threads); run the
teacher (batches are dispatched ahead of their results); gather rows, write and publish. The stages run on from unit to
unit.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import queue
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from array_record.python import array_record_module
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import epfv2_jax
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.data import images as images_lib
from epfv2_jax.data import records
from epfv2_jax.data.labels import labels
from epfv2_jax.data.labels.labels import Status
from epfv2_jax.geometry import cameras, rotations, transforms
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.structs import Frames, Predictions, Rig

PROGRESS_FOLDER = "progress"
_TEMPORARY_FOLDER = "tmp"
_MAX_LISTED_ROWS = 1000
_AHEAD = 2  # batches between two stages
_MAX_OPEN_SHARDS = 16
# What a record that is damaged, or not of this kind, makes reading raise.
_UNUSABLE = (ValueError, TypeError, AttributeError, IndexError, RuntimeError)
# How file systems say that they have no hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitReport:
    """What became of a unit."""

    unit: int
    num_frames: int
    counts: tuple[int, ...]  # rows by Status; all zero where another process was first
    published: bool  # False where another process was first

    @classmethod
    def of_another(cls, unit: int, num_frames: int) -> "UnitReport":
        """The report on a unit that another process has published."""
        return cls(unit=unit, num_frames=num_frames, counts=(0,) * len(Status), published=False)


def slot_shardings(devices: Sequence[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    """Returns where what has slots lies, split over the devices, and where the variables do, whole on each."""
    mesh = jax.make_mesh((len(devices),), ("slots",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("slots")), NamedSharding(mesh, PartitionSpec())


def compile_step(model: epfv2.EPFv2) -> jax.stages.Wrapped:
    """Returns step(variables, frames, state, restart (B,) bool) -> (rows by name, state); uses up the state given."""
    return jax.jit(functools.partial(_step, model), donate_argnums=2)


class Labeller:
    """The teacher, compiled, and where it reads and writes: a worker for `core.engines`."""

    def __init__(self, out_dir: str | os.PathLike, records_dir: str | os.PathLike, teacher_dir: str | os.PathLike):
        """Opens the pass in `out_dir` after checking that records and teacher are those of its plan.

        Raises:
          ValueError: they are not (by name, what was planned and what was found), or the devices do not divide the
            slots.
        """
        self.plan = plan_lib.read_plan(out_dir)
        self.out_dir = epath.Path(out_dir)
        self.records_dir = pathlib.Path(records_dir)
        self._entries = check_records(self.plan, records_dir)
        self.model, variables = load_teacher(self.plan, teacher_dir)
        self._shard_starts = np.cumsum([0, *(shard.num_records for shard in self.plan.records.shards)])
        self._checked: dict[int, tuple[int, ...]] = {}
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        for folder in (labels.UNIT_FOLDER, PROGRESS_FOLDER):
            (self.out_dir / folder).mkdir(parents=True, exist_ok=True)
        if plan_lib.is_remote(self.out_dir):
            self._local_disk = tempfile.TemporaryDirectory(prefix="epfv2_labels_")
            self._temporary_dir = pathlib.Path(self._local_disk.name)
        else:
            self._temporary_dir = _temporary_dir(pathlib.Path(self.out_dir))

        devices = jax.local_devices()
        slots = self.plan.config.slots
        if slots % len(devices):
            raise ValueError(
                f"{len(devices)} devices do not divide the plan's {slots} slots; plan with a multiple, or show this "
                "process fewer devices"
            )
        self._by_slot, whole = slot_shardings(devices)
        self.variables = jax.device_put(variables, whole)
        self.step = compile_step(self.model)

    def __call__(self, units: Iterable[int]) -> Iterator[UnitReport]:
        """Returns reports of the units as they are published.

        Raises:
          ValueError: a shard is not the one that was planned.
          OSError: a file could not be written; nothing of its unit is published.
        """
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            batches = _ahead(self._batches(units, pool), _AHEAD)
            results = _ahead(self._computed(batches), _AHEAD)
            try:
                yield from self._written(results)
            finally:
                results.close()

    def batches(self, units: Iterable[int]) -> Iterator[tuple[Frames, np.ndarray]]:
        """Returns what the teacher sees of the units: (frames, restart) as numpy arrays, for measurements."""
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for batch in self._batches(units, pool):
                batch.wait()
                yield batch.frames, batch.restart

    def initial_state(self) -> epfv2.StreamState:
        """Returns the state of streams that have seen nothing, on the devices."""
        state = epfv2.initial_state(self.model.config, self.plan.config.slots)
        # The layers' empty caches are one array, which cannot be given away twice.
        return jax.device_put(jax.tree.map(jnp.copy, state), self._by_slot)

    def put(self, arrays: Any) -> Any:
        """Returns the arrays of a batch on the devices, split by slots."""
        return jax.device_put(arrays, self._by_slot)

    def check_shard(self, shard: int, again: bool = False) -> None:
        """Raises ValueError unless a shard has the checksum that was planned.

        The checksum is taken once, and `again` where that is asked or the file is not the one it was.
        """
        planned = self.plan.records.shards[shard]
        with open(self.records_dir / planned.file, "rb") as file:
            stat = os.fstat(file.fileno())
            seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._checked.get(shard) == seen and not again:
                return
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != planned.sha256:
            raise ValueError(
                f"{self.records_dir / planned.file}: sha256 is {found}, planned was {planned.sha256}: the input has "
                "changed; restore it, or plan another pass"
            )
        self._checked[shard] = seen

    def _batches(self, units: Iterable[int], pool: concurrent.futures.Executor) -> Iterator["_Batch"]:
        for index in units:
            if _published_path(self.out_dir, index).exists():
                yield _Batch.already_published(index)
                continue
            unit = self.plan.unit(index)
            steps = plan_lib.schedule(unit, self._entries, self.plan.config)
            with _UnitSource(self) as source:
                for i, chunks in enumerate(steps):
                    yield source.batch(index, chunks, pool, last=i == len(steps) - 1)

    def _computed(self, batches: Iterator["_Batch"]) -> Iterator[tuple["_Batch", dict[str, jax.Array] | None]]:
        state = self.initial_state()
        try:
            for batch in batches:
                if batch.frames is None:
                    yield batch, None
                    continue
                batch.wait()
                rows, state = self.step(self.variables, self.put(batch.frames), state, self.put(batch.restart))
                batch.frames = None  # the images are not needed any more
                yield batch, rows
        finally:
            batches.close()

    def _written(self, results: Iterator[tuple["_Batch", dict[str, jax.Array] | None]]) -> Iterator[UnitReport]:
        rows, since = None, time.monotonic()
        for batch, outputs in results:
            if outputs is None:
                yield UnitReport.of_another(batch.unit, int(self.plan.units[batch.unit, 2]))
                continue
            if rows is None:
                rows = _Rows(self, batch.unit)
            rows.add(batch, jax.device_get(outputs))
            if batch.last:
                report = self._publish(batch.unit, rows, time.monotonic() - since)
                rows, since = None, time.monotonic()
                yield report

    def _publish(self, index: int, rows: "_Rows", seconds: float) -> UnitReport:
        target = _published_path(self.out_dir, index)
        path = self._temporary_dir / f"{index:08d}-{self._worker}-{uuid.uuid4().hex}{records.SHARD_SUFFIX}"
        try:
            footer = labels.write_unit(path, index, rows.runs(), rows.bad_rows[:_MAX_LISTED_ROWS])
            if target.exists():
                return UnitReport.of_another(index, footer.num_rows)
            # The line of progress comes first: a unit that is published always has one.
            line = {
                "unit": index,
                "worker": self._worker,
                "frames": footer.num_rows,
                "counts": list(footer.counts),
                "seconds": round(seconds, 3),
                "finished_unix_s": round(time.time(), 3),
            }
            plan_lib.write_whole(self.out_dir / PROGRESS_FOLDER / f"{index:08d}.json", json.dumps(line).encode())
            if not publish(path, target):
                return UnitReport.of_another(index, footer.num_rows)
            return UnitReport(unit=index, num_frames=footer.num_rows, counts=footer.counts, published=True)
        finally:
            path.unlink(missing_ok=True)


def publish(path: pathlib.Path, target: epath.Path) -> bool:
    """Returns whether the file at `path`, which is moved to `target`, is the one that others see there from now on.

    On a local disk this is a hard link: it appears whole, in one atomic step, and the first to publish wins. On an
    object store, and on a file system without hard links, the file also appears whole (an object once its upload is
    complete, a file by renaming), but looking whether there is one already and publishing are two steps, and a store's
    client may look at what it listed before: of two processes that label a unit at once the last then wins. Both files
    are whole and of the same plan.
    """
    try:
        if not plan_lib.is_remote(target):
            try:
                os.link(path, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                _sync_directory(target.parent)
                return True
        if target.exists():
            return False
        if plan_lib.is_remote(target):
            target.write_bytes(path.read_bytes())
        else:
            os.replace(path, target)
            _sync_directory(target.parent)
        return True
    finally:
        path.unlink(missing_ok=True)


def check_records(plan: plan_lib.Plan, records_dir: str | os.PathLike) -> list[records.RecordEntry]:
    """Returns what the manifest says of each record, after comparing it, and the sizes of the shards, with the plan.

    Raises:
      ValueError: another manifest than planned, or a shard that is missing or of another size.
    """
    path = pathlib.Path(records_dir) / records.MANIFEST_NAME
    if not path.is_file():
        records.read_manifest(records_dir)  # says what is wrong
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != plan.records.manifest_sha256:
        raise ValueError(
            f"{records_dir}: its {records.MANIFEST_NAME} is not the one that was planned (sha256 {found[:12]}, planned "
            f"{plan.records.manifest_sha256[:12]}): the input has changed; restore it, or plan another pass"
        )
    for shard in plan.records.shards:
        records.check_shard_size(records_dir, shard)
    # By its hash it is the manifest that was checked entry by entry for the plan; with a million records that takes a
    # minute, which a restart must not.
    return [records.RecordEntry(**entry) for shard in json.loads(data)["shards"] for entry in shard["records"]]


@dataclasses.dataclass(kw_only=True, eq=False)
class _Batch:
    """What the slots see in one step, while the images may still be under way."""

    unit: int
    last: bool  # of its unit
    frames: Frames | None  # None: another process has published the unit
    restart: np.ndarray  # (B,) bool
    chunks: list[plan_lib.Chunk | None]
    places: list[np.ndarray]  # for each slot the rows of the record that its valid frames are
    problems: list[labels.BadRow]  # of rows that are published
    decoding: list[concurrent.futures.Future]

    @classmethod
    def already_published(cls, unit: int) -> "_Batch":
        nothing = {"chunks": [], "places": [], "problems": [], "decoding": []}
        return cls(unit=unit, last=True, frames=None, restart=np.zeros(0, bool), **nothing)

    def wait(self) -> None:
        """Returns when all images are in place."""
        for future in self.decoding:
            self.problems += future.result()
        self.decoding = []


class _UnitSource:
    """Reads the records of one unit, stream by stream. Not for several threads."""

    def __init__(self, labeller: Labeller):
        self._labeller = labeller
        self._plan = labeller.plan
        self._readers: collections.OrderedDict[int, array_record_module.ArrayRecordReader] = collections.OrderedDict()
        self._suspected: set[int] = set()  # shards that were looked at again
        slots = self._plan.config.slots
        self._runs: list[tuple[int, records.FrameRun | None, str]] = [(-1, None, "")] * slots
        self._last_index: list[int | None] = [None] * slots

    def __enter__(self) -> "_UnitSource":
        return self

    def __exit__(self, *_) -> None:
        while self._readers:
            self._close_oldest()

    def batch(
        self, unit: int, chunks: list[plan_lib.Chunk | None], pool: concurrent.futures.Executor, last: bool
    ) -> _Batch:
        """Returns the batch of these chunks, one for each slot; its images are decoded in `pool`."""
        about = self._plan.records
        B, T, V = len(chunks), self._plan.config.chunk_frames, about.num_views
        rig = _placeholder_rig(B, V, about.image_size_hw, about.camera_model)
        frames = Frames(
            images=np.zeros((B, T, V, *about.image_size_hw), np.uint8),
            rig=rig,
            T_world_headset=np.tile(np.eye(4, dtype=np.float32), (B, T, 1, 1)),
            view_valid=np.zeros((B, T, V), bool),
            frame_valid=np.zeros((B, T), bool),
            frame_gap=np.ones((B, T), np.int32),
        )
        batch = _Batch(
            unit=unit,
            last=last,
            frames=frames,
            restart=np.array([chunk is not None and chunk.first for chunk in chunks]),
            chunks=chunks,
            places=[np.zeros(0, np.int64)] * B,
            problems=[],
            decoding=[],
        )
        for b, chunk in enumerate(chunks):
            if chunk is not None:
                self._fill(batch, b, chunk, pool)
        return batch

    def _fill(self, batch: _Batch, b: int, chunk: plan_lib.Chunk, pool: concurrent.futures.Executor) -> None:
        if chunk.first:
            self._last_index[b] = None
        if self._runs[b][0] != chunk.record:
            self._runs[b] = (chunk.record, *self._read(chunk.record))
        _, run, reason = self._runs[b]
        rows = np.arange(chunk.start, chunk.stop)
        if run is None:
            if chunk.publish:
                batch.problems += self._bad_rows(chunk.record, rows, Status.BAD_RECORD, reason)
            return
        faults = _pose_faults(run.T_world_headset[rows])
        if chunk.publish:
            for i, fault in faults.items():
                batch.problems += self._bad_rows(chunk.record, rows[i : i + 1], Status.NON_FINITE, fault)
        # A frame without a pose is as good as dropped: the next one comes after a longer gap.
        rows, frames = np.delete(rows, list(faults)), batch.frames
        n = len(rows)
        if not n:
            return
        index = run.frame_index[rows].astype(np.int64)
        before = index[0] - 1 if self._last_index[b] is None else self._last_index[b]
        self._last_index[b] = int(index[-1])
        frames.frame_gap[b, :n] = np.minimum(np.diff(index, prepend=before), np.iinfo(np.int32).max)
        frames.frame_valid[b, :n] = True
        frames.T_world_headset[b, :n] = run.T_world_headset[rows]
        for place, value in zip(jax.tree.leaves(frames.rig), jax.tree.leaves(run.rig), strict=True):
            place[b] = value
        batch.places[b] = rows
        batch.decoding.append(pool.submit(_decode, run, chunk, rows, frames.images[b], frames.view_valid[b]))

    def _bad_rows(self, record: int, rows: np.ndarray, status: Status, reason: str) -> list[labels.BadRow]:
        first = self._labeller._entries[record].first_frame
        name = status.name.lower()
        return [labels.BadRow(record=record, frame=first + int(row), status=name, reason=reason) for row in rows]

    def _read(self, record: int) -> tuple[records.FrameRun | None, str]:
        """(run, "") of a record, or (None, why it cannot be used).

        Raises:
          ValueError: it is not the record but the shard: the file is not the one that was planned.
          OSError: nor can the shard be read.
        """
        shard = int(np.searchsorted(self._labeller._shard_starts, record, side="right")) - 1
        reader = self._reader(shard)
        try:
            return self._decoded(record, shard, reader), ""
        except _UNUSABLE:
            # What storage says in passing must not become a label: looked at again, from the file on.
            self._close(shard)
            self._labeller.check_shard(shard, again=shard not in self._suspected)
            self._suspected.add(shard)
        reader = self._reader(shard)
        try:
            return self._decoded(record, shard, reader), ""
        except _UNUSABLE as error:
            return None, f"record {record}: {error}"

    def _decoded(self, record: int, shard: int, reader: array_record_module.ArrayRecordReader) -> records.FrameRun:
        about = self._plan.records
        run = records.decode(reader.read([record - int(self._labeller._shard_starts[shard])])[0])
        found = records.RecordEntry(
            sequence=run.sequence, first_frame=int(run.frame_index[0]), num_frames=run.num_frames
        )
        entry = self._labeller._entries[record]
        if found != entry:
            raise ValueError(f"it is {found}, the manifest says {entry}")
        shape = (run.num_views, run.image_size_hw, run.rig.cameras.model)
        if shape != (about.num_views, about.image_size_hw, about.camera_model):
            raise ValueError(f"{shape[0]} views of {shape[1]}, cameras {shape[2]!r}: not as the other records")
        expected = _placeholder_rig(1, about.num_views, about.image_size_hw, about.camera_model)
        for leaf, like in zip(jax.tree.leaves(run.rig), jax.tree.leaves(expected), strict=True):
            if np.shape(leaf) != like.shape[1:]:
                raise ValueError(f"its cameras have an array {np.shape(leaf)} in the place of {like.shape[1:]}")
            if not np.isfinite(leaf).all():
                raise ValueError("its cameras are not finite")
        if not all(isinstance(jpeg, bytes) for frame in run.jpegs for jpeg in frame):
            raise ValueError("its images are not bytes")
        return run

    def _reader(self, shard: int) -> array_record_module.ArrayRecordReader:
        if shard in self._readers:
            self._readers.move_to_end(shard)
            return self._readers[shard]
        path = self._labeller.records_dir / self._plan.records.shards[shard].file
        self._labeller.check_shard(shard)
        self._readers[shard] = array_record_module.ArrayRecordReader(os.fspath(path), "readahead_buffer_size:0")
        if len(self._readers) > _MAX_OPEN_SHARDS:
            self._close_oldest()
        return self._readers[shard]

    def _close_oldest(self) -> None:
        self._close(next(iter(self._readers)))

    def _close(self, shard: int) -> None:
        with contextlib.suppress(RuntimeError):  # repeats what was wrong with a record
            self._readers.pop(shard).close()


def _pose_faults(T_world_headset: np.ndarray) -> dict[int, str]:
    """What is wrong with which of the poses (n, 4, 4)."""
    name = "the pose of the headset"
    with contextlib.suppress(ValueError):
        transforms.check_rigid(T_world_headset, name)
        return {}
    faults = {}
    for i, pose in enumerate(T_world_headset):
        try:
            transforms.check_rigid(pose, name)
        except ValueError as error:
            faults[i] = str(error)
    return faults


def _decode(
    run: records.FrameRun, chunk: plan_lib.Chunk, rows: np.ndarray, images: np.ndarray, view_valid: np.ndarray
) -> list[labels.BadRow]:
    """Fills images (T, V, H, W) and view_valid (T, V) of a slot; returns what is wrong with the rows it publishes."""
    decoded, valid = records.decode_images(run, chunk.start, chunk.stop)
    images[: len(rows)], view_valid[: len(rows)] = decoded[rows - chunk.start], valid[rows - chunk.start]
    problems = []
    for row in rows[~valid[rows - chunk.start].all(axis=1)] if chunk.publish else ():
        bad = np.flatnonzero(run.view_valid[row] & ~valid[row - chunk.start])
        if len(bad):
            status, reason = Status.BAD_IMAGE, f"view {bad[0]}: {_why(run, row, bad[0])}"
        else:
            missing = np.flatnonzero(~run.view_valid[row])
            status, reason = Status.MISSING_VIEW, f"view {missing[0]} has no image"
        frame = int(run.frame_index[row])
        problems.append(labels.BadRow(record=chunk.record, frame=frame, status=status.name.lower(), reason=reason))
    return problems


def _why(run: records.FrameRun, row: int, view: int) -> str:
    height, width = run.image_size_hw
    try:
        found = images_lib.decode_grey(run.jpegs[row][view], max_pixels=height * width).shape
    except ValueError as error:
        return str(error)
    return f"JPEG: {found[1]}x{found[0]} pixels, the record says {width}x{height}"


class _Rows:
    """The rows of one unit, gathered batch by batch."""

    def __init__(self, labeller: Labeller, index: int):
        unit = labeller.plan.unit(index)
        self._first_record = unit.first_record
        self._entries = labeller._entries[unit.first_record : unit.stop_record]
        self._starts = np.cumsum([0, *(e.num_frames for e in self._entries)])
        self._plan = labeller.plan
        self._arrays: dict[str, np.ndarray] = {}
        self._status = np.full(unit.num_frames, Status.OK, np.uint8)
        self._filled = np.zeros(unit.num_frames, np.int64)
        self._problems: list[labels.BadRow] = []

    def add(self, batch: _Batch, outputs: dict[str, np.ndarray]) -> None:
        """Takes what the teacher said of a batch: arrays (B, T, ...)."""
        if not self._arrays:
            shapes = {name: (len(self._status), *array.shape[2:]) for name, array in outputs.items()}
            self._arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._problems += batch.problems
        for problem in batch.problems:
            self._set_status(problem)
        for b, (chunk, rows) in enumerate(zip(batch.chunks, batch.places, strict=True)):
            if chunk is None or not chunk.publish:
                continue
            start = self._starts[chunk.record - self._first_record]
            self._filled[start + chunk.start : start + chunk.stop] += 1
            n = len(rows)
            finite = np.ones(n, bool)
            for array in outputs.values():
                finite &= np.isfinite(array[b, :n]).all(axis=tuple(range(1, array.ndim - 1)))
            for name, array in outputs.items():
                self._arrays[name][start + rows[finite]] = array[b, :n][finite]
            for row in rows[~finite]:
                entry = self._entries[chunk.record - self._first_record]
                problem = labels.BadRow(
                    record=chunk.record,
                    frame=entry.first_frame + int(row),
                    status=Status.NON_FINITE.name.lower(),
                    reason="the teacher's answer is not finite",
                )
                self._problems.append(problem)
                self._set_status(problem)

    @property
    def bad_rows(self) -> list[labels.BadRow]:
        """What is wrong, in the order of the rows."""
        return sorted(self._problems, key=lambda p: (p.record, p.frame, p.reason))

    def runs(self) -> Iterator[labels.LabelRun]:
        """Returns the label records of the unit."""
        assert np.all(self._filled == 1), "a frame was not labelled exactly once"
        for i, entry in enumerate(self._entries):
            part = slice(self._starts[i], self._starts[i + 1])
            arrays = dict.fromkeys(labels.row_shapes(0, 0)) | {k: v[part] for k, v in self._arrays.items()}
            yield labels.LabelRun(
                plan_sha256=self._plan.sha256,
                teacher_sha256=self._plan.teacher.sha256,
                record=self._first_record + i,
                sequence=entry.sequence,
                split=self._plan.records.split,
                frame_index=np.arange(entry.first_frame, entry.first_frame + entry.num_frames, dtype=np.int32),
                status=self._status[part],
                **arrays,
            )

    def _set_status(self, problem: labels.BadRow) -> None:
        i = problem.record - self._first_record
        row = self._starts[i] + problem.frame - self._entries[i].first_frame
        self._status[row] = max(self._status[row], Status[problem.status.upper()])


def _step(
    model: epfv2.EPFv2, variables: Any, frames: Frames, state: epfv2.StreamState, restart: jax.Array
) -> tuple[dict[str, jax.Array], epfv2.StreamState]:
    """Rows (B, T, ...) of a batch by their names in LabelRun, and the next state."""
    state = epfv2.reset(model.config, state, restart)
    predictions, state = model.apply(variables, frames, state, method="step")
    return _as_rows(predictions), state


def _as_rows(predictions: Predictions) -> dict[str, jax.Array]:
    rows = {"joints_headset_m": predictions.joints_headset_m}
    if predictions.cholesky_m is not None:
        lower = np.tril_indices(3)
        rows["cholesky6_m"] = predictions.cholesky_m[..., lower[0], lower[1]]
    if predictions.body is not None:
        body = predictions.body
        rows |= {
            "root_rotation6": rotations.matrix_to_rot6d(body.root_rotation),
            "root_position_m": body.root_position_m,
            "joint_rotations6": rotations.matrix_to_rot6d(body.joint_rotations),
            "bone_scales": body.bone_scales,
        }
    return jax.tree.map(lambda x: x.astype(jnp.float32), rows)


def _ahead(items: Iterator[Any], depth: int) -> Iterator[Any]:
    """Returns the items, made by a thread of its own that is at most `depth` of them ahead; its exceptions are ours."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    break
            else:
                put(("end", None))
        except BaseException as error:
            put(("error", error))
        finally:
            items.close()

    def take() -> Iterator[Any]:
        thread.start()
        try:
            while True:
                kind, value = ready.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield value
        finally:
            stopped.set()
            thread.join()

    thread = threading.Thread(target=work, daemon=True)
    return take()


def load_teacher(plan: plan_lib.Plan, teacher_dir: str | os.PathLike) -> tuple[epfv2.EPFv2, Any]:
    """Returns (model, variables) of the teacher of a plan.

    Raises:
      ValueError: it is not the one that was planned, or not planned with this version.
    """
    if plan.package_version != epfv2_jax.__version__:
        raise ValueError(
            f"planned with epfv2_jax {plan.package_version}, this is {epfv2_jax.__version__}: labels of one pass come "
            "from one version; install the other, or plan another pass"
        )
    model, variables, _ = checkpoint.load_model(teacher_dir)
    found = plan_lib.teacher_sha256(model.config, variables)
    if found != plan.teacher.sha256:
        raise ValueError(
            f"{teacher_dir}: not the teacher that was planned (sha256 {found[:12]}, planned "
            f"{plan.teacher.sha256[:12]}): it has changed since; give the planned one, or plan another pass"
        )
    return model, variables


def _placeholder_rig(B: int, V: int, image_size_hw: tuple[int, int], model: str) -> Rig:
    """Cameras for slots without work, to be overwritten in the others."""
    height, width = image_size_hw
    camera = cameras.pinhole(
        focal_px=(width, height), center_px=((width - 1) / 2, (height - 1) / 2), size_px=(width, height)
    )
    T_cam_headset = np.eye(4, dtype=np.float32)
    rig = Rig(cameras=dataclasses.replace(camera, model=model), T_cam_headset=T_cam_headset)
    return jax.tree.map(lambda x: np.broadcast_to(x, (B, V, *np.shape(x))).astype(np.float32), rig)


def _published_path(out_dir: epath.Path, unit: int) -> epath.Path:
    return out_dir / labels.UNIT_FOLDER / labels.unit_file(unit)


def _temporary_dir(out_dir: pathlib.Path) -> pathlib.Path:
    """A folder for unfinished files on the disk of the published ones, so that they can be linked.

    What this machine's dead processes have left there is removed.
    """
    folder = out_dir / _TEMPORARY_FOLDER
    folder.mkdir(exist_ok=True)
    host = socket.gethostname()
    for path in folder.iterdir():
        owner = path.name.split("-", 1)[-1].rsplit("-", 1)[0]
        name, _, pid = owner.rpartition("-")
        if name == host and pid.isdecimal() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)
    return folder


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # of a predecessor with the same number, as in a restarted container
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_directory(path: epath.Path) -> None:
    descriptor = os.open(os.fspath(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
