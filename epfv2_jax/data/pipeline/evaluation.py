"""Batches that hold every clip once."""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.data.pipeline.index import build_index
from epfv2_jax.data.pipeline.loader import Loader, iterate
from epfv2_jax.data.records import Records
from epfv2_jax.geometry.skeleton import Skeleton

# Clips follow each other, so a few records are enough of a cache.
_CACHE_BYTES = 32 * 2**20


def eval_batches(
    records: Records,
    clip_frames: int,
    *,
    batch_size: int = 8,
    max_clips: int = 0,
    images: bool = True,
    skeleton: Skeleton | None = None,
    read_threads: int = 2,
) -> Iterator[structs.Batch]:
    """Returns batches that hold every clip once, in order; padding in the last has clip_id -1 and no valid frame.

    Args:
      records: of one split.
      clip_frames: frames T of a clip.
      batch_size: clips B of a batch.
      max_clips: take at most so many clips, spread evenly over the split; 0: all.
      images: False leaves the images out (height and width 0), for statistics of poses.
      skeleton: whose joints the targets have, by name; a joint that the records have not is never valid. None: those
        of the records.
      read_threads: threads that prepare batches ahead; 0: none.

    Raises:
      ValueError: `batch_size` is not positive, `max_clips` is negative, there is no data, or none of the joints.
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
    batches = grain.MapDataset.source(plan).map(loader)
    if skeleton is not None and skeleton.joint_names != records.skeleton.joint_names:
        batches = batches.map(functools.partial(_with_joints, joints=_places(records, skeleton)))
    return iterate(batches, read_threads, max(read_threads, 1), 0)


def _places(records: Records, skeleton: Skeleton) -> np.ndarray:
    """Returns where each joint of a skeleton is among those of the records, (J,); -1 where it is not."""
    known = records.skeleton.joint_names
    if not set(known) & set(skeleton.joint_names):
        raise ValueError(
            f"{records.directory}: joints of {records.skeleton.name!r}, none of which has a name of {skeleton.name!r}; "
            f"convert the data with the names of the model's joints: {', '.join(skeleton.joint_names)[:300]}"
        )
    return np.array([known.index(name) if name in known else -1 for name in skeleton.joint_names])


def _with_joints(batch: structs.Batch, joints: np.ndarray) -> structs.Batch:
    """Returns a batch with the targets of `joints`, places among its own; those of -1 are not valid."""
    known, targets = joints >= 0, batch.targets
    joints_m = np.where(known[:, None], targets.joints_headset_m[..., joints, :], np.float32(0))
    valid = targets.joint_valid[..., joints] & known
    return batch.replace(targets=targets.replace(joints_headset_m=joints_m, joint_valid=valid))
