"""Batches of clips from records: every clip once an epoch, in an order that depends on the seed and the step only.

A record is cut into clips of `clip_frames` consecutive frames. The order of the clips is a shuffle of their numbers,
reshuffled every epoch; step s trains on samples s * batch_size ... (s + 1) * batch_size - 1 of that endless order,
and process p on its slice of those. Nothing else enters: neither shards, threads nor worker processes. The whole
state of the stream is thus the global step: a run resumes, on any number of processes, by asking for `start_step`, at
no cost.
"""

import collections
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

import grain
import jax
import numpy as np

from epfv2_jax import structs
from epfv2_jax.data import records as records_lib
from epfv2_jax.data.labels.labels import Labels
from epfv2_jax.data.records import FrameRun, Records
from epfv2_jax.geometry.skeleton import NUM_JOINTS

Array = TypeVar("Array", np.ndarray, jax.Array)

#: `clip_id` of a clip that only fills up the last batch.
PADDING_CLIP_ID = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoConfig:
    """Clips without truth that a teacher labels, mixed into every batch; give either `labels` or `teacher`."""

    directory: str  # records of one split; their own joints are never read
    labels: str | None = None  # the output of a label pass over them
    teacher: str | None = None  # checkpoints of a teacher that labels the clips in the step: for small sets
    batch_size: int = 8  # clips in each batch, besides the labelled ones
    max_sigma_m: float | None = None  # joints of which the teacher is less sure than this are left out; None: all count

    def __post_init__(self):
        if (self.labels is None) == (self.teacher is None):
            raise ValueError("give either labels (a label pass) or teacher (checkpoints), and not both")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_sigma_m is not None and not self.max_sigma_m > 0:
            raise ValueError(f"max_sigma_m must be positive, got {self.max_sigma_m}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a training batch is, and how it is read."""

    split: str = "train"
    clip_frames: int = 16  # frames T of a clip
    batch_size: int = 8  # clips, of all processes together
    read_threads: int = 2  # each prepares whole batches; 0: the caller's thread, with nothing read ahead
    prefetch_batches: int = 4  # ready or under way ahead of the step; host memory grows with it
    worker_processes: int = 0  # processes that read, each with `read_threads`; 0: the caller's own. For many cores
    cache_bytes: int = 256 * 2**20  # of JPEG data kept in memory, for data sets that fit; 0: every clip is read anew
    pseudo: PseudoConfig | None = None  # for a student; None: all clips carry the truth

    @property
    def total_batch_size(self) -> int:
        """Clips of a batch, labelled by whomever."""
        return self.batch_size + (self.pseudo.batch_size if self.pseudo else 0)

    def __post_init__(self):
        for name, least in (
            *(("clip_frames", 1), ("batch_size", 1), ("read_threads", 0), ("prefetch_batches", 1)),
            *(("worker_processes", 0), ("cache_bytes", 0)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.prefetch_batches < self.read_threads:
            raise ValueError(
                f"prefetch_batches: {self.prefetch_batches} keeps some of {self.read_threads} read_threads idle; "
                "raise it to at least that"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndex:
    """The clips of a split: clip i is frames [start, start + length) of a record. A clip never leaves its record."""

    record: np.ndarray  # (clips,) int64
    start: np.ndarray  # (clips,) int64
    length: np.ndarray  # (clips,) int64, at least 1 and at most `clip_frames`
    clip_frames: int
    entries: tuple[records_lib.RecordEntry, ...]  # of the records

    def __len__(self) -> int:
        return len(self.record)

    def describe(self, clip_id: int) -> str:
        """Returns the sequence and frames of a clip, for reports."""
        if not 0 <= clip_id < len(self):
            return "padding"
        entry = self.entries[self.record[clip_id]]
        first = entry.first_frame + int(self.start[clip_id])
        return f"{entry.sequence} frames {first}-{first + int(self.length[clip_id]) - 1}"


def build_index(records: Records, clip_frames: int) -> ClipIndex:
    """Returns the clips that tile every record without overlap; the last of a record may be shorter.

    Raises:
      ValueError: `clip_frames` is not positive, or there are no records.
    """
    if clip_frames < 1:
        raise ValueError(f"clip_frames must be at least 1, got {clip_frames}")
    frames = np.array([entry.num_frames for entry in records.entries], np.int64)
    if not len(frames):
        raise ValueError(f"{records.directory}: no records to cut into clips; convert some data first")
    counts = -(-frames // clip_frames)
    record = np.repeat(np.arange(len(frames)), counts)
    start = (np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)) * clip_frames
    length = np.minimum(frames[record] - start, clip_frames)
    return ClipIndex(record=record, start=start, length=length, clip_frames=clip_frames, entries=records.entries)


def train_batches(
    records: Records,
    config: DataConfig,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    labels: Labels | None = None,
) -> Iterator[structs.Batch]:
    """Returns the endless batches from `start_step` on, numpy arrays, of which this process gets its share.

    With `labels` the targets are those of a teacher and the records' own joints are not used; rows with anything wrong
    about them are not valid.

    Close the iterator (it is a generator) to stop the reading ahead. The order of all batches, put together over the
    processes, is the same for every `process_count`.

    Raises:
      ValueError: the batch size is not divisible by the number of processes, the step is negative, or there is no data.
    """
    if config.batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared out to process {process_index} of {process_count}; make "
            "it a multiple of the number of processes"
        )
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    index = build_index(records, config.clip_frames)
    share = config.batch_size // process_count
    loader = _Loader(records, index, cache_bytes=config.cache_bytes, labels=labels)

    def load(clip_ids: np.ndarray) -> structs.Batch:
        return loader(clip_ids[process_index * share : (process_index + 1) * share])

    # Grain's shuffle of epoch e uses seed + e: neighbouring run seeds must not lead to the same orders one epoch apart.
    shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(index)).shuffle(seed=shuffle_seed).repeat()
    batches = order.batch(config.batch_size)[start_step:].map(load)
    return _iterate(batches, config.read_threads, config.prefetch_batches, config.worker_processes)


def mixed_batches(
    labelled: Iterator[structs.Batch],
    pseudo: Iterator[structs.Batch],
    *,
    first_pseudo_clip_id: int,
    max_sigma_m: float | None = None,
) -> Iterator[structs.Batch]:
    """Returns batches of the labelled clips followed by the pseudo-labelled ones; closing it closes both.

    The pseudo-labelled clips are numbered from `first_pseudo_clip_id` on. Joints whose uncertainty (root mean square of
    the teacher's scale over the axes) is above `max_sigma_m` are not valid.
    """
    try:
        for first, second in zip(labelled, pseudo, strict=False):
            targets = second.targets
            cholesky_m = targets.cholesky_m
            if cholesky_m is None:  # to be labelled later, or by a teacher that does not tell
                cholesky_m = _no_cholesky(targets.joint_valid.shape)
            joint_valid = targets.joint_valid
            if max_sigma_m is not None:
                joint_valid = joint_valid & confident(cholesky_m, max_sigma_m)
            second = second.replace(
                targets=targets.replace(
                    joint_valid=joint_valid, cholesky_m=cholesky_m, pseudo=np.ones(len(second.clip_id), bool)
                ),
                clip_id=second.clip_id + np.int32(first_pseudo_clip_id),
            )
            first = first.replace(
                targets=first.targets.replace(
                    pseudo=np.zeros(len(first.clip_id), bool), cholesky_m=_no_cholesky(first.targets.joint_valid.shape)
                )
            )
            yield jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    finally:
        for source in (labelled, pseudo):
            source.close()


def confident(cholesky_m: Array, max_sigma_m: float) -> Array:
    """Returns (...) bool: whether the root mean square scale over the axes, |L| / sqrt(3), is at most `max_sigma_m`."""
    return (cholesky_m**2).sum(axis=(-2, -1)) <= 3 * max_sigma_m**2


def _no_cholesky(leading: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.eye(3, dtype=np.float32), (*leading, 3, 3))


def eval_batches(
    records: Records,
    clip_frames: int,
    *,
    batch_size: int = 8,
    max_clips: int = 0,
    images: bool = True,
    read_threads: int = 2,
) -> Iterator[structs.Batch]:
    """Returns batches that hold every clip once, in order; padding in the last has clip_id -1 and no valid frame.

    Args:
      records: of one split.
      clip_frames: frames T of a clip.
      batch_size: clips B of a batch.
      max_clips: take at most so many clips, spread evenly over the split; 0: all.
      images: False leaves the images out (height and width 0), for statistics of poses.
      read_threads: threads that prepare batches ahead; 0: none.

    Raises:
      ValueError: `batch_size` is not positive, `max_clips` is negative, or there is no data.
    """
    if batch_size < 1 or max_clips < 0:
        raise ValueError(f"batch_size must be at least 1 and max_clips at least 0, got {batch_size} and {max_clips}")
    index = build_index(records, clip_frames)
    clip_ids = np.arange(len(index))
    if 0 < max_clips < len(index):
        clip_ids = (2 * np.arange(max_clips) + 1) * len(index) // (2 * max_clips)
    padding = np.full(-len(clip_ids) % batch_size, PADDING_CLIP_ID)
    plan = np.concatenate([clip_ids, padding]).reshape(-1, batch_size)
    # Clips follow each other, so a few records are enough of a cache.
    loader = _Loader(records, index, cache_bytes=32 * 2**20, images=images)
    return _iterate(grain.MapDataset.source(list(plan)).map(loader), read_threads, max(read_threads, 1), 0)


def _iterate(batches: grain.MapDataset, threads: int, prefetch: int, processes: int) -> Iterator[structs.Batch]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0)
    dataset = batches.to_iter_dataset(options)
    if processes:
        _accept_unparsed_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=prefetch)
        )

    def generate():
        iterator = iter(dataset)
        try:
            yield from iterator
        finally:
            iterator.close()

    return generate()


def _accept_unparsed_flags() -> None:
    """Grain's worker processes read absl flags, which a program without absl.app has not parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class _Loader:
    """Reads and decodes clips into the arrays of a batch. Threads may share it; it can be pickled."""

    def __init__(
        self,
        records: Records,
        index: ClipIndex,
        *,
        cache_bytes: int,
        images: bool = True,
        labels: Labels | None = None,
    ):
        self._runs = _RunCache(records, cache_bytes)
        self._index = index
        self._num_views = records.num_views
        self._image_size_hw = records.image_size_hw if images else (0, 0)
        self._directory = records.directory
        self._labels = labels

    def __call__(self, clip_ids: Sequence[int]) -> structs.Batch:
        B, T, V = len(clip_ids), self._index.clip_frames, self._num_views
        arrays = {
            "images": np.zeros((B, T, V, *self._image_size_hw), np.uint8),
            "T_world_headset": np.tile(np.eye(4, dtype=np.float32), (B, T, 1, 1)),
            "view_valid": np.zeros((B, T, V), bool),
            "frame_valid": np.zeros((B, T), bool),
            "frame_gap": np.ones((B, T), np.int32),
        }
        joints_headset_m = np.zeros((B, T, NUM_JOINTS, 3), np.float32)
        joint_valid = np.zeros((B, T, NUM_JOINTS), bool)
        cholesky_m = None if self._labels is None else _no_cholesky((B, T, NUM_JOINTS)).copy()
        rigs = []
        for b, clip_id in enumerate(clip_ids):
            if clip_id == PADDING_CLIP_ID:
                rigs.append(rigs[-1])  # any rig will do; padding follows clips
                continue
            run = self._run(int(self._index.record[clip_id]))
            start, n = int(self._index.start[clip_id]), int(self._index.length[clip_id])
            part = slice(start, start + n)
            rigs.append(run.rig)
            if arrays["images"].size:
                arrays["images"][b, :n], arrays["view_valid"][b, :n] = records_lib.decode_images(run, start, start + n)
            else:
                arrays["view_valid"][b, :n] = run.view_valid[part]
            arrays["T_world_headset"][b, :n] = run.T_world_headset[part]
            arrays["T_world_headset"][b, n:] = run.T_world_headset[start + n - 1]
            arrays["frame_valid"][b, :n] = True
            arrays["frame_gap"][b, 1:n] = np.diff(run.frame_index[part])
            if self._labels is None:
                joint_valid[b, :n] = run.joint_valid[part]
                joints_headset_m[b, :n] = _joints_headset_m(run, part)
                continue
            label = self._labels[int(self._index.record[clip_id])]
            joint_valid[b, :n] = label.ok[part, None]
            joints_headset_m[b, :n] = label.joints_headset_m[part]
            if label.cholesky6_m is not None:
                cholesky_m[b, :n] = np.where(label.ok[part, None, None, None], label.cholesky_m[part], np.eye(3))
        return structs.Batch(
            frames=structs.Frames(rig=self._stack(rigs), **arrays),
            targets=structs.Targets(joints_headset_m=joints_headset_m, joint_valid=joint_valid, cholesky_m=cholesky_m),
            clip_id=np.asarray(clip_ids, np.int32),
        )

    def _run(self, record: int) -> FrameRun:
        run = self._runs[record]
        if run.num_views != self._num_views or (self._image_size_hw[0] and run.image_size_hw != self._image_size_hw):
            raise ValueError(
                f"{self._directory}: record {record} ({run.sequence}) has {run.num_views} views of "
                f"{run.image_size_hw}, the manifest says {self._num_views} of {self._image_size_hw}; "
                "convert the data again"
            )
        return run

    def _stack(self, rigs: list[structs.Rig]) -> structs.Rig:
        models = sorted({rig.cameras.model for rig in rigs})
        if len(models) != 1:
            raise ValueError(
                f"{self._directory}: camera models {', '.join(models)} in one batch; convert them to one model"
            )
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rigs)


def _joints_headset_m(run: FrameRun, part: slice) -> np.ndarray:
    """Joints (n, J, 3) in the headset frame, zero where not valid; in float64, as world origins may be far away."""
    T_world_headset = run.T_world_headset[part].astype(np.float64)
    from_headset_m = run.joints_world_m[part] - T_world_headset[:, None, :3, 3]
    joints_m = from_headset_m @ T_world_headset[:, :3, :3]  # row vectors: the product with the transposed rotation
    return np.where(run.joint_valid[part][..., None], joints_m, 0.0)


class _RunCache:
    """The most recently used records, up to a number of bytes of JPEG data."""

    def __init__(self, records: Records, max_bytes: int):
        self._records, self._max_bytes = records, max_bytes
        self._restart()

    def __getitem__(self, record: int) -> FrameRun:
        with self._lock:
            if record in self._runs:
                self._runs.move_to_end(record)
                return self._runs[record][0]
        run = self._records[record]
        num_bytes = sum(len(jpeg) for frame in run.jpegs for jpeg in frame)
        if num_bytes <= self._max_bytes:
            with self._lock:
                self._add(record, run, num_bytes)
        return run

    def _add(self, record: int, run: FrameRun, num_bytes: int) -> None:
        if record in self._runs:  # another thread was faster
            return
        self._runs[record] = (run, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= self._runs.popitem(last=False)[1][1]

    def _restart(self) -> None:
        self._runs: collections.OrderedDict[int, tuple[FrameRun, int]] = collections.OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self):
        return {"_records": self._records, "_max_bytes": self._max_bytes}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._restart()
