"""Scoring a model on a data set: metrics beside the mean-pose baseline, and the frames worth looking at."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import linalg, masks
from epfv2_jax.metrics.pose import PoseMetrics, mean_pose_predictions

#: Columns of the published tables, then ours: (heading, key of `PoseMetrics.summary`).
TABLE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("MPJPE", "mpjpe_cm"),
    ("MPJVE", "mpjve_cm"),
    ("wrist", "wrist_cm"),
    ("shoulder", "shoulder_cm"),
    ("leg", "leg_cm"),
    ("foot", "foot_cm"),
    ("PA-MPJPE", "pa_mpjpe_cm"),
)
# Clips from which the typical frames are chosen: a uniform sample, so that memory does not grow with the data set.
_SAMPLE = 48


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameExample:
    """One frame, with all that a picture of it needs: host arrays, views leading."""

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
    cholesky_m: np.ndarray | None  # (J, 3, 3) scale of the predicted Student-t


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What `evaluate` found. Lengths in cm."""

    metrics: dict[str, float]  # PoseMetrics.summary of the model
    per_joint_cm: dict[str, float]
    calibration: dict[float, float]  # nominal -> measured share inside the ellipsoid; empty without uncertainty
    baseline: dict[str, float] | None  # PoseMetrics.summary of the mean pose on the same frames
    baseline_per_joint_cm: dict[str, float] | None
    degrees_of_freedom: float  # nu of the predicted Student-t
    worst: tuple[FrameExample, ...]  # worst first, one frame of a clip at most
    typical: tuple[FrameExample, ...]  # nearest to the median error, from other clips than `worst`


def evaluate(
    predict_fn: Callable[[structs.Frames], structs.Predictions],
    batches: Iterable[structs.Batch],
    mean_pose_headset_m: np.ndarray | None = None,
    keep_worst: int = 0,
    keep_typical: int = 0,
    degrees_of_freedom: float = 4.0,
) -> EvaluationResult:
    """Returns metrics over all valid frames of `batches`, and the frames worth a picture.

    Each frame counts once, whatever the batching; padded frames and clips do not count. Displacements and jerks are
    taken within clips, so longer clips see more of them. Batches of one shape compile once; hand in a compiled
    `predict_fn`.

    Args:
      predict_fn: what the model says about the frames of a batch.
      batches: host (numpy) batches, clip_id -1 on padding.
      mean_pose_headset_m: (J, 3) from `metrics.mean_pose` over the training set; None leaves the baseline out.
      keep_worst: frames to keep with the largest error, at most one of a clip.
      keep_typical: frames to keep with an error near the median of a sample of the clips.
      degrees_of_freedom: nu of the Student-t with which the uncertainty was trained.

    Raises:
      ValueError: there is no valid frame.
    """
    total, baseline = PoseMetrics.zeros(), PoseMetrics.zeros()
    worst, sample = [], _Sample(_SAMPLE if keep_typical else 0)
    for batch in batches:
        predictions = predict_fn(batch.frames)
        blind = batch.replace(frames=batch.frames.replace(images=None))  # images need not travel a second time
        sums, err_cm = _score(predictions, blind, degrees_of_freedom)
        total = total.merge(_host(sums))
        if mean_pose_headset_m is not None:
            baseline = baseline.merge(_host(_score_mean_pose(mean_pose_headset_m, blind)))
        if keep_worst or keep_typical:
            err_cm = np.asarray(err_cm)
            worst = _add_worst(worst, keep_worst, predictions, batch, err_cm)
            sample.add(predictions, batch, err_cm)
    if not total.frames:
        raise ValueError("nothing to evaluate: no batch holds a valid frame; check the split and its manifest")
    has_baseline = mean_pose_headset_m is not None
    return EvaluationResult(
        metrics=total.summary(),
        per_joint_cm=total.per_joint_cm(),
        calibration=total.calibration(),
        baseline=baseline.summary() if has_baseline else None,
        baseline_per_joint_cm=baseline.per_joint_cm() if has_baseline else None,
        degrees_of_freedom=degrees_of_freedom,
        worst=tuple(worst),
        typical=sample.typical(keep_typical, {example.clip_id for example in worst}),
    )


def write_json(result: EvaluationResult, path: str | pathlib.Path, extra: Mapping[str, Any] | None = None) -> None:
    """Writes the numbers of `result`, after those of `extra`, as strict JSON (null for what could not be measured)."""
    data = {
        **(extra or {}),
        "metrics": result.metrics,
        "mean_pose_baseline": result.baseline,
        "per_joint_cm": result.per_joint_cm,
        "mean_pose_baseline_per_joint_cm": result.baseline_per_joint_cm,
        "calibration": [{"nominal": k, "measured": v} for k, v in result.calibration.items()],
        "worst_frames": [{"clip_id": e.clip_id, "frame": e.frame, "err_cm": e.err_cm} for e in result.worst],
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_strict(data), indent=2, allow_nan=False) + "\n")


def format_table(result: EvaluationResult, name: str = "model") -> str:
    """Returns a plain-text table in cm, columns in the published order, the mean-pose baseline under the model."""
    rows = [(name, result.metrics)] + ([("mean pose", result.baseline)] if result.baseline else [])
    width = max(len(label) for label, _ in rows)
    lines = [" ".join(["cm".ljust(width), *(heading.rjust(8) for heading, _ in TABLE_COLUMNS)])]
    for label, values in rows:
        lines.append(" ".join([label.ljust(width), *(f"{values[key]:8.2f}" for _, key in TABLE_COLUMNS)]))
    if result.baseline:
        ratios = (
            result.metrics[key] / result.baseline[key] if result.baseline[key] else math.nan for _, key in TABLE_COLUMNS
        )
        lines.append(" ".join(["ratio".ljust(width), *(f"{ratio:8.2f}" for ratio in ratios)]))
    return "\n".join(lines)


@functools.partial(jax.jit, static_argnames="degrees_of_freedom")
def _score(predictions, batch, degrees_of_freedom):
    """The sums over a batch and the error of each frame (B, T), cm; -inf where no joint is valid."""
    sums = PoseMetrics.from_batch(predictions, batch, degrees_of_freedom)
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    delta = masks.keep(predictions.joints_headset_m, valid) - masks.keep(batch.targets.joints_headset_m, valid)
    count = valid.sum(-1)
    err_m = masks.masked_sum(jnp.sqrt(linalg.squared_norm(delta)), valid, axis=-1) / jnp.maximum(count, 1)
    return sums, jnp.where(count > 0, 100 * err_m, -jnp.inf)


@jax.jit
def _score_mean_pose(mean_pose_headset_m, batch):
    return PoseMetrics.from_batch(mean_pose_predictions(mean_pose_headset_m, batch), batch)


def _host(sums: PoseMetrics) -> PoseMetrics:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), sums)


def _add_worst(worst, keep, predictions, batch, err_cm):
    """The `keep` worst of the examples so far and of this batch, worst first; images are copied only for those."""
    # A frame whose prediction is not a number is worse than any other.
    ranked = np.where(np.isnan(err_cm), np.inf, err_cm)
    frames = ranked.argmax(1)
    for b in np.argsort(-ranked.max(1), kind="stable"):
        err = ranked[b, frames[b]]
        if err == -np.inf or (len(worst) >= keep and (not worst or err <= worst[-1].err_cm)):
            break
        worst = sorted([*worst, _example(predictions, batch, b, frames[b], err)], key=lambda e: -e.err_cm)[:keep]
    return worst


class _Sample:
    """A uniform sample of the clips (reservoir sampling, reproducible), one random frame of each."""

    def __init__(self, size: int):
        self._size, self._seen, self._examples = size, 0, []
        self._rng = np.random.default_rng(0)

    def add(self, predictions, batch, err_cm) -> None:
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
        cholesky_m=None if predictions.cholesky_m is None else at(predictions.cholesky_m),
    )


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
