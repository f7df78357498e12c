"""Distances: the mean error of every predicted pose, in centimetres. What EgoPoseFormer v1 is trained with."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.core import checks, linalg, masks
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives.terms import Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistancesObjectiveConfig:
    """The weight of all poses alike."""

    kind: str = "distances"
    weight: float = 0.1  # of a mean distance in cm; EgoPoseFormer v1's

    def __post_init__(self):
        checks.at_least(0, weight=self.weight)


@dataclasses.dataclass(frozen=True)
class DistancesObjective:
    """The sum over the final pose and all earlier ones of the mean distance between predicted and true joints."""

    config: DistancesObjectiveConfig
    skeleton: Skeleton

    def __call__(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """Returns the terms `mpjpe_cm`, of the final pose, and `NAME_cm` of each earlier one, by its name.

        Joints without a label do not count. A teacher's labels count as all others do (our choice).
        """
        poses = {"mpjpe": predictions.joints_headset_m, **predictions.intermediate_joints_m}
        chex.assert_equal_shape([batch.targets.joints_headset_m, *poses.values()])
        valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
        count = valid.sum(dtype=jnp.float32)
        truth = masks.keep(batch.targets.joints_headset_m, valid)

        def total_cm(joints_m: jax.Array) -> jax.Array:
            return 100 * masks.masked_sum(linalg.norm(masks.keep(joints_m, valid) - truth), valid)

        return {
            f"{name}_cm": Term(total=total_cm(joints_m), count=count, weight=self.config.weight)
            for name, joints_m in poses.items()
        }

    def uses_teacher_uncertainty(self, predicts_distribution: bool) -> bool:
        """Returns False: positions alone are compared."""
        return False
