"""Endless batches for training, with truth or with a teacher's labels."""

import pathlib
import shutil
from collections.abc import Iterator
from typing import TypeVar

import grain
import jax
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.data.labels.labels import Labels
from epfv2_jax.data.pipeline.config import DataConfig
from epfv2_jax.data.pipeline.index import build_index
from epfv2_jax.data.pipeline.loader import Loader, iterate, no_cholesky
from epfv2_jax.data.records import Records

Array = TypeVar("Array", np.ndarray, jax.Array)

# Samples of an endless order. Grain's own endless `repeat()` is too long to be cut into batches of one.
_ENDLESS = 2**62
# Where processes of Linux hand over memory; containers often have 64 MB of it.
_SHARED_MEMORY = pathlib.Path("/dev/shm")


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
    processes, is the same for every `process_count`. An epoch holds every clip of `build_index` once, in a random
    order; where each starts, `ClipIndex.draw` says.

    Raises:
      ValueError: the batch size is not divisible by the number of processes, the step is negative, there is no data, or
        too little shared memory for the worker processes.
    """
    checks.multiple_of(process_count, "batch_size", config.batch_size, "the processes read equal shares")
    checks.within(0, process_count - 1, process_index=process_index)
    checks.at_least(0, start_step=start_step)
    index = build_index(records, config.clip_frames)
    share = config.batch_size // process_count
    loader = Loader(records, config.clip_frames, cache_bytes=config.cache_bytes, labels=labels)
    if config.worker_processes:
        height, width = records.image_size_hw
        _check_shared_memory(config, share * config.clip_frames * records.num_views * height * width)

    def load(i: int, clip_ids: np.ndarray) -> structs.Batch:
        mine = range(process_index * share, (process_index + 1) * share)
        epochs = [((start_step + i) * config.batch_size + row) // len(index) for row in mine]
        return loader([index.draw(int(clip_ids[row]), e, shuffle_seed) for row, e in zip(mine, epochs, strict=True)])

    # Grain's shuffle of epoch e uses seed + e: neighbouring run seeds must not lead to the same orders one epoch apart.
    shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(index)).shuffle(seed=shuffle_seed).repeat(_ENDLESS // len(index))
    batches = order.batch(config.batch_size)[start_step:].map_with_index(load)
    return iterate(batches, config.read_threads, config.prefetch_batches, config.worker_processes)


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
            if cholesky_m is None:  # to be labelled later, or by a teacher without uncertainty
                cholesky_m = no_cholesky(targets.joint_valid.shape)
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
                    pseudo=np.zeros(len(first.clip_id), bool), cholesky_m=no_cholesky(first.targets.joint_valid.shape)
                )
            )
            yield jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    finally:
        for source in (labelled, pseudo):
            source.close()


def confident(cholesky_m: Array, max_sigma_m: float) -> Array:
    """Returns (...) bool: whether the root mean square scale over the axes, |L| / sqrt(3), is at most `max_sigma_m`."""
    return (cholesky_m**2).sum(axis=(-2, -1)) <= 3 * max_sigma_m**2


def _check_shared_memory(config: DataConfig, batch_bytes: int) -> None:
    """Raises unless the batches that the worker processes read ahead fit into what grain hands them over in.

    Without this check a worker would be killed by SIGBUS (exit code -7) at some later step.
    """
    if not _SHARED_MEMORY.is_dir():
        return
    needed_mib = batch_bytes * (config.prefetch_batches + 1) * config.worker_processes / 2**20
    free_mib = shutil.disk_usage(_SHARED_MEMORY).free / 2**20
    if needed_mib > free_mib:
        raise ValueError(
            f"{_SHARED_MEMORY}: {free_mib:.0f} MiB are free, and the batches that data.worker_processes = "
            f"{config.worker_processes} read ahead need {needed_mib:.0f} MiB; make it larger (docker run "
            "--shm-size, an emptyDir with medium: Memory in Kubernetes), lower data.prefetch_batches, or set "
            "data.worker_processes = 0"
        )
