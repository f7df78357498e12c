"""Selects the frames of an evaluation that are drawn: the worst, the best, and those near the median."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from epfv2_jax import structs

# Clips from which the median frames are chosen: a uniform sample, so that memory does not grow with the data set.
_SAMPLE = 48


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameExample:
    """One frame with everything that a picture of it needs, as host arrays."""

    clip_id: int
    frame: int  # index in its clip
    err_cm: float  # mean over the valid joints
    images: np.ndarray  # (V, H, W)
    rig: structs.Rig  # leading axis (V,)
    view_valid: np.ndarray  # (V,) bool
    T_world_headset: np.ndarray  # (4, 4)
    true_joints_headset_m: np.ndarray  # (J, 3)
    joint_valid: np.ndarray  # (J,) bool
    joints_headset_m: np.ndarray  # (J, 3) predicted
    distribution: structs.StudentT | None  # leading axis (J,); None if the model predicts none
    clip_err_cm: np.ndarray | None = None  # (T,) of all frames of the clip; NaN without a valid joint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """How many frames to keep: the worst and the best, each at most one per clip, and some near the median."""

    worst: int = 0
    median: int = 0
    best: int = 0

    @classmethod
    def of(cls, pictures: int) -> "Keep":
        """Returns so many of the worst, half as many near the median and a quarter as many of the best: our choice."""
        return cls(worst=pictures, median=pictures // 2, best=pictures // 4)


NOTHING = Keep()


class Selection:
    """Collects the frames to draw, batch by batch."""

    def __init__(self, keep: Keep):
        self._keep, self._worst, self._best = keep, [], []
        self._sample = Sample(_SAMPLE if keep.median else 0)

    def add(
        self, predictions: structs.Predictions, batch: structs.Batch, rank_cm: np.ndarray, err_cm: np.ndarray
    ) -> None:
        """Considers the frames of a batch, chosen by `rank_cm` (B, T), whose own errors are `err_cm` (B, T).

        -inf marks a frame without a valid joint.
        """
        clips = Clips(predictions, batch, rank_cm, err_cm)
        # A NaN prediction counts as the worst.
        self._worst = _add_highest(self._worst, self._keep.worst, clips, np.where(np.isnan(rank_cm), np.inf, rank_cm))
        finite = np.isfinite(rank_cm)
        self._best = _add_highest(self._best, self._keep.best, clips, np.where(finite, -rank_cm, -np.inf))
        self._sample.add(clips)

    @property
    def worst(self) -> tuple[FrameExample, ...]:
        """The worst first."""
        return tuple(example for _, example in self._worst)

    @property
    def best(self) -> tuple[FrameExample, ...]:
        """The best first."""
        return tuple(example for _, example in self._best)

    @property
    def median(self) -> tuple[FrameExample, ...]:
        """Those nearest to the median error, from clips that are not in `worst`."""
        return self._sample.median(self._keep.median, {example.clip_id for example in self.worst})


class Sample:
    """A uniform sample of the clips (reservoir sampling, reproducible), one random frame of each."""

    def __init__(self, size: int):
        self._size, self._seen, self._examples = size, 0, []
        self._rng = np.random.default_rng(0)

    def add(self, clips: "Clips") -> None:
        """Considers each clip of a batch for the sample."""
        for b in range(len(clips.rank_cm) if self._size else 0):
            frames = np.flatnonzero(np.isfinite(clips.rank_cm[b]))
            if not frames.size:
                continue
            self._seen += 1
            place = len(self._examples) if self._seen <= self._size else int(self._rng.integers(self._seen))
            t = int(self._rng.choice(frames))
            if place < self._size:
                self._examples[place : place + 1] = [clips.example(b, t)]

    def median(self, keep: int, exclude: set[int]) -> tuple[FrameExample, ...]:
        """Returns up to `keep` examples nearest to the median error of the sample, without the clips in `exclude`."""
        if not self._examples:
            return ()
        median = np.median([e.err_cm for e in self._examples])
        ranked = sorted(self._examples, key=lambda e: abs(e.err_cm - median))
        return tuple([e for e in ranked if e.clip_id not in exclude][:keep])


@dataclasses.dataclass(frozen=True)
class Clips:
    """The clips of a batch with their predictions and errors (B, T)."""

    predictions: structs.Predictions
    batch: structs.Batch
    rank_cm: np.ndarray
    err_cm: np.ndarray

    def example(self, b: int, t: int) -> FrameExample:
        """Returns frame `t` of clip `b`; its images are copied."""
        frames, targets = self.batch.frames, self.batch.targets

        def at(array):
            return np.array(array[b, t])

        rank_cm = float(self.rank_cm[b, t])
        return FrameExample(
            clip_id=int(self.batch.clip_id[b]),
            frame=int(t),
            err_cm=np.inf if np.isnan(rank_cm) else rank_cm,
            images=at(frames.images),
            rig=jax.tree.map(lambda leaf: np.array(leaf[b]), frames.rig),
            view_valid=at(frames.view_valid),
            T_world_headset=at(frames.T_world_headset),
            true_joints_headset_m=at(targets.joints_headset_m),
            joint_valid=at(targets.joint_valid),
            joints_headset_m=at(self.predictions.joints_headset_m),
            distribution=jax.tree.map(at, self.predictions.distribution),
            clip_err_cm=np.where(np.isfinite(self.err_cm[b]), self.err_cm[b], np.nan),
        )


def _add_highest(
    kept: Sequence[tuple[float, FrameExample]], keep: int, clips: Clips, score: np.ndarray
) -> list[tuple[float, FrameExample]]:
    """Returns the `keep` highest (score, example), highest first, of those so far and of the clips (B, T).

    A score of -inf is none.
    """
    kept, frames = list(kept), score.argmax(1)
    for b in np.argsort(-score.max(1), kind="stable"):
        found = float(score[b, frames[b]])
        if found == -np.inf or not keep or (len(kept) >= keep and found <= kept[-1][0]):
            break
        kept = sorted([*kept, (found, clips.example(b, int(frames[b])))], key=lambda pair: -pair[0])[:keep]
    return kept
