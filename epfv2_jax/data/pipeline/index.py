"""The clips of a split."""

import dataclasses
from typing import NamedTuple

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.records import RecordEntry, Records

#: `clip_id` of a clip that only fills up the last batch.
PADDING_CLIP_ID = -1


class Clip(NamedTuple):
    """Frames [start, stop) of a record."""

    clip_id: int
    record: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndex:
    """The clips of a split, which never leave their records: by `tile` for evaluation, by `draw` for training."""

    record: np.ndarray  # (clips,) int64
    place: np.ndarray  # (clips,) int64, among the clips of its record
    clip_frames: int
    entries: tuple[RecordEntry, ...]  # of the records

    def __len__(self) -> int:
        return len(self.record)

    def tile(self, clip_id: int) -> Clip:
        """Returns the clip where clips tile their record without overlap; the last of a record may be shorter."""
        record = int(self.record[clip_id])
        start = int(self.place[clip_id]) * self.clip_frames
        stop = min(start + self.clip_frames, self.entries[record].num_frames)
        return Clip(clip_id=clip_id, record=record, start=start, stop=stop)

    def draw(self, clip_id: int, epoch: int, seed: int) -> Clip:
        """Returns the clip in an epoch of training: it starts at random, and is as long as the record allows.

        The clips of a record share one random number in an epoch, and follow one another at equal distances of less
        than their length. So an epoch leaves out less than one clip of a record, at its ends, and each frame has its
        turn in other epochs.
        """
        record = int(self.record[clip_id])
        num_frames = self.entries[record].num_frames
        length = min(num_frames, self.clip_frames)
        clips_of_record = -(-num_frames // self.clip_frames)
        shift = np.random.default_rng([seed, epoch, record]).random()
        start = int((int(self.place[clip_id]) + shift) * (num_frames - length + 1) / clips_of_record)
        return Clip(clip_id=clip_id, record=record, start=start, stop=start + length)

    def describe(self, clip_id: int) -> str:
        """Returns the sequence and the frames of a clip, where clips tile their record, for reports."""
        if not 0 <= clip_id < len(self):
            return "padding"
        clip, entry = self.tile(clip_id), self.entries[self.record[clip_id]]
        first = entry.first_frame
        return f"{entry.sequence} frames {first + clip.start}-{first + clip.stop - 1}"


def build_index(records: Records, clip_frames: int) -> ClipIndex:
    """Returns the clips of all records: as many of each as it takes to tile it.

    Raises:
      ValueError: `clip_frames` is not positive, or there are no records.
    """
    checks.at_least(1, clip_frames=clip_frames)
    frames = np.array([entry.num_frames for entry in records.entries], np.int64)
    checks.not_empty(f"{records.directory}: records to cut into clips", frames, "convert some data first")
    counts = -(-frames // clip_frames)
    record = np.repeat(np.arange(len(frames)), counts)
    place = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ClipIndex(record=record, place=place, clip_frames=clip_frames, entries=records.entries)
