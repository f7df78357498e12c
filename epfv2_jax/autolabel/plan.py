"""The plan of a label pass: what is labelled, by which teacher, cut into units of work. Written once, never changed.

A unit is a contiguous range of records, the work that is published in one piece. Within a unit lie streams: a whole
sequence, or a piece of a long one, cut between records. A stream that begins inside a sequence first reads warm-up
frames, which it does not publish.

How much warm-up makes a label equal that of streaming the whole sequence: the model has `num_caches` temporal layers
in series, each of which sees `window` frame times, and the oldest query token also looks at the pose of the headset one
frame before, or longer before where frames are missing, but never further than the window. So the answer at frame time
t depends on frames after t - (num_caches + 1) (window - 1) and on nothing older, whatever is missing in between.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import epfv2_jax
from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import tasks
from epfv2_jax.data import records
from epfv2_jax.data.labels import labels
from epfv2_jax.models.epfv2 import model as epfv2

PLAN_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassConfig:
    """The shape of the work. All of it enters the labels' rounding, so it is part of the plan."""

    unit_frames: int = 8192  # published in one piece; a little more or less, as records and sequences allow
    slots: int = 8  # streams labelled side by side, B of a batch; a multiple of the devices of a process
    chunk_frames: int = 16  # consecutive frames T of a stream in one batch

    def __post_init__(self):
        for name in ("unit_frames", "slots", "chunk_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardChecksum:
    """A shard file as the plan knows it."""

    file: str
    num_bytes: int
    sha256: str
    num_records: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsIdentity:
    """The records as the plan knows them."""

    manifest_sha256: str  # of the file manifest.json, which has the checksums of the shards
    split: str
    num_records: int
    num_frames: int
    num_views: int
    image_size_hw: tuple[int, int]
    camera_model: str  # of the first record that can be read; a record with another one is a bad record
    shards: tuple[ShardChecksum, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """The teacher as the plan knows it."""

    sha256: str  # see `teacher_sha256`
    step: int  # of training
    model: epfv2.ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Records [first, stop) of one sequence; before them warm-up from frame `warmup_frame` of record `warmup_record`.

    Without warm-up these are `first_record` and 0.
    """

    first_record: int
    stop_record: int
    warmup_record: int
    warmup_frame: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """The work that is published in one piece."""

    first_record: int
    stop_record: int
    num_frames: int
    streams: tuple[Stream, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Frames [start, stop) of a record, in one slot of one batch."""

    record: int
    start: int
    stop: int
    first: bool  # of its stream: the slot forgets what it has seen
    publish: bool  # False on warm-up


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What plan.json says."""

    package_version: str
    records: RecordsIdentity
    teacher: TeacherIdentity
    config: PassConfig
    units: np.ndarray  # (U, 3) int64: first record, stop record, frames
    streams: np.ndarray  # (S, 4) int64: the fields of Stream, in the order of the records
    sha256: str = ""  # of the file

    @property
    def num_units(self) -> int:
        return len(self.units)

    def unit(self, index: int) -> Unit:
        """Returns unit `index`."""
        first, stop, frames = self.units[index].tolist()
        low, high = np.searchsorted(self.streams[:, 0], [first, stop])
        streams = tuple(
            Stream(first_record=a, stop_record=b, warmup_record=c, warmup_frame=d)
            for a, b, c, d in self.streams[low:high].tolist()
        )
        return Unit(first_record=first, stop_record=stop, num_frames=frames, streams=streams)


def make_plan(records_dir: str | os.PathLike, teacher_dir: str | os.PathLike, config: PassConfig) -> Plan:
    """Returns the plan to label all records of `records_dir` by the model in `teacher_dir`.

    Raises:
      ValueError: a shard is missing or of another size than the manifest says, no record can be read, there is no
        checkpoint, or the teacher is made for another number of views.
    """
    source = records.open_records(records_dir)
    model, variables, meta = checkpoint.load_model(teacher_dir)
    if model.config.num_views != source.num_views:
        raise ValueError(
            f"{teacher_dir}: the teacher has {model.config.num_views} views, {records_dir} {source.num_views}; use "
            "another teacher or other records"
        )
    units, streams = cut(source.entries, warmup_frames(model.config), config)
    manifest = source.manifest
    return Plan(
        package_version=epfv2_jax.__version__,
        records=RecordsIdentity(
            manifest_sha256=manifest_sha256(records_dir),
            split=manifest.split,
            num_records=len(source),
            num_frames=source.num_frames,
            num_views=manifest.num_views,
            image_size_hw=manifest.image_size_hw,
            camera_model=_camera_model(source),
            shards=tuple(
                ShardChecksum(file=s.file, num_bytes=s.num_bytes, sha256=s.sha256, num_records=len(s.records))
                for s in manifest.shards
            ),
        ),
        teacher=TeacherIdentity(
            sha256=teacher_sha256(model.config, variables), step=int(meta["step"]), model=model.config
        ),
        config=config,
        units=units,
        streams=streams,
    )


def cut(entries: Sequence[records.RecordEntry], warmup: int, config: PassConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns units (U, 3) and streams (S, 4), int64, as in `Plan`: each record in one stream, each stream in one unit.

    A sequence much longer than a slot's share of a unit is cut into nearly equal streams of about that length.

    Args:
      entries: of all records, in order.
      warmup: frame times before the first published frame that a stream must have seen.
      config: how long units and streams are.
    """
    share = max(config.unit_frames // config.slots, 1)
    frames = np.array([e.num_frames for e in entries], np.int64)
    first_index = np.array([e.first_frame for e in entries], np.int64)
    starts = np.concatenate([[0], np.cumsum(frames)])  # of each record, in all frames

    streams: list[tuple[int, int, int, int]] = []
    begin = 0
    for stop in range(1, len(entries) + 1):
        if stop < len(entries) and _continues(entries[stop - 1], entries[stop]):
            continue
        pieces = max(1, round((starts[stop] - starts[begin]) / share))
        targets = starts[begin] + np.arange(1, pieces) * (starts[stop] - starts[begin]) // pieces
        cuts = sorted({begin, *(int(i) for i in np.searchsorted(starts[begin:stop], targets) + begin), stop})
        for a, b in itertools.pairwise(cuts):
            streams.append((a, b, *_warmup_start(first_index, frames, begin, a, warmup)))
        begin = stop

    sizes = [int(starts[stop] - starts[first]) for first, stop, _, _ in streams]
    units = []
    for low, high in _group(sizes, config):
        units.append((streams[low][0], streams[high - 1][1], sum(sizes[low:high])))
    return np.array(units, np.int64).reshape(-1, 3), np.array(streams, np.int64).reshape(-1, 4)


def schedule(unit: Unit, entries: Sequence[records.RecordEntry], config: PassConfig) -> list[list[Chunk | None]]:
    """Returns the batches of a unit: for each the chunk of every slot, None where the slot has nothing left to do.

    A function of the plan alone, so that the same frames always meet in the same batch and round alike. No chunk leaves
    its record, so each has one set of cameras.
    """
    lanes: list[list[Chunk]] = [[] for _ in range(config.slots)]
    chunks = [_chunks(stream, entries, config.chunk_frames) for stream in unit.streams]
    # The longest first, each into the lane that is free first.
    for stream in sorted(chunks, key=len, reverse=True):
        min(lanes, key=len).extend(stream)
    length = max(map(len, lanes))
    return [[lane[i] if i < len(lane) else None for lane in lanes] for i in range(length)]


def warmup_frames(config: epfv2.ModelConfig) -> int:
    """Returns the frame times that a stream must have seen before its first label; see the module's docstring."""
    return (config.num_caches + config.auxiliary_input) * (config.window - 1)


def write_plan(directory: str | os.PathLike, plan: Plan) -> Plan:
    """Returns `plan` with its hash after writing it into `directory`; the same plan may be written again.

    Raises:
      ValueError: another plan is there, or labels without one.
    """
    directory = epath.Path(directory)
    content = {
        "version": PLAN_VERSION,
        "package_version": plan.package_version,
        "records": config_lib.to_mapping(plan.records),
        "teacher": config_lib.to_mapping(plan.teacher),
        "config": config_lib.to_mapping(plan.config),
        "units": plan.units.tolist(),
        "streams": plan.streams.tolist(),
    }
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    path = directory / labels.PLAN_NAME
    if path.exists():
        if path.read_bytes() != data:
            raise ValueError(
                f"{directory}: holds another plan ({_difference(read_plan(directory), plan)}), and a plan is never "
                "changed: choose another directory"
            )
    else:
        if labels.published_units(directory, plan.num_units):
            raise ValueError(
                f"{directory}: holds labels but no {labels.PLAN_NAME} that says of what; choose another directory"
            )
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    return dataclasses.replace(plan, sha256=hashlib.sha256(data).hexdigest())


def read_plan(directory: str | os.PathLike) -> Plan:
    """Returns the plan in `directory`.

    Raises:
      ValueError: there is none, or it is not one that this code reads.
    """
    data = labels.read_plan_bytes(directory)
    path = f"{directory}/{labels.PLAN_NAME}"
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); plan again in another directory") from error
    if not isinstance(content, dict) or content.pop("version", None) != PLAN_VERSION:
        raise ValueError(f"{path}: not of version {PLAN_VERSION}, which this code reads; plan again")
    tables = {name: np.array(content.pop(name), np.int64) for name in ("units", "streams")}
    classes = {"records": RecordsIdentity, "teacher": TeacherIdentity, "config": PassConfig}
    parts = {name: config_lib.from_mapping(c, content.pop(name), f"{path}: {name}") for name, c in classes.items()}
    return Plan(**content, **parts, **tables, sha256=hashlib.sha256(data).hexdigest())


def manifest_sha256(records_dir: str | os.PathLike) -> str:
    """Returns the hash of the manifest of a directory of records."""
    return hashlib.sha256((pathlib.Path(records_dir) / records.MANIFEST_NAME).read_bytes()).hexdigest()


def teacher_sha256(config: epfv2.ModelConfig, variables: Any) -> str:
    """Returns the hash of a model: its configuration, and path, type, shape and bytes of each of its variables.

    It depends on the values alone, not on how or where they are stored.
    """
    digest = hashlib.sha256(json.dumps(config_lib.to_mapping(config), sort_keys=True).encode())
    leaves = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(variables)}
    for path in sorted(leaves):
        leaf = leaves[path]
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def write_whole(path: epath.Path, data: bytes) -> None:
    """Writes a small file whole or not at all; one that is there is replaced. An object store does this by itself."""
    if is_remote(path):
        path.write_bytes(data)
        return
    with tasks.publishing(path) as own, own.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path names an object store."""
    return "://" in os.fspath(path)


def _continues(before: records.RecordEntry, entry: records.RecordEntry) -> bool:
    """Whether a record goes on with the sequence of the one before."""
    return entry.sequence == before.sequence and entry.first_frame >= before.first_frame + before.num_frames


def _group(sizes: Sequence[int], config: PassConfig) -> list[tuple[int, int]]:
    """Ranges of streams (given by their frames) that make a unit: of about the right size, with few idle slots.

    A unit lasts at least as long as its longest stream, as an even share of all, and as the two streams that meet in a
    slot when there is one more than slots. The range that wastes least by this bound is taken; missing
    `unit_frames` costs a tenth of the share by which it is missed, and more than a half is not allowed.
    """
    groups, low = [], 0
    while low < len(sizes):
        longest: list[int] = []  # negated, ascending
        total, best, best_score = 0, low + 1, -np.inf
        for high in range(low + 1, len(sizes) + 1):
            total += sizes[high - 1]
            if total > 1.5 * config.unit_frames:
                break
            bisect.insort(longest, -sizes[high - 1])
            if total < 0.5 * config.unit_frames and high < len(sizes):
                continue
            lasts = max(-longest[0], total / config.slots)
            if len(longest) > config.slots:
                lasts = max(lasts, -longest[config.slots - 1] - longest[config.slots])
            score = total / (config.slots * lasts) - 0.1 * abs(total / config.unit_frames - 1)
            if score >= best_score:
                best, best_score = high, score
        groups.append((low, best))
        low = best
    return groups


def _warmup_start(first_index: np.ndarray, frames: np.ndarray, begin: int, record: int, warmup: int) -> tuple[int, int]:
    """(record, frame) of the first warm-up frame of a stream that starts at `record` of a sequence from `begin` on."""
    oldest = int(first_index[record]) - warmup  # the index of the oldest frame that is needed
    start = record
    while start > begin and first_index[start - 1] + frames[start - 1] > oldest:
        start -= 1
    return start, (max(oldest - int(first_index[start]), 0) if start < record else 0)


def _chunks(stream: Stream, entries: Sequence[records.RecordEntry], chunk_frames: int) -> list[Chunk]:
    found = []
    for record in range(stream.warmup_record, stream.stop_record):
        start = stream.warmup_frame if record == stream.warmup_record else 0
        for low in range(start, entries[record].num_frames, chunk_frames):
            high = min(low + chunk_frames, entries[record].num_frames)
            publish = record >= stream.first_record
            found.append(Chunk(record=record, start=low, stop=high, first=not found, publish=publish))
    return found


def _camera_model(source: records.Records) -> str:
    error = None
    for index in range(len(source)):
        try:
            return source[index].rig.cameras.model
        except (ValueError, TypeError, RuntimeError) as e:
            error = e
    raise ValueError(f"{source.directory}: none of {len(source)} records can be read; the last: {error}")


def _difference(old: Plan, new: Plan) -> str:
    differing = []
    for part in ("package_version", "records", "teacher", "config"):
        a, b = ({part: config_lib.to_mapping(getattr(plan, part))} for plan in (old, new))
        differing += checkpoint.differing_keys(a, b)
    return "; ".join(f"{key}: {a!r} there, {b!r} asked" for key, a, b in differing[:3] if key != "records.shards")
