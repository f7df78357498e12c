"""The paper's objective: position, uncertainty and smoothness of every predicted pose, on true and on pseudo labels.

    L = lam_pos (w_d MSE(final) + (1 - w_d) tNLL(final) + MSE(earlier)) + lam_jerk (jerk(final) + jerk(earlier))
    L_semi = L(labelled) + lam1 L(pseudo-labelled) + lam2 |s_teacher - s_student|^2

Source: EgoPoseFormer v2 (arXiv 2603.04090), objective. Squared distances per joint, the units and the end points of the
schedule are our choice. Jerk is per (1/30 s)^3 whatever the frame rate of the data, so that lam_jerk means the same.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.core import checks, linalg, masks
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives import limbs, terms
from epfv2_jax.objectives.terms import Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseObjectiveConfig:
    """Weights of the terms. The jerk weight is the paper's; the rest is our choice where the paper is silent."""

    kind: str = "pose"
    position_weight: float = 1.0  # lam_pos
    jerk_weight: float = 0.8  # lam_jerk; with lam_pos = 1 it equals the position term for motion at about 5 Hz
    mse_weight_floor: float = 0.1  # w_d at the end of training; it starts at 1
    unit_m: float = 0.1  # of lengths inside the loss, in metres: MSE and NLL gradients are then of one size
    pseudo_weight: float = 1.0  # lam1, where clips carry a teacher's labels
    limb_weight: float = 0.0  # of finding the limbs in the images, see `limbs`; for a model with `limb_maps`
    distillation_weight: float = 0.1  # lam2; 0: the student learns the teacher's poses but not its uncertainty

    def __post_init__(self):
        checks.at_least(0, position_weight=self.position_weight, jerk_weight=self.jerk_weight)
        checks.at_least(0, pseudo_weight=self.pseudo_weight, distillation_weight=self.distillation_weight)
        checks.at_least(0, limb_weight=self.limb_weight)
        checks.above(0, unit_m=self.unit_m)
        checks.within(0, 1, mse_weight_floor=self.mse_weight_floor)


@dataclasses.dataclass(frozen=True)
class PoseObjective:
    """The terms of L, or of L_semi where a batch holds clips that a teacher labelled."""

    config: PoseObjectiveConfig
    skeleton: Skeleton

    def __call__(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """Returns the terms over this batch by name; those of a teacher's clips begin with `pseudo_`.

        Args:
          predictions: leading axes (B, T), headset frame, metres.
          batch: joints outside `frame_valid` and `joint_valid` do not count, whatever they hold.
          progress: share of the training that is done, clipped to [0, 1].
        """
        if batch.targets.pseudo is None:
            return self._supervised(predictions, batch, progress)
        config = self.config
        labelled, pseudo = split_pseudo(batch)
        found = self._supervised(predictions, labelled, progress)
        for name, term in self._supervised(predictions, pseudo, progress).items():
            weight = None if term.weight is None else config.pseudo_weight * term.weight
            found[f"pseudo_{name}"] = term.replace(weight=weight)
        valid = _valid(pseudo)
        kept = valid.sum(dtype=jnp.float32)
        there = (batch.frames.frame_valid & batch.targets.pseudo[:, None]).sum(dtype=jnp.float32)
        found["pseudo_kept"] = Term(total=kept, count=there * batch.targets.joint_valid.shape[-1])
        if predictions.distribution is not None and config.distillation_weight > 0:
            distance = terms.uncertainty_distance(
                predictions.distribution.cholesky_m, batch.targets.cholesky_m, valid, config.unit_m
            )
            found["distillation"] = Term(
                total=masks.masked_sum(distance, valid), count=kept, weight=config.distillation_weight
            )
        return found

    def uses_teacher_uncertainty(self, predicts_distribution: bool) -> bool:
        """Returns whether a student that predicts a distribution, or none, imitates that of its teacher."""
        return predicts_distribution and self.config.distillation_weight > 0

    def _supervised(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """L of one kind of labels."""
        config, frames, targets = self.config, batch.frames, batch.targets
        poses = {"refined": predictions.joints_headset_m, **predictions.intermediate_joints_m}
        chex.assert_equal_shape([targets.joints_headset_m, *poses.values()])
        valid = _valid(batch)
        steady = masks.consecutive(frames.frame_valid, frames.frame_gap, targets.joint_valid, order=3)
        counts = {"position": valid.sum(dtype=jnp.float32), "jerk": steady.sum(dtype=jnp.float32)}

        truth = masks.keep(targets.joints_headset_m, valid)
        poses = {name: masks.keep(joints, valid) for name, joints in poses.items()}
        T_world_headset = masks.keep(frames.T_world_headset, frames.frame_valid, jnp.eye(4))

        found = {}
        for name, joints in poses.items():
            error = linalg.squared_norm((joints - truth) / config.unit_m)
            found[f"{name}_mse"] = Term(
                total=masks.masked_sum(error, valid), count=counts["position"], weight=config.position_weight
            )
        for name, joints in poses.items():
            rough = linalg.squared_norm(terms.jerk(joints, T_world_headset, batch.time_s) / config.unit_m)
            found[f"{name}_jerk"] = Term(
                total=masks.masked_sum(rough, steady), count=counts["jerk"], weight=config.jerk_weight
            )
        if config.limb_weight > 0:
            found["limbs"] = limbs.limb_term(predictions, batch, self.skeleton, config.limb_weight)
        residual = poses["refined"] - truth
        if predictions.distribution is not None:
            cholesky = masks.keep(predictions.distribution.cholesky_m, valid, jnp.eye(3)) / config.unit_m
            nu = predictions.distribution.degrees_of_freedom
            nll = terms.student_t_nll(residual / config.unit_m, cholesky, nu)
            w_d = terms.mse_weight(progress, config.mse_weight_floor)
            found["refined_mse"] = found["refined_mse"].replace(weight=config.position_weight * w_d)
            found["refined_nll"] = Term(
                total=masks.masked_sum(nll, valid),
                count=counts["position"],
                weight=config.position_weight * (1 - w_d),
            )
        # Not a term of the loss: the error in the unit in which people think.
        err_m = jax.lax.stop_gradient(jnp.sqrt(linalg.squared_norm(residual)))
        found["mpjpe_cm"] = Term(total=100 * masks.masked_sum(err_m, valid), count=counts["position"])
        return found


def split_pseudo(batch: structs.Batch) -> tuple[structs.Batch, structs.Batch]:
    """Returns `batch` twice: with the joints of the teacher's clips masked, and with all others masked."""
    targets = batch.targets

    def only(clips: jax.Array) -> structs.Batch:
        valid = targets.joint_valid & clips[:, None, None]
        return batch.replace(targets=targets.replace(joint_valid=valid, pseudo=None, cholesky_m=None))

    return only(~targets.pseudo), only(targets.pseudo)


def _valid(batch: structs.Batch) -> jax.Array:
    return batch.frames.frame_valid[..., None] & batch.targets.joint_valid
