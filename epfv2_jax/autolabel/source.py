"""The batches of a unit: chunks of records side by side, with what is damaged left out and listed."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from epfv2_jax import structs
from epfv2_jax.autolabel import cutting
from epfv2_jax.autolabel.cutting import Chunk
from epfv2_jax.autolabel.plan import Plan
from epfv2_jax.autolabel.reader import RecordReader, ShardFiles
from epfv2_jax.data import images as images_lib
from epfv2_jax.data import records
from epfv2_jax.data.labels import BadRow, Status
from epfv2_jax.structs import Frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a pass reads."""

    plan: Plan
    entries: Sequence[records.RecordEntry]  # of all records, in order
    shards: ShardFiles


@dataclasses.dataclass(kw_only=True, eq=False)
class Batch:
    """The chunks of all slots in one step. Images may still be missing until `wait` returns."""

    unit: int
    last: bool = True  # of its unit
    frames: Frames | None = None  # None: another process has published the unit
    chunks: Sequence[Chunk | None] = ()
    places: list[np.ndarray] = dataclasses.field(default_factory=list)  # by slot: rows of its record that are valid
    problems: list[BadRow] = dataclasses.field(default_factory=list)  # of rows that are published
    decoding: list[concurrent.futures.Future] = dataclasses.field(default_factory=list)

    @property
    def restart(self) -> np.ndarray:
        """(B,) bool: the slots that begin a stream."""
        return np.array([chunk is not None and chunk.first for chunk in self.chunks], bool)

    def wait(self) -> None:
        """Waits until all images are in place."""
        for future in self.decoding:
            self.problems += future.result()
        self.decoding = []


@dataclasses.dataclass(kw_only=True)
class _Slot:
    """What a slot keeps from one chunk to the next."""

    record: int = -1
    first_frame: int = 0  # frame_index of the record's first frame
    run: records.FrameRun | None = None  # None: the record cannot be used
    reason: str = ""
    last_s: float | None = None  # time of the stream's newest valid frame

    def bad_row(self, row: int, status: Status, reason: str) -> BadRow:
        """Returns the entry of a row of the slot's record."""
        return BadRow(record=self.record, frame=self.first_frame + int(row), status=status.name.lower(), reason=reason)


def unit_batches(inputs: Inputs, unit: int, pool: concurrent.futures.Executor) -> Iterator[Batch]:
    """Returns the batches of a unit in the order of `cutting.schedule`; images are decoded in `pool`.

    Raises:
      ValueError: a shard is not the planned one.
      OSError: a shard cannot be read.
    """
    plan, spec = inputs.plan, inputs.plan.records.spec
    steps = cutting.schedule(plan.unit(unit), inputs.entries, plan.config)
    slots = [_Slot() for _ in range(plan.config.slots)]
    with RecordReader(inputs.shards, spec, inputs.entries) as reader:
        for i, chunks in enumerate(steps):
            B, T = len(chunks), plan.config.chunk_frames
            batch = Batch(
                unit=unit,
                last=i == len(steps) - 1,
                frames=structs.blank_frames(B, T, spec.layout.num_views, spec.image_size_hw, spec.camera_model),
                chunks=chunks,
                places=[np.zeros(0, np.int64)] * B,
            )
            for b, chunk in enumerate(chunks):
                if chunk is None:
                    continue
                slot = slots[b]
                if chunk.first:
                    slot.last_s = None
                if slot.record != chunk.record:
                    slot.record, slot.first_frame = chunk.record, inputs.entries[chunk.record].first_frame
                    slot.run, slot.reason = reader.read(chunk.record)
                _fill(batch, b, slot, pool, spec.frame_s)
            yield batch


def _fill(batch: Batch, b: int, slot: _Slot, pool: concurrent.futures.Executor, frame_s: float) -> None:
    """Puts the frames of a chunk into slot `b` of a batch.

    A frame with a faulty pose is left out, as if the camera had dropped it: the next frame comes after a longer gap.
    """
    chunk, run, frames = batch.chunks[b], slot.run, batch.frames
    rows = np.arange(chunk.start, chunk.stop)
    if run is None:
        if chunk.publish:
            batch.problems += [slot.bad_row(row, Status.BAD_RECORD, slot.reason) for row in rows]
        return
    faults = records.headset_faults(run.T_world_headset[rows])
    if chunk.publish:
        batch.problems += [slot.bad_row(rows[i], Status.NON_FINITE, fault) for i, fault in faults.items()]
    rows = np.delete(rows, list(faults))
    n = len(rows)
    if not n:
        return
    frames.frame_gap[b, :n] = records.frame_gaps(run.time_s[rows], frame_s, slot.last_s)
    slot.last_s = float(run.time_s[rows[-1]])
    frames.frame_valid[b, :n] = True
    frames.T_world_headset[b, :n] = run.T_world_headset[rows]
    for place, value in zip(jax.tree.leaves(frames.rig), jax.tree.leaves(run.rig), strict=True):
        place[b] = value
    batch.places[b] = rows
    batch.decoding.append(pool.submit(_decode, run, chunk, rows, frames.images[b], frames.view_valid[b]))


def _decode(
    run: records.FrameRun, chunk: Chunk, rows: np.ndarray, images: np.ndarray, view_valid: np.ndarray
) -> list[BadRow]:
    """Fills images (T, V, H, W) and view_valid (T, V) of a slot; returns what is wrong with the rows it publishes."""
    decoded, valid = records.decode_images(run, chunk.start, chunk.stop)
    images[: len(rows)], view_valid[: len(rows)] = decoded[rows - chunk.start], valid[rows - chunk.start]
    problems = []
    for row in rows[~valid[rows - chunk.start].all(axis=1)] if chunk.publish else ():
        bad = np.flatnonzero(run.view_valid[row] & ~valid[row - chunk.start])
        if len(bad):
            status, reason = Status.BAD_IMAGE, f"view {bad[0]}: {_image_fault(run, row, bad[0])}"
        else:
            missing = np.flatnonzero(~run.view_valid[row])
            status, reason = Status.MISSING_VIEW, f"view {missing[0]} has no image"
        frame = int(run.frame_index[row])
        problems.append(BadRow(record=chunk.record, frame=frame, status=status.name.lower(), reason=reason))
    return problems


def _image_fault(run: records.FrameRun, row: int, view: int) -> str:
    """Returns why an image was refused."""
    height, width = run.image_size_hw
    try:
        found = images_lib.decode_grey(run.jpegs[row][view], max_pixels=height * width).shape
    except ValueError as error:
        return str(error)
    return f"JPEG: {found[1]}x{found[0]} pixels, the record says {width}x{height}"
