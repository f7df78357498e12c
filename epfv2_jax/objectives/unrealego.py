"""The objective of UnrealEgo's second stage: distance, direction of bones, and reconstruction of heatmaps.

    L = 0.1 MPJPE(cm) - 0.001 sum over bones of cos(bone, true bone) + 0.001 sum over views of MSE(reconstruction)

Source: UnrealEgo (Akada et al., ECCV 2022), public code. The target of the reconstruction is the predicted heatmap, and
no gradient flows into it. The bones are those of the data's skeleton. Our choice: a bone of a joint without a label, or
one that is shorter than a millimetre, has no direction and is left out; the mean over the others stands for it.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.core import checks, linalg, masks
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives.terms import Term

_SHORTEST_BONE_M = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnrealEgoObjectiveConfig:
    """Weights of the terms, by default the authors'."""

    kind: str = "unrealego"
    position_weight: float = 0.1  # of the mean distance, in cm
    direction_weight: float = 0.001  # of the sum of the cosines of a frame's bones
    reconstruction_weight: float = 0.001  # of the squared errors of each view's heatmaps

    def __post_init__(self):
        checks.at_least(0, position_weight=self.position_weight, direction_weight=self.direction_weight)
        checks.at_least(0, reconstruction_weight=self.reconstruction_weight)


@dataclasses.dataclass(frozen=True)
class UnrealEgoObjective:
    """The terms of L for a model that predicts and reconstructs heatmaps."""

    config: UnrealEgoObjectiveConfig
    skeleton: Skeleton

    def __call__(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """Returns the terms `mpjpe_cm`, `cosine` and `reconstruction_mse`. A teacher's labels count as all others do.

        Raises:
          ValueError: the model does not reconstruct heatmaps.
        """
        again = [name for name in predictions.heatmaps if name == "reconstructed"]
        checks.not_empty(
            "reconstructed heatmaps of the model", again, "choose a model that has some, or another objective"
        )
        config, frames, targets = self.config, batch.frames, batch.targets
        chex.assert_equal_shape([predictions.joints_headset_m, targets.joints_headset_m])
        valid = frames.frame_valid[..., None] & targets.joint_valid
        joints_m, truth_m = (masks.keep(x, valid) for x in (predictions.joints_headset_m, targets.joints_headset_m))
        found = {
            "mpjpe_cm": Term(
                total=100 * masks.masked_sum(linalg.norm(joints_m - truth_m), valid),
                count=valid.sum(dtype=jnp.float32),
                weight=config.position_weight,
            )
        }
        ends, starts = self._bones()
        bones, true_bones = (x[..., ends, :] - x[..., starts, :] for x in (joints_m, truth_m))
        has_direction = linalg.squared_norm(true_bones) > _SHORTEST_BONE_M**2
        has_direction &= valid[..., ends] & valid[..., starts]
        found["cosine"] = Term(
            total=masks.masked_sum(_cosine(bones, true_bones), has_direction),
            count=has_direction.sum(dtype=jnp.float32),
            weight=-config.direction_weight * len(ends),
        )
        target, again = (predictions.heatmaps[name] for name in ("predicted", "reconstructed"))
        error = masks.keep(again - jax.lax.stop_gradient(target), frames.frame_valid)
        V, *cells = target.shape[2:]
        found["reconstruction_mse"] = Term(
            total=jnp.square(error).sum(),
            count=frames.frame_valid.sum(dtype=jnp.float32) * (V * cells[0] * cells[1] * cells[2]),
            weight=config.reconstruction_weight * V,
        )
        return found

    def uses_teacher_uncertainty(self, predicts_distribution: bool) -> bool:
        """Returns False: this objective knows positions only."""
        return False

    def _bones(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the joints that have a parent, and their parents."""
        pairs = [(joint, parent) for joint, parent in enumerate(self.skeleton.parents) if parent >= 0]
        return tuple(joint for joint, _ in pairs), tuple(parent for _, parent in pairs)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns (...) the cosine of the angle between vectors (..., 3); where one of them is zero, zero."""
    lengths = linalg.norm(a) * linalg.norm(b)
    return (a * b).sum(-1) / jnp.where(lengths > 0, lengths, 1.0)
