"""Heatmaps of joints: the mean squared error against a Gaussian where a camera sees a joint, and zero where none does.

EgoPoseFormer v1 and UnrealEgo train their encoders so before they train on poses. Gaussians have the peak 1 and are
centred on a cell and cut off at three standard deviations, as in the public code of UnrealEgo's authors. That the
middle of a cell is that of the pixels which it covers is our choice, as are the masks.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives.terms import Term


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeatmapObjectiveConfig:
    """The size of the Gaussians, and which joints have a heatmap."""

    kind: str = "heatmap"
    # Of the mean over views, joints and cells: EgoPoseFormer v1 has 10. UnrealEgo adds the errors of its views up, so
    # its weight of 1 is here the number of views.
    weight: float = 10.0
    sigma: float = 1.0  # standard deviation, in cells of the map
    heatmap_joints: tuple[str, ...] = ()  # as in the model's configuration: names in the order of the maps; (): all

    def __post_init__(self):
        checks.at_least(0, weight=self.weight)
        checks.above(0, sigma=self.sigma)


@dataclasses.dataclass(frozen=True)
class HeatmapObjective:
    """The error of the heatmaps "predicted", of any model that predicts them."""

    config: HeatmapObjectiveConfig
    skeleton: Skeleton

    def __call__(
        self, predictions: structs.Predictions, batch: structs.Batch, progress: jax.Array | float
    ) -> dict[str, Term]:
        """Returns the term `heatmap_mse`: over the cells of each joint with a label, in each valid view.

        A joint that the view does not see has an empty map. A teacher's labels count as all others do (our choice).

        Raises:
          ValueError: the model predicts no heatmaps, or of another number of joints.
        """
        checks.not_empty(
            "heatmaps of the model", predictions.heatmaps, "choose a model that predicts some, or another objective"
        )
        predicted, frames = predictions.heatmaps["predicted"], batch.frames
        joints = joint_indices(self.skeleton, self.config.heatmap_joints)
        checks.equal(
            "objective.heatmap_joints, number of joints",
            len(joints),
            predicted.shape[-1],
            "give the model's configuration and the objective's the same joints",
        )
        valid = (batch.targets.joint_valid & frames.frame_valid[..., None])[..., joints]
        joints_headset_m = batch.targets.joints_headset_m[..., joints, :]
        truth = gaussians(joints_headset_m, frames.rig, predicted.shape[-3:-1], self.config.sigma)
        chex.assert_equal_shape([predicted, truth])
        counted = valid[:, :, None] & frames.view_valid[..., None]
        error = jnp.where(counted[..., None, None, :], predicted.astype(jnp.float32) - truth, 0.0)
        cells = predicted.shape[-3] * predicted.shape[-2]
        count = counted.sum(dtype=jnp.float32) * cells
        return {"heatmap_mse": Term(total=jnp.square(error).sum(), count=count, weight=self.config.weight)}

    def uses_teacher_uncertainty(self, predicts_distribution: bool) -> bool:
        """Returns False: heatmaps are made of positions alone."""
        return False


def joint_indices(skeleton: Skeleton, names: tuple[str, ...]) -> list[int]:
    """Returns the joints that have a heatmap, in the order of the maps; no names: all joints.

    Raises:
      ValueError: the skeleton has no such joint.
    """
    return [skeleton.index(name) for name in names] or list(range(skeleton.num_joints))


def gaussians(joints_headset_m: jax.Array, rig: structs.Rig, map_size_hw: tuple[int, int], sigma: float) -> jax.Array:
    """Returns heatmaps (B, T, V, h, w, J) of joints (B, T, J, 3) seen by a rig (B, V).

    The map covers the whole image, whatever its size. A joint behind a camera, beyond its lens or so far outside the
    image that no cell is within three standard deviations has a map of zeros.
    """
    place, seen = rig.project(joints_headset_m)

    def along(axis: int, cells: int) -> jax.Array:
        centre = jnp.round(place[..., axis, None] * cells - 0.5)
        distance = jnp.arange(cells, dtype=jnp.float32).reshape((1,) * (centre.ndim - 1) + (-1,)) - centre
        return jnp.where(jnp.abs(distance) <= jnp.round(3 * sigma), jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    rows = jnp.where(seen[..., None], along(1, map_size_hw[0]), 0.0)
    return jnp.einsum("btvjh,btvjw->btvhwj", rows, along(0, map_size_hw[1]), precision=jax.lax.Precision.HIGHEST)
