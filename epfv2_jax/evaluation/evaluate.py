"""Scores a model on a data set: metrics, those of its baselines, how errors are distributed, and frames to draw."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks, linalg, masks, sharding
from epfv2_jax.data import pipeline, records
from epfv2_jax.evaluation.distribution import FrameErrors
from epfv2_jax.evaluation.examples import NOTHING, FrameExample, Keep, Selection
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.metrics.pose import PoseMetrics, mean_pose_predictions
from epfv2_jax.models.base import PoseModel

#: Runs a model on the frames of a batch.
Predict = Callable[[structs.Frames], structs.Predictions]
#: Passes batches on, and may show how far they are.
Progress = Callable[[Iterable[structs.Batch]], Iterable[structs.Batch]]
#: Names of baselines: the mean pose of the training set, and the model without any image.
MEAN_POSE, VIEWS_HIDDEN = "mean pose", "views hidden"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a model is scored."""

    clip_frames: int = 64  # frames streamed from an empty state; longer than the window
    batch_size: int = 4  # clips
    validation_split: str = "validation"  # scored during training, to keep the best weights
    validation_clips: int = 64  # at most, in evaluations during training, spread evenly over the split; 0: all
    test_split: str = "test"  # scored after training
    pictures: int = 8  # worst frames drawn after the final evaluation; half as many near the median, a quarter best
    ablate_views: bool = True  # final evaluation: also without images and with each view alone, V + 1 more passes
    hide_views: bool = False  # score without images, in validation too: for a model that is trained without them

    def __post_init__(self):
        checks.at_least(1, clip_frames=self.clip_frames, batch_size=self.batch_size)
        checks.at_least(0, validation_clips=self.validation_clips, pictures=self.pictures)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of `evaluate`. Lengths in cm."""

    groups: dict[str, tuple[int, ...]]  # the joints of each metric group with a scored joint, in the table's order
    num_joints: int  # of the model
    unscored: tuple[str, ...]  # its joints that are valid in no frame of the data
    metrics: dict[str, float]  # PoseMetrics.summary of the model
    per_joint_cm: dict[str, float]
    errors: FrameErrors
    # Nominal -> measured share inside the ellipsoid: of all joints, and of each group. Empty without uncertainty.
    calibration: dict[float, float]
    group_calibration: dict[str, dict[float, float]]
    # On the same frames, by name: the mean pose, and the model with hidden views. Empty if they were not asked for.
    baselines: dict[str, dict[str, float]]  # PoseMetrics.summary
    baselines_per_joint_cm: dict[str, dict[str, float]]
    worst: tuple[FrameExample, ...]  # worst first, at most one frame per clip
    median: tuple[FrameExample, ...]  # nearest to the median error, from clips that are not in `worst`
    best: tuple[FrameExample, ...]  # best first, at most one frame per clip


class BatchScores(NamedTuple):
    """What is measured of the predictions for a batch, on the host; -inf where there is no valid joint."""

    sums: PoseMetrics
    frame_err_cm: np.ndarray  # (B, T) mean over the valid joints
    joint_err_cm: np.ndarray  # (B, T, J)


class Tally:
    """Collects the metrics of one model and the frames to draw, batch by batch."""

    def __init__(self, skeleton: Skeleton, keep: Keep):
        self._skeleton, self._selection = skeleton, Selection(keep)
        self._total, self._errors = PoseMetrics.zeros(skeleton.num_joints), FrameErrors.zeros(skeleton.num_joints)

    def add(
        self,
        predictions: structs.Predictions,
        batch: structs.Batch,
        scores: BatchScores,
        rank_cm: np.ndarray | None = None,
    ) -> None:
        """Adds the scores of a batch. Frames are chosen by `rank_cm` (B, T); None: by their error."""
        self._total = self._total.merge(scores.sums)
        self._errors = self._errors.merge(FrameErrors.of(scores.frame_err_cm, scores.joint_err_cm))
        rank_cm = scores.frame_err_cm if rank_cm is None else rank_cm
        self._selection.add(predictions, batch, rank_cm, scores.frame_err_cm)

    def result(self, baselines: Mapping[str, PoseMetrics] | None = None) -> EvaluationResult:
        """Returns the metrics, beside those of baselines by name.

        Raises:
          ValueError: there was no valid frame.
        """
        if not self._total.frames:
            raise ValueError("nothing to evaluate: no batch holds a valid frame; check the split and its manifest")
        baselines, skeleton = baselines or {}, self._skeleton
        scored = self._total.count > 0
        groups = {name: joints for name, joints in skeleton.metric_groups.items() if scored[list(joints)].any()}
        by_group = {name: self._total.calibration(joints) for name, joints in groups.items()}
        return EvaluationResult(
            groups=groups,
            num_joints=skeleton.num_joints,
            unscored=tuple(name for name, seen in zip(skeleton.joint_names, scored, strict=True) if not seen),
            metrics=self._total.summary(skeleton),
            per_joint_cm=self._total.per_joint_cm(skeleton),
            errors=self._errors,
            calibration=self._total.calibration(),
            group_calibration={name: found for name, found in by_group.items() if found},
            baselines={name: sums.summary(skeleton) for name, sums in baselines.items()},
            baselines_per_joint_cm={name: sums.per_joint_cm(skeleton) for name, sums in baselines.items()},
            worst=self._selection.worst,
            median=self._selection.median,
            best=self._selection.best,
        )


def evaluate(
    predict_fn: Predict,
    batches: Iterable[structs.Batch],
    skeleton: Skeleton,
    mean_pose_headset_m: np.ndarray | None = None,
    ablations: Mapping[str, np.ndarray] | None = None,
    keep: Keep = NOTHING,
) -> EvaluationResult:
    """Returns metrics over all valid frames of `batches`, with the worst, median and best frames.

    Each frame counts once, however the frames are batched; padded frames and clips do not count. Displacements and
    jerks are computed within clips, so longer clips yield more of them. Batches of one shape compile once; pass a
    compiled `predict_fn`.

    Args:
      predict_fn: returns the model's predictions for the frames of a batch.
      batches: host (numpy) batches, clip_id -1 on padding.
      skeleton: of the joints.
      mean_pose_headset_m: (J, 3) from `metrics.pose.mean_pose` over the training set; None leaves this baseline out.
      ablations: more baselines by name, from `view_ablations`: the views (V,) bool that the model sees in it.
      keep: how many frames to keep.

    Raises:
      ValueError: there is no valid frame.
    """
    tally = Tally(skeleton, keep)
    baselines = collections.defaultdict(lambda: PoseMetrics.zeros(skeleton.num_joints))
    for batch in batches:
        predictions = predict_fn(batch.frames)
        blind = without_images(batch)
        tally.add(predictions, batch, batch_scores(predictions, blind))
        for name, others in _baselines(predict_fn, batch, mean_pose_headset_m, ablations or {}):
            baselines[name] = baselines[name].merge(batch_scores(others, blind).sums)
    return tally.result(baselines)


def score(
    model: PoseModel,
    variables: Any,
    data: records.Records,
    config: EvaluationConfig,
    *,
    mesh: jax.sharding.Mesh | None = None,
    max_clips: int = 0,
    mean_pose_headset_m: np.ndarray | None = None,
    progress: Progress = lambda batches: batches,
) -> EvaluationResult:
    """Returns the evaluation of a model on the clips of `data` (at most `max_clips`, spread evenly; 0: all).

    Joints are compared by name: those that the data do not have are not scored. The clips of a batch are spread over
    the devices of `mesh` (None: all devices). All processes of a run call this and get the same result. Without a mean
    pose there are neither baselines nor frames to draw; with one, both as `config` says.
    """
    mesh = sharding.make_mesh(sharding.MeshConfig()) if mesh is None else mesh
    batches = open_batches(data, config, mesh, max_clips, model.skeleton)
    if config.hide_views:
        none = np.zeros(model.layout.num_views, bool)
        batches = (batch.replace(frames=show(batch.frames, none)) for batch in batches)
    ablate = config.ablate_views and not config.hide_views and mean_pose_headset_m is not None
    return evaluate(
        on_mesh(model, variables, mesh),
        progress(batches),
        model.skeleton,
        mean_pose_headset_m,
        view_ablations(model.layout) if ablate else None,
        keep=NOTHING if mean_pose_headset_m is None else Keep.of(config.pictures),
    )


def view_ablations(layout: RigLayout) -> dict[str, np.ndarray]:
    """Returns the views (V,) bool that a model sees, by name: none of them, then each alone if there are several."""
    alone = dict(zip(layout.view_names, np.eye(layout.num_views, dtype=bool), strict=True))
    several = {f"{view} alone": shown for view, shown in alone.items()} if len(alone) > 1 else {}
    return {VIEWS_HIDDEN: np.zeros(layout.num_views, bool), **several}


def _baselines(
    predict_fn: Predict,
    batch: structs.Batch,
    mean_pose_headset_m: np.ndarray | None,
    ablations: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, structs.Predictions]]:
    """Yields the name of each baseline and its predictions for a batch."""
    if mean_pose_headset_m is not None:
        yield MEAN_POSE, mean_pose_predictions(mean_pose_headset_m, batch)
    for name, shown in ablations.items():
        yield name, predict_fn(show(batch.frames, shown))


def open_batches(
    data: records.Records,
    config: EvaluationConfig,
    mesh: jax.sharding.Mesh,
    max_clips: int = 0,
    skeleton: Skeleton | None = None,
) -> Iterator[structs.Batch]:
    """Returns the clips of `data` (at most `max_clips`; 0: all) in batches that divide over the devices of `mesh`.

    Their targets are the joints of `skeleton` by name; None: those of the data.
    """
    batch_size = -(-config.batch_size // mesh.size) * mesh.size
    return pipeline.eval_batches(
        data, config.clip_frames, batch_size=batch_size, max_clips=max_clips, skeleton=skeleton
    )


def on_mesh(
    model: PoseModel, variables: Any, mesh: jax.sharding.Mesh
) -> Callable[[structs.Frames], structs.Predictions]:
    """Returns the compiled function from frames on the host to predictions that every process has whole."""
    variables = sharding.put_everywhere(variables, mesh)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH_SPEC)
    return lambda frames: _predict(model, mesh, variables, sharding.put_whole(frames, split))


def show(frames: structs.Frames, shown: np.ndarray) -> structs.Frames:
    """Returns the frames with the views where `shown` (V,) is False not valid: a model sees no picture there."""
    return frames.replace(view_valid=frames.view_valid & shown)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(model: PoseModel, mesh: jax.sharding.Mesh, variables: Any, frames: structs.Frames) -> structs.Predictions:
    predictions = model.apply(variables, frames, train=False)
    # Predictions are small compared with images: every process gets all of them.
    return jax.lax.with_sharding_constraint(predictions, sharding.replicated(mesh))


def without_images(batch: structs.Batch) -> structs.Batch:
    """Returns the batch for metrics, which read no images: none are sent to the device a second time."""
    return batch.replace(frames=batch.frames.replace(images=None))


def batch_scores(predictions: structs.Predictions, batch: structs.Batch) -> BatchScores:
    """Returns what is measured of predictions for a batch; its images are not read."""
    sums, frame_err_cm, joint_err_cm = _scores(predictions, batch)
    sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), sums)
    return BatchScores(sums, np.asarray(frame_err_cm), np.asarray(joint_err_cm))


@jax.jit
def _scores(predictions: structs.Predictions, batch: structs.Batch) -> tuple[PoseMetrics, jax.Array, jax.Array]:
    sums = PoseMetrics.from_batch(predictions, batch)
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    delta = masks.keep(predictions.joints_headset_m, valid) - masks.keep(batch.targets.joints_headset_m, valid)
    count, err_cm = valid.sum(-1), 100 * jnp.sqrt(linalg.squared_norm(delta))
    frame_err_cm = masks.masked_sum(err_cm, valid, axis=-1) / jnp.maximum(count, 1)
    return sums, jnp.where(count > 0, frame_err_cm, -jnp.inf), jnp.where(valid, err_cm, -jnp.inf)
