"""Rendering in the loop: endless batches of people, drawn on the devices that train, without files.

The host samples people, motions and rooms (`unpainted_batches`), a `Painter` renders them. A batch depends on the
configuration and its step alone, so a run resumes anywhere, on any number of processes.

Row b of the batches shows one person in one room for `SyntheticConfig.clips_per_person` steps, each time a clip of the
same motion that starts at random; then comes another person. The rows change in turn, so that sampling costs the same
in every step. No image comes twice.
"""

import dataclasses
import threading
from collections.abc import Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax import structs
from epfv2_jax.core import checks, lru
from epfv2_jax.data.pipeline.config import DataConfig
from epfv2_jax.data.pipeline.loader import iterate
from epfv2_jax.data.synthetic import body, renderer, rigs
from epfv2_jax.data.synthetic import sequence as sequence_lib
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.data.synthetic.scene import Scene

# The end of the endless stream.
_LAST_STEP = 2**40
# Random streams of a seed; those of a data set's splits are 0, 1 and 2.
_PERSON, _CLIP = 3, 4


class Unpainted(struct.PyTreeNode):
    """A batch before its images are rendered; leading axis B."""

    batch: structs.Batch  # its images have no pixels
    solids: body.Solids  # leading axes (B, T)
    scene: Scene
    noise_seed: jax.Array  # (B,) uint32


def unpainted_batches(
    config: SyntheticConfig,
    data: DataConfig,
    image_size_hw: tuple[int, int],
    *,
    seed: int = 0,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Unpainted]:
    """Returns the endless batches from `start_step` on, numpy arrays, of which this process gets its share.

    Args:
      config: people, motion and seed of the data set; `train_sequences` does not matter.
      data: clips of a batch and their frames, and how far ahead they are sampled.
      image_size_hw: of the upright images to come.
      seed: of the run: another one gives other clips of other people.
      start_step: number of the first batch.
      process_index: of this process.
      process_count: processes that share the batches, which are the same for any number of them.

    Raises:
      ValueError: the batch size is not divisible by the number of processes, or a clip does not fit into
        `config.frames`.
    """
    checks.multiple_of(process_count, "batch_size", data.batch_size, "the processes sample equal shares")
    checks.within(0, process_count - 1, process_index=process_index)
    checks.at_least(0, start_step=start_step)
    checks.within(1, config.frames, clip_frames=data.clip_frames)
    share = data.batch_size // process_count
    rows = range(process_index * share, (process_index + 1) * share)
    sampler = _Sampler(config, seed, rigs.open_headset(config.rig).upright(image_size_hw), data, rows)
    steps = grain.MapDataset.range(start_step, _LAST_STEP)
    return iterate(steps.map(sampler), data.read_threads, data.prefetch_batches, data.worker_processes)


class Painter:
    """Renders batches: `painter(unpainted)` is a `Batch`; it may run under `jax.jit` and over a sharded axis B."""

    def __init__(self, image_size_hw: tuple[int, int], rig: str | None = None):
        """Computes the rays of the cameras of `SyntheticConfig.rig`, for upright images of this size."""
        self._image_size_hw = image_size_hw
        self._rays = renderer.make_rays(rigs.open_headset(rig).upright(image_size_hw))

    def __call__(self, unpainted: Unpainted) -> structs.Batch:
        """Returns the batch with its images, uint8."""
        batch = unpainted.batch

        def clip(inputs) -> jax.Array:
            T_world_headset, solids, scene, noise_seed = inputs
            return renderer.render(self._rays, T_world_headset, solids, scene, jax.random.key(noise_seed))[0]

        inputs = (batch.frames.T_world_headset, unpainted.solids, unpainted.scene, unpainted.noise_seed)
        images = renderer.each(clip, inputs)
        images = images.reshape(*images.shape[:3], *self._image_size_hw)
        return batch.replace(frames=batch.frames.replace(images=images))


def with_black_images(unpainted: Unpainted, image_size_hw: tuple[int, int]) -> structs.Batch:
    """Returns the batch with black images, for a run that sees none."""
    frames = unpainted.batch.frames
    images = jnp.zeros((*frames.view_valid.shape, *image_size_hw), jnp.uint8)
    return unpainted.batch.replace(frames=frames.replace(images=images))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Person:
    sequence: sequence_lib.Sequence
    joints_headset_m: np.ndarray  # (F, J, 3) float32


class _Sampler:
    """Samples the clips of some rows at any step. Threads may share it; it can be pickled."""

    def __init__(self, config: SyntheticConfig, seed: int, rig: structs.Rig, data: DataConfig, rows: range):
        self._arguments = (config, seed, rig, data, rows)
        self._config, self._rig, self._data, self._rows = config, rig, data, rows
        self._seeds = [config.seed, seed]
        self._parts = sequence_lib.motion_parts(config, "train") if config.train_motion else None
        self._people: lru.LRU[tuple[int, int], _Person] = lru.LRU(2 * len(rows))
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), self._arguments

    def __call__(self, step: int) -> Unpainted:
        """Returns the clips of all rows at `step`, stacked."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(self._clip(int(step), row) for row in self._rows))

    def _clip(self, step: int, row: int) -> Unpainted:
        T = self._data.clip_frames
        person = self._person(row, (step + row) // self._config.clips_per_person)
        rng = np.random.default_rng([*self._seeds, _CLIP, row, step])
        sequence = person.sequence
        V = self._rig.T_cam_headset.shape[0]
        start = int(rng.integers(len(sequence.T_world_headset) - T + 1))
        part = slice(start, start + T)
        frames = structs.Frames(
            images=np.zeros((T, V, 0, 0), np.uint8),
            rig=self._rig,
            T_world_headset=sequence.T_world_headset[part],
            T_world_before=sequence.T_world_headset[start - 1] if start else np.zeros((4, 4), np.float32),
            view_valid=np.ones((T, V), bool),
            frame_valid=np.ones(T, bool),
            frame_gap=np.ones(T, np.int32),
        )
        joints_headset_m = person.joints_headset_m[part]
        return Unpainted(
            batch=structs.Batch(
                frames=frames,
                targets=structs.Targets(
                    joints_headset_m=joints_headset_m, joint_valid=np.ones(joints_headset_m.shape[:-1], bool)
                ),
                clip_id=np.int32((step * self._data.batch_size + row) % 2**31),
                time_s=np.arange(T, dtype=np.float32) / np.float32(sequence.clip.fps),
            ),
            solids=jax.tree.map(lambda x: x[part], sequence.solids),
            scene=sequence.scene,
            noise_seed=rng.integers(2**32, dtype=np.uint32),
        )

    def _person(self, row: int, number: int) -> _Person:
        with self._lock:
            person = self._people.get((row, number))
        if person is not None:
            return person
        rng = np.random.default_rng([*self._seeds, _PERSON, row, number])
        part = None if self._parts is None else self._parts[rng.integers(len(self._parts))]
        sequence = sequence_lib.draw_sequence(rng, self._config, "train", part)
        R_world_headset, origin_m = np.split(sequence.T_world_headset[:, None, :3], [3], axis=-1)
        from_headset_m = sequence.joints_world_m - origin_m[..., 0]
        person = _Person(sequence=sequence, joints_headset_m=(from_headset_m[:, :, None] @ R_world_headset)[:, :, 0])
        with self._lock:
            self._people.put((row, number), person)
        return person
