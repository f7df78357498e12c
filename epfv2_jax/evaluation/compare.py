"""Scores several models on the same frames, over the joints that all of them know."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax import structs
from epfv2_jax.evaluation import evaluate
from epfv2_jax.evaluation.evaluate import EvaluationResult, Predict
from epfv2_jax.evaluation.examples import NOTHING, Keep
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.metrics.visibility import InViewMetrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A model in a comparison."""

    predict: Predict
    skeleton: Skeleton  # of its predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What a comparison measures of a model. The examples of `result` show the same frames for all models."""

    result: EvaluationResult
    in_view: dict[str, dict[str, float]]  # InViewMetrics.summary


def compare(
    contenders: Mapping[str, Contender],
    batches: Iterable[structs.Batch],
    skeleton: Skeleton,
    keep: Keep = NOTHING,
) -> dict[str, Scores]:
    """Returns the scores of each model by name, all over the same frames and the joints that all models know.

    The frames to draw are chosen by the mean over the models of their errors (our choice), so that no model chooses
    them alone; `err_cm` of these examples is that mean.

    Args:
      contenders: the models by name.
      batches: host (numpy) batches, clip_id -1 on padding.
      skeleton: of the batches.
      keep: how many frames to keep.

    Raises:
      ValueError: no joint is known to all models, or there is no valid frame.
    """
    shared = shared_joints({name: contender.skeleton for name, contender in contenders.items()}, skeleton)
    tallies = {name: evaluate.Tally(skeleton, keep) for name in contenders}
    in_view = dict.fromkeys(contenders, InViewMetrics.zeros(skeleton.num_joints))
    for batch in batches:
        batch = batch.replace(targets=batch.targets.replace(joint_valid=batch.targets.joint_valid & shared))
        blind = evaluate.without_images(batch)
        found = {n: by_name(c.predict(batch.frames), c.skeleton, skeleton) for n, c in contenders.items()}
        scored = {name: evaluate.batch_scores(predictions, blind) for name, predictions in found.items()}
        mean_cm = np.mean([scores.frame_err_cm for scores in scored.values()], axis=0)
        for name, predictions in found.items():
            tallies[name].add(predictions, batch, scored[name], mean_cm)
            sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _in_view(predictions, blind))
            in_view[name] = in_view[name].merge(sums)
    return {
        name: Scores(result=tally.result(), in_view=in_view[name].summary(skeleton)) for name, tally in tallies.items()
    }


_in_view = jax.jit(InViewMetrics.from_batch)


def shared_joints(skeletons: Mapping[str, Skeleton], data: Skeleton) -> np.ndarray:
    """Returns which joints (J,) bool of `data` every one of the skeletons has, by name.

    Raises:
      ValueError: there is none; the message says which joints each has.
    """
    shared = np.array([all(name in s.joint_names for s in skeletons.values()) for name in data.joint_names])
    if not shared.any():
        known = {"the records": data, **skeletons}
        listed = "; ".join(f"{name}: {', '.join(s.joint_names[:4])}, ..." for name, s in known.items())
        raise ValueError(
            f"no joint has the same name in all models and in the records ({listed}); compare models of one body"
        )
    return shared


def by_name(predictions: structs.Predictions, own: Skeleton, wanted: Skeleton) -> structs.Predictions:
    """Returns predictions for the joints of `wanted` from those for the joints of `own`; NaN for joints not among them.

    Bodies and heatmaps are left out.
    """
    known = [name in own.joint_names for name in wanted.joint_names]
    rows = np.array([own.joint_names.index(name) if name in own.joint_names else 0 for name in wanted.joint_names])

    def take(x: jax.Array, joint_axis: int) -> jax.Array:
        mask = np.reshape(known, [-1] + [1] * (-joint_axis - 1))
        return jnp.where(mask, jnp.take(x, rows, axis=joint_axis), jnp.nan)

    distribution = predictions.distribution
    if distribution is not None:
        distribution = distribution.replace(cholesky_m=take(distribution.cholesky_m, -3))
    return structs.Predictions(
        joints_headset_m=take(predictions.joints_headset_m, -2),
        intermediate_joints_m={k: take(v, -2) for k, v in predictions.intermediate_joints_m.items()},
        distribution=distribution,
    )
