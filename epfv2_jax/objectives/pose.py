"""The objective: position, uncertainty and smoothness of both decoder stages, on true and on pseudo labels.

    L = lam_pos (w_d MSE(refined) + (1 - w_d) tNLL(refined) + MSE(proposal)) + lam_jerk (jerk(refined) + jerk(proposal))
    L_semi = L(labelled) + lam1 L(pseudo-labelled) + lam2 |s_teacher - s_student|^2

Every term is a sum over joints and frames divided by a count. Counts depend on the batch alone, so a part of a batch
can be normalised by the whole batch's counts: losses and gradients of the parts then simply add (gradient
accumulation), and with the batch split over devices the sums under `jit` are global. Either way the result is that of
the whole batch at once.

Source: EgoPoseFormer v2 (arXiv 2603.04090), objective. Squared distances per joint, the unit, the end points of the
schedule and the degrees of freedom are our choice.
"""

import dataclasses
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.core import linalg, masks
from epfv2_jax.geometry import transforms


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms. The jerk weight is the paper's; the rest is our choice where the paper is silent."""

    position_weight: float = 1.0  # lam_pos
    jerk_weight: float = 0.8  # lam_jerk; with lam_pos = 1 it equals the position term for motion at 5.2 Hz (30 fps)
    nll_degrees_of_freedom: float = 4.0  # nu of the Student-t
    mse_weight_floor: float = 0.1  # w_d at the end of training; it starts at 1
    unit_m: float = 0.1  # of lengths inside the loss, in metres: MSE and NLL gradients are then of one size
    pseudo_weight: float = 1.0  # lam1; where clips carry a teacher's labels
    distillation_weight: float = 0.1  # lam2; 0: the student learns the teacher's poses but not its confidence

    def __post_init__(self):
        for name in ("position_weight", "jerk_weight", "pseudo_weight", "distillation_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("nll_degrees_of_freedom", "unit_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and positive, got {getattr(self, name)}")
        if not 0 <= self.mse_weight_floor <= 1:
            raise ValueError(f"mse_weight_floor must be in [0, 1], got {self.mse_weight_floor}")


def pose_loss(
    predictions: structs.Predictions,
    batch: structs.Batch,
    progress: jax.Array | float,
    config: LossConfig,
    counts: Any = None,
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """Returns (loss, terms): a float32 scalar and the unweighted terms as name -> (sum, count) over this batch.

    Args:
      predictions: leading axes (B, T), headset frame, metres.
      batch: targets and masks; joints outside `frame_valid` and `joint_valid` do not count, whatever they hold. With
        `targets.pseudo` the loss is L_semi, and the terms of the teacher's clips are those that begin with `pseudo_`.
      progress: share of the training that is done, clipped to [0, 1].
      config: weights.
      counts: `term_counts` of the batch of which `batch` is a part; None if it is the whole. The losses of the parts,
        each called with the whole's counts, add up to the loss of the whole.
    """
    own = term_counts(batch)
    counts = own if counts is None else counts
    if batch.targets.pseudo is None:
        return _supervised(predictions, batch, progress, config, own, counts)
    labelled, pseudo = split_pseudo(batch)
    loss, terms = _supervised(predictions, labelled, progress, config, own["labelled"], counts["labelled"])
    pseudo_loss, pseudo_terms = _supervised(predictions, pseudo, progress, config, own["pseudo"], counts["pseudo"])
    loss = loss + config.pseudo_weight * pseudo_loss
    terms |= {f"pseudo_{name}": term for name, term in pseudo_terms.items()}
    there = (batch.frames.frame_valid & batch.targets.pseudo[:, None]).sum(dtype=jnp.float32)
    terms["pseudo_kept"] = (own["pseudo"]["position"], there * batch.targets.joint_valid.shape[-1])
    if predictions.cholesky_m is not None and config.distillation_weight > 0:
        distance = masks.masked_sum(
            uncertainty_distance(predictions.cholesky_m, batch.targets.cholesky_m, _valid(pseudo), config.unit_m),
            _valid(pseudo),
        )
        loss = loss + config.distillation_weight * distance / jnp.maximum(counts["pseudo"]["position"], 1.0)
        terms["distillation"] = (distance, own["pseudo"]["position"])
    return loss, terms


def _supervised(
    predictions: structs.Predictions,
    batch: structs.Batch,
    progress: jax.Array | float,
    config: LossConfig,
    own: dict[str, jax.Array],
    counts: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """L of one kind of labels; `own` counts this batch, `counts` the whole of which it is a part."""
    frames, targets = batch.frames, batch.targets
    chex.assert_equal_shape(
        [predictions.joints_headset_m, predictions.proposal_joints_headset_m, targets.joints_headset_m]
    )
    valid = _valid(batch)

    truth = masks.keep(targets.joints_headset_m, valid)
    refined = masks.keep(predictions.joints_headset_m, valid)
    proposal = masks.keep(predictions.proposal_joints_headset_m, valid)
    T_world_headset = masks.keep(frames.T_world_headset, frames.frame_valid, jnp.eye(4))
    steady = masks.consecutive(frames.frame_valid, frames.frame_gap, targets.joint_valid, order=3)

    sums = {
        "refined_mse": masks.masked_sum(linalg.squared_norm((refined - truth) / config.unit_m), valid),
        "proposal_mse": masks.masked_sum(linalg.squared_norm((proposal - truth) / config.unit_m), valid),
        "refined_jerk": masks.masked_sum(linalg.squared_norm(jerk(refined, T_world_headset) / config.unit_m), steady),
        "proposal_jerk": masks.masked_sum(linalg.squared_norm(jerk(proposal, T_world_headset) / config.unit_m), steady),
    }
    weights = {
        "refined_mse": config.position_weight,
        "proposal_mse": config.position_weight,
        "refined_jerk": config.jerk_weight,
        "proposal_jerk": config.jerk_weight,
    }
    if predictions.cholesky_m is not None:
        cholesky = masks.keep(predictions.cholesky_m, valid, jnp.eye(3)) / config.unit_m
        nll = student_t_nll((refined - truth) / config.unit_m, cholesky, config.nll_degrees_of_freedom)
        sums["refined_nll"] = masks.masked_sum(nll, valid)
        w_d = mse_weight(progress, config.mse_weight_floor)
        weights["refined_mse"] = config.position_weight * w_d
        weights["refined_nll"] = config.position_weight * (1 - w_d)

    kind = {name: "jerk" if name.endswith("jerk") else "position" for name in sums}
    loss = sum(weights[name] * sums[name] / jnp.maximum(counts[kind[name]], 1.0) for name in sums)
    terms = {name: (sums[name], own[kind[name]]) for name in sums}
    # Not a term of the loss: the error in the unit in which people think.
    err_m = jax.lax.stop_gradient(jnp.sqrt(linalg.squared_norm(refined - truth)))
    terms["mpjpe_cm"] = (100 * masks.masked_sum(err_m, valid), own["position"])
    return loss, terms


def term_counts(batch: structs.Batch) -> Any:
    """Returns float32 counts: `position` (valid joints) and `jerk` (valid joints over four unbroken frames).

    With `targets.pseudo` a dict of two such: of the `labelled` clips and of the `pseudo` ones.
    """
    if batch.targets.pseudo is not None:
        labelled, pseudo = split_pseudo(batch)
        return {"labelled": term_counts(labelled), "pseudo": term_counts(pseudo)}
    frames, joint_valid = batch.frames, batch.targets.joint_valid
    steady = masks.consecutive(frames.frame_valid, frames.frame_gap, joint_valid, order=3)
    return {"position": _valid(batch).sum(dtype=jnp.float32), "jerk": steady.sum(dtype=jnp.float32)}


def split_pseudo(batch: structs.Batch) -> tuple[structs.Batch, structs.Batch]:
    """Returns `batch` twice: with the joints of the teacher's clips masked, and with those of all other clips."""
    targets = batch.targets

    def only(clips: jax.Array) -> structs.Batch:
        valid = targets.joint_valid & clips[:, None, None]
        return batch.replace(targets=targets.replace(joint_valid=valid, pseudo=None, cholesky_m=None))

    return only(~targets.pseudo), only(targets.pseudo)


def uncertainty_distance(cholesky_m: jax.Array, teacher_m: jax.Array, valid: jax.Array, unit_m: float) -> jax.Array:
    """Returns (B, T, J) |s_teacher - s|^2, s being the log diagonal and the entries below it of L in units of `unit_m`.

    The paper has the student imitate the teacher's uncertainty; these coordinates and the square are our choice.

    Args:
      cholesky_m: (B, T, J, 3, 3) the student's L, metres.
      teacher_m: (B, T, J, 3, 3) the teacher's; no gradient flows into it.
      valid: (B, T, J); what lies elsewhere may be anything.
      unit_m: as in `LossConfig`.
    """
    chex.assert_equal_shape([cholesky_m, teacher_m])

    def coordinates(cholesky: jax.Array) -> tuple[jax.Array, jax.Array]:
        cholesky = masks.keep(cholesky, valid, jnp.eye(3)) / unit_m
        return jnp.log(jnp.diagonal(cholesky, axis1=-2, axis2=-1)), jnp.tril(cholesky, -1)

    (log_diagonal, lower), (teacher_log_diagonal, teacher_lower) = (
        coordinates(c) for c in (cholesky_m, jax.lax.stop_gradient(teacher_m))
    )
    return linalg.squared_norm(log_diagonal - teacher_log_diagonal) + jnp.square(lower - teacher_lower).sum(
        axis=(-2, -1)
    )


def _valid(batch: structs.Batch) -> jax.Array:
    return batch.frames.frame_valid[..., None] & batch.targets.joint_valid


def mse_weight(progress: jax.Array | float, floor: float) -> jax.Array:
    """Returns w_d: a half cosine from 1 at progress 0 down to `floor` at progress 1, constant outside."""
    progress = jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
    return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def student_t_nll(delta: jax.Array, cholesky: jax.Array, degrees_of_freedom: float) -> jax.Array:
    """Returns (...) the negative log density of a 3D Student-t without its constant.

    (nu + 3)/2 log(1 + m/nu) + 1/2 log |L L^T|, where m = |L^-1 delta|^2.

    Args:
      delta: (..., 3) error.
      cholesky: (..., 3, 3) lower-triangular L of the scale matrix, in the unit of `delta`; the diagonal is positive.
      degrees_of_freedom: nu.
    """
    diagonal = jnp.diagonal(cholesky, axis1=-2, axis2=-1)
    m = linalg.squared_norm(linalg.solve_lower_3x3(cholesky, delta))
    nu = degrees_of_freedom
    return 0.5 * (nu + 3) * jnp.log1p(m / nu) + jnp.log(diagonal).sum(-1)


def jerk(joints_headset_m: jax.Array, T_world_headset: jax.Array) -> jax.Array:
    """Returns (B, T - 3, J, 3) third differences of the joints in the world frame, m per frame cubed; empty if T < 4.

    The world frame is our choice: in the headset frame a turn of the head would count as a jerk of the body.

    Args:
      joints_headset_m: (B, T, J, 3).
      T_world_headset: (B, T, 4, 4).
    """
    return jnp.diff(transforms.apply(T_world_headset, joints_headset_m), n=3, axis=1)
