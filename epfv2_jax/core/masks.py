"""Masks over frames and joints, and sums under a mask: a masked value, even NaN, reaches no sum and no gradient."""

import chex
import jax
import jax.numpy as jnp


def consecutive(frame_valid: jax.Array, frame_gap: jax.Array, joint_valid: jax.Array, order: int) -> jax.Array:
    """Returns the mask (B, T - order, J) of the valid finite differences of this order.

    Entry t is True where the joint is valid in each of the frames t ... t + order and no frame was dropped between
    them. The time axis has length zero if the clip is too short.

    Args:
      frame_valid: (B, T) bool.
      frame_gap: (B, T) frame times of the data since the previous frame; 1 where none was dropped.
      joint_valid: (B, T, J) bool.
      order: of the difference: 1 for displacements, 3 for jerks.
    """
    chex.assert_rank([frame_valid, frame_gap, joint_valid], [2, 2, 3])
    valid = frame_valid[..., None] & joint_valid
    n = max(valid.shape[1] - order, 0)
    mask = valid[:, :n]
    for i in range(1, order + 1):
        mask = mask & valid[:, i : i + n] & (frame_gap[:, i : i + n] == 1)[..., None]
    return mask


def masked_sum(values: jax.Array, mask: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Returns the sum of `values` where `mask` (of the same shape) is True.

    The gradient is safe only if the computation of `values` is: sanitise its inputs with `keep` first.
    """
    chex.assert_equal_shape([values, mask])
    return jnp.where(mask, values, 0.0).sum(axis)


def keep(values: jax.Array, mask: jax.Array, fill: jax.Array | float = 0.0) -> jax.Array:
    """Returns float32 `values` with `fill` wherever `mask` is False; `mask` has the leading axes of `values`.

    Apply it to the input of a nonlinearity: `jnp.where` on the output alone lets a NaN into the gradient.
    """
    extra = values.ndim - mask.ndim
    chex.assert_equal_shape_prefix([values, mask], mask.ndim)
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * extra), values.shape)
    fill = jnp.asarray(fill, jnp.float32)
    fill = jnp.broadcast_to(fill.reshape((1,) * (values.ndim - fill.ndim) + fill.shape), values.shape)
    return jnp.where(mask, values.astype(jnp.float32), fill)
