"""Limbs in the images: where the arms and legs of a pose lie in each view, and how well a model finds them there.

Our choice, not the paper's. A pose alone says little about which pixels show an arm, and an encoder that starts from
nothing finds out late. Maps of limbs tell it in every view, and need no other labels than the pose and the cameras.
They mark a limb wherever it is, seen or hidden by others.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks, masks
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.objectives.terms import Term

#: Deviation of the Gaussian about a limb, in cells of the map.
SIGMA_CELLS = 0.7
#: Weight of the cells of a limb, relative to the many without.
_PRESENT = 10.0
# Points of a limb that are projected: lenses bend lines.
_POINTS = 6
_FAR_CELLS2 = 1e6


def limb_maps(
    joints_headset_m: jax.Array, rig: structs.Rig, map_size_hw: tuple[int, int], skeleton: Skeleton
) -> jax.Array:
    """Returns maps (B, T, V, h, w, L) in [0, 1] of the limbs of joints (B, T, J, 3) seen by a rig (B, V).

    1 on a limb, falling off as a Gaussian of `SIGMA_CELLS` on both sides. A map covers the whole image, whatever its
    size; points of a limb that the lens cannot see leave no trace.
    """
    chex.assert_axis_dimension(joints_headset_m, 2, skeleton.num_joints)
    start, end = (joints_headset_m[:, :, list(ends)] for ends in zip(*skeleton.limbs, strict=True))
    share = np.linspace(0.0, 1.0, _POINTS, dtype=np.float32)[None, None, :, None, None]
    points = start[:, :, None] * (1 - share) + end[:, :, None] * share  # (B, T, points, L, 3)
    place, seen = rig.project(points.reshape(*points.shape[:2], -1, 3))

    def distance2(axis: int, cells: int) -> jax.Array:
        centre = jnp.arange(cells, dtype=jnp.float32)[None, None, None, None] + 0.5
        along = jnp.square(place[..., axis, None] * cells - centre)
        return along.reshape(*along.shape[:3], _POINTS, -1, cells)  # (B, T, V, points, L, cells)

    rows, columns = distance2(1, map_size_hw[0]), distance2(0, map_size_hw[1])
    rows = jnp.where(seen.reshape(rows.shape[:-1])[..., None], rows, _FAR_CELLS2)
    pairs = (rows[:, :, :, i, ..., None] + columns[:, :, :, i, :, None] for i in range(_POINTS))
    nearest = functools.reduce(jnp.minimum, pairs)
    return jnp.moveaxis(jnp.exp(-0.5 * nearest / SIGMA_CELLS**2), -3, -1)


def limb_term(
    predictions: structs.Predictions, batch: structs.Batch, skeleton: Skeleton, weight: jax.Array | float
) -> Term:
    """Returns the cross-entropy of the predicted limbs, over the cells of each limb with labels in each valid view.

    Raises:
      ValueError: the model finds no limbs.
    """
    logits, frames, targets = predictions.limb_logits, batch.frames, batch.targets
    checks.not_empty(
        "limbs of the model", () if logits is None else (logits,), "set model.limb_maps, or objective.limb_weight = 0"
    )
    valid = targets.joint_valid & frames.frame_valid[..., None]
    start, end = (valid[..., list(ends)] for ends in zip(*skeleton.limbs, strict=True))
    counted = (start & end)[:, :, None] & frames.view_valid[..., None]  # (B, T, V, L)
    joints_headset_m = masks.keep(targets.joints_headset_m, valid)
    truth = limb_maps(joints_headset_m, frames.rig, logits.shape[-3:-1], skeleton)
    chex.assert_equal_shape([logits, truth])
    error = -_PRESENT * truth * jax.nn.log_sigmoid(logits) - (1 - truth) * jax.nn.log_sigmoid(-logits)
    cells = logits.shape[-3] * logits.shape[-2]
    return Term(
        total=jnp.where(counted[..., None, None, :], error, 0.0).sum(),
        count=counted.sum(dtype=jnp.float32) * cells,
        weight=weight,
    )
