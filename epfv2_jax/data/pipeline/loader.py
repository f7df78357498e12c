"""Reads and decodes clips into the arrays of a batch."""

from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

from epfv2_jax import structs
from epfv2_jax.data import records as records_lib
from epfv2_jax.data.labels.labels import Labels
from epfv2_jax.data.pipeline.cache import RunCache
from epfv2_jax.data.pipeline.index import PADDING_CLIP_ID, Clip
from epfv2_jax.data.records import FrameRun, Records


class Loader:
    """Returns the batch of a list of clips. Threads may share it; it can be pickled."""

    def __init__(
        self,
        records: Records,
        clip_frames: int,
        *,
        cache_bytes: int,
        images: bool = True,
        labels: Labels | None = None,
    ):
        self._runs = RunCache(records, cache_bytes)
        self._clip_frames = clip_frames
        self._shape_vj = records.num_views, records.skeleton.num_joints
        self._image_size_hw = records.image_size_hw if images else (0, 0)
        self._frame_s = records.frame_s
        self._labels = labels

    def __call__(self, clips: Sequence[Clip | None]) -> structs.Batch:
        """Returns the batch; None, which must not come first, becomes padding without a valid frame."""
        frames, targets = self._blank(len(clips))
        time_s = np.tile(np.arange(self._clip_frames) * self._frame_s, (len(clips), 1))
        rigs = []
        for b, clip in enumerate(clips):
            if clip is None:
                rigs.append(rigs[-1])  # any rig will do; padding follows clips
                continue
            run, part, n = self._runs[clip.record], slice(clip.start, clip.stop), clip.stop - clip.start
            rigs.append(run.rig)
            self._fill_frames({name: array[b] for name, array in frames.items()}, run, part)
            time_s[b, :n] = run.time_s[part] - run.time_s[clip.start]
            time_s[b, n:] += time_s[b, n - 1] - (n - 1) * self._frame_s  # padding goes on at the nominal rate
            self._fill_targets({name: array[b, :n] for name, array in targets.items()}, run, clip.record, part)
        rig = jax.tree.map(lambda *leaves: np.stack(leaves), *rigs)
        return structs.Batch(
            frames=structs.Frames(rig=rig, **frames),
            targets=structs.Targets(**targets),
            clip_id=np.array([PADDING_CLIP_ID if clip is None else clip.clip_id for clip in clips], np.int32),
            time_s=time_s.astype(np.float32),
        )

    def _blank(self, B: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns the arrays of frames and targets by name, with nothing in them."""
        T, (V, J) = self._clip_frames, self._shape_vj
        frames = {
            "images": np.zeros((B, T, V, *self._image_size_hw), np.uint8),
            "T_world_headset": np.tile(np.eye(4, dtype=np.float32), (B, T, 1, 1)),
            "T_world_before": np.zeros((B, 4, 4), np.float32),
            "view_valid": np.zeros((B, T, V), bool),
            "frame_valid": np.zeros((B, T), bool),
            "frame_gap": np.ones((B, T), np.int32),
        }
        targets = {
            "joints_headset_m": np.zeros((B, T, J, 3), np.float32),
            "joint_valid": np.zeros((B, T, J), bool),
        }
        if self._labels is not None:
            targets["cholesky_m"] = no_cholesky((B, T, J)).copy()
        return frames, targets

    def _fill_frames(self, clip: dict[str, np.ndarray], run: FrameRun, part: slice) -> None:
        """Fills the arrays of one clip; its last pose goes on over the padding."""
        n, first = part.stop - part.start, max(part.start - 1, 0)
        if clip["images"].size:
            clip["images"][:n], clip["view_valid"][:n] = records_lib.decode_images(run, part.start, part.stop)
        else:
            clip["view_valid"][:n] = run.view_valid[part]
        clip["T_world_headset"][:n] = run.T_world_headset[part]
        clip["T_world_headset"][n:] = run.T_world_headset[part.stop - 1]
        clip["frame_valid"][:n] = True
        clip["frame_gap"][:n] = records_lib.frame_gaps(run.time_s[first : part.stop], self._frame_s)[-n:]
        if part.start:
            clip["T_world_before"][:] = run.T_world_headset[first]

    def _fill_targets(self, clip: dict[str, np.ndarray], run: FrameRun, record: int, part: slice) -> None:
        """Fills the arrays (n, J, ...) of one clip with the truth, or with the labels of a teacher if there is one."""
        if self._labels is None:
            clip["joint_valid"][:] = run.joint_valid[part]
            clip["joints_headset_m"][:] = _joints_headset_m(run, part)
            return
        label = self._labels[record]
        clip["joint_valid"][:] = label.ok[part, None]
        clip["joints_headset_m"][:] = label.joints_headset_m[part]
        if label.cholesky6_m is not None:
            clip["cholesky_m"][:] = np.where(label.ok[part, None, None, None], label.cholesky_m[part], np.eye(3))


def iterate(batches: grain.MapDataset, threads: int, prefetch: int, processes: int) -> Iterator[structs.Batch]:
    """Returns the batches of a grain data set in order, read ahead by threads and processes; closing it ends these."""
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


def no_cholesky(leading: tuple[int, ...]) -> np.ndarray:
    """Returns identities (..., 3, 3) float32, which stand where no teacher says how sure it is."""
    return np.broadcast_to(np.eye(3, dtype=np.float32), (*leading, 3, 3))


def _accept_unparsed_flags() -> None:
    """Marks absl's flags as parsed: grain's worker processes read them, and a program without absl.app parses none."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _joints_headset_m(run: FrameRun, part: slice) -> np.ndarray:
    """Returns joints (n, J, 3), headset frame, zero where not valid; in float64, as world origins may be far away."""
    T_world_headset = run.T_world_headset[part].astype(np.float64)
    from_headset_m = run.joints_world_m[part] - T_world_headset[:, None, :3, 3]
    joints_m = from_headset_m @ T_world_headset[:, :3, :3]  # row vectors: the product with the transposed rotation
    return np.where(run.joint_valid[part][..., None], joints_m, 0.0)
