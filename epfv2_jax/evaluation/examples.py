"""Selects the frames of an evaluation that are drawn: the worst and the typical ones."""

import dataclasses

import jax
import numpy as np

from epfv2_jax import structs


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


def add_worst(worst, keep, predictions, batch, err_cm):
    """Returns the `keep` worst of the examples so far and of this batch, worst first; copies images only for those."""
    # A NaN prediction counts as the worst.
    ranked = np.where(np.isnan(err_cm), np.inf, err_cm)
    frames = ranked.argmax(1)
    for b in np.argsort(-ranked.max(1), kind="stable"):
        err = ranked[b, frames[b]]
        if err == -np.inf or (len(worst) >= keep and (not worst or err <= worst[-1].err_cm)):
            break
        worst = sorted([*worst, _example(predictions, batch, b, frames[b], err)], key=lambda e: -e.err_cm)[:keep]
    return worst


class Sample:
    """A uniform sample of the clips (reservoir sampling, reproducible), one random frame of each."""

    def __init__(self, size: int):
        self._size, self._seen, self._examples = size, 0, []
        self._rng = np.random.default_rng(0)

    def add(self, predictions, batch, err_cm) -> None:
        """Considers each clip of a batch, with the errors `err_cm` (B, T) of its frames, for the sample."""
        for b in range(err_cm.shape[0] if self._size else 0):
            frames = np.flatnonzero(np.isfinite(err_cm[b]))
            if not frames.size:
                continue
            self._seen += 1
            place = len(self._examples) if self._seen <= self._size else int(self._rng.integers(self._seen))
            t = int(self._rng.choice(frames))
            if place < self._size:
                self._examples[place : place + 1] = [_example(predictions, batch, b, t, err_cm[b, t])]

    def typical(self, keep: int, exclude: set[int]) -> tuple[FrameExample, ...]:
        """Returns up to `keep` examples nearest to the median error of the sample, without the clips in `exclude`."""
        if not self._examples:
            return ()
        median = np.median([e.err_cm for e in self._examples])
        ranked = sorted(self._examples, key=lambda e: abs(e.err_cm - median))
        return tuple([e for e in ranked if e.clip_id not in exclude][:keep])


def _example(predictions, batch, b, t, err_cm) -> FrameExample:
    frames, targets = batch.frames, batch.targets

    def at(array):
        return np.array(array[b, t])

    return FrameExample(
        clip_id=int(batch.clip_id[b]),
        frame=int(t),
        err_cm=float(err_cm),
        images=at(frames.images),
        rig=jax.tree.map(lambda leaf: np.array(leaf[b]), frames.rig),
        view_valid=at(frames.view_valid),
        T_world_headset=at(frames.T_world_headset),
        true_joints_headset_m=at(targets.joints_headset_m),
        joint_valid=at(targets.joint_valid),
        joints_headset_m=at(predictions.joints_headset_m),
        distribution=jax.tree.map(at, predictions.distribution),
    )
