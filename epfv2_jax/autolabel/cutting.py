"""Cuts records into units and streams, and the streams of a unit into batches of chunks.

A unit is a contiguous range of records, the work that is published in one piece. It consists of streams. A stream is a
whole sequence, or a part of a long one, cut between records. A stream that begins inside a sequence first reads warm-up
frames, which it does not publish: as many as the teacher's `history` requires for its labels to equal those of
streaming the whole sequence. The batches of a unit have a fixed number of slots. A slot holds one chunk, which is
consecutive frames of one stream.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.data.records import RecordEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Records [first, stop) of one sequence, after warm-up from frame `warmup_frame` of record `warmup_record` on.

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
    first: bool  # of its stream: the slot starts from an empty state
    publish: bool  # False for warm-up


def cut(entries: Sequence[RecordEntry], history: int | None, config: PassConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns units (U, 3) and streams (S, 4), int64, as in `Plan`. A record is in one stream, a stream in one unit.

    A sequence much longer than a slot's share of a unit is cut into nearly equal streams of about that length.

    Args:
      entries: of all records, in order.
      history: frame times that a label depends on, its own included; None: its whole sequence, which is then not cut.
      config: lengths of units and streams.
    """
    share = max(config.unit_frames // config.slots, 1)
    frames = np.array([e.num_frames for e in entries], np.int64)
    first_index = np.array([e.first_frame for e in entries], np.int64)
    starts = np.concatenate([[0], np.cumsum(frames)])  # of each record, in all frames

    streams: list[tuple[int, int, int, int]] = []
    begin = 0  # first record of the sequence
    for stop in range(1, len(entries) + 1):
        if stop < len(entries) and _continues(entries[stop - 1], entries[stop]):
            continue
        length = starts[stop] - starts[begin]
        pieces = 1 if history is None else max(1, round(length / share))
        targets = starts[begin] + np.arange(1, pieces) * length // pieces
        cuts = sorted({begin, *(int(i) for i in np.searchsorted(starts[begin:stop], targets) + begin), stop})
        for a, b in itertools.pairwise(cuts):
            warmup = (a, 0) if a == begin else _warmup_start(first_index, frames, begin, a, history - 1)
            streams.append((a, b, *warmup))
        begin = stop

    sizes = [int(starts[stop] - starts[first]) for first, stop, _, _ in streams]
    units = [(streams[low][0], streams[high - 1][1], sum(sizes[low:high])) for low, high in _group(sizes, config)]
    return np.array(units, np.int64).reshape(-1, 3), np.array(streams, np.int64).reshape(-1, 4)


def schedule(unit: Unit, entries: Sequence[RecordEntry], config: PassConfig) -> list[list[Chunk | None]]:
    """Returns the batches of a unit: the chunk of each slot, None where the slot has no work left.

    This depends on the plan alone, so the same frames always share a batch and round alike. A chunk lies within one
    record and so has one set of cameras.
    """
    slots: list[list[Chunk]] = [[] for _ in range(config.slots)]
    chunks = [_chunks(stream, entries, config.chunk_frames) for stream in unit.streams]
    # The longest first, each into the slot that is free first.
    for stream in sorted(chunks, key=len, reverse=True):
        min(slots, key=len).extend(stream)
    length = max(map(len, slots))
    return [[slot[i] if i < len(slot) else None for slot in slots] for i in range(length)]


def _continues(before: RecordEntry, entry: RecordEntry) -> bool:
    """Returns whether a record continues the sequence of the one before it."""
    return entry.sequence == before.sequence and entry.first_frame >= before.first_frame + before.num_frames


def _group(sizes: Sequence[int], config: PassConfig) -> list[tuple[int, int]]:
    """Returns ranges of streams (given by their frames) that form units of about the right size with few idle slots.

    A unit lasts at least as long as its longest stream, as an even share of all, and as the two streams that meet in a
    slot when there is one more stream than slots. The range that wastes least by this bound is taken. Each tenth by
    which it misses `unit_frames` costs a hundredth; missing it by more than half is not allowed.
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
    """Returns (record, frame) where the `warmup` frame times before `record` begin, in a sequence from `begin` on."""
    oldest = int(first_index[record]) - warmup  # the index of the oldest frame that is needed
    start = record
    while start > begin and first_index[start - 1] + frames[start - 1] > oldest:
        start -= 1
    return start, (max(oldest - int(first_index[start]), 0) if start < record else 0)


def _chunks(stream: Stream, entries: Sequence[RecordEntry], chunk_frames: int) -> list[Chunk]:
    found = []
    for record in range(stream.warmup_record, stream.stop_record):
        start = stream.warmup_frame if record == stream.warmup_record else 0
        for low in range(start, entries[record].num_frames, chunk_frames):
            high = min(low + chunk_frames, entries[record].num_frames)
            publish = record >= stream.first_record
            found.append(Chunk(record=record, start=low, stop=high, first=not found, publish=publish))
    return found
