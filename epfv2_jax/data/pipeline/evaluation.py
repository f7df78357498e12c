"""Batches that hold every clip once."""

from collections.abc import Iterator

import grain
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.data.pipeline.index import build_index
from epfv2_jax.data.pipeline.loader import Loader, iterate
from epfv2_jax.data.records import Records

# Clips follow each other, so a few records are enough of a cache.
_CACHE_BYTES = 32 * 2**20


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
    checks.at_least(1, batch_size=batch_size)
    checks.at_least(0, max_clips=max_clips)
    index = build_index(records, clip_frames)
    clip_ids = np.arange(len(index))
    if 0 < max_clips < len(index):
        clip_ids = (2 * np.arange(max_clips) + 1) * len(index) // (2 * max_clips)
    clips = [*map(index.tile, clip_ids.tolist()), *[None] * (-len(clip_ids) % batch_size)]
    plan = [clips[first : first + batch_size] for first in range(0, len(clips), batch_size)]
    loader = Loader(records, clip_frames, cache_bytes=_CACHE_BYTES, images=images)
    return iterate(grain.MapDataset.source(plan).map(loader), read_threads, max(read_threads, 1), 0)
