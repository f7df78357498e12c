"""The clips of a split."""

import dataclasses

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.records import RecordEntry, Records

#: `clip_id` of a clip that only fills up the last batch.
PADDING_CLIP_ID = -1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndex:
    """The clips of a split: clip i is frames [start, start + length) of a record. A clip never leaves its record."""

    record: np.ndarray  # (clips,) int64
    start: np.ndarray  # (clips,) int64
    length: np.ndarray  # (clips,) int64, at least 1 and at most `clip_frames`
    clip_frames: int
    entries: tuple[RecordEntry, ...]  # of the records

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
    checks.at_least(1, clip_frames=clip_frames)
    frames = np.array([entry.num_frames for entry in records.entries], np.int64)
    checks.not_empty(f"{records.directory}: records to cut into clips", frames, "convert some data first")
    counts = -(-frames // clip_frames)
    record = np.repeat(np.arange(len(frames)), counts)
    start = (np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)) * clip_frames
    length = np.minimum(frames[record] - start, clip_frames)
    return ClipIndex(record=record, start=start, length=length, clip_frames=clip_frames, entries=records.entries)
