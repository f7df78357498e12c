"""Similarity (Procrustes) alignment of point sets."""

import chex
import jax
import jax.numpy as jnp

_MIN_VARIANCE_M2 = 1e-12


def similarity_align(source_m: jax.Array, target_m: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns `source_m` moved, turned and scaled onto `target_m` in the weighted least-squares sense: (..., J, 3).

    Args:
      source_m, target_m: (..., J, 3), metres, in any common frame.
      weights: (..., J), >= 0; a point of weight 0 does not affect the others and may hold anything, even NaN.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (1991); never a
    reflection. Degenerate sets (all weights zero, all points equal, or on one line) give finite results: points that
    all coincide are only moved. Gradients treat the rotation as a constant. Those of the weighted squared error are
    still exact, because the optimum is stationary in the rotation, and they are finite where those of an SVD are not.
    """
    chex.assert_equal_shape([source_m, target_m])
    chex.assert_shape(weights, source_m.shape[:-1])
    dtype = jnp.result_type(source_m, target_m, jnp.float32)
    w = weights.astype(dtype)[..., None]
    counted = w > 0
    source = jnp.where(counted, source_m, 0.0).astype(dtype)
    target = jnp.where(counted, target_m, 0.0).astype(dtype)
    total = jnp.sum(w, axis=-2, keepdims=True)
    w = w / jnp.where(total > 0, total, 1.0)

    source_mean = jnp.sum(w * source, axis=-2, keepdims=True)
    target_mean = jnp.sum(w * target, axis=-2, keepdims=True)
    source_centred = jnp.where(counted, source - source_mean, 0.0)
    target_centred = jnp.where(counted, target - target_mean, 0.0)
    covariance = jnp.swapaxes(target_centred, -1, -2) @ (w * source_centred)
    R = _nearest_rotation(jax.lax.stop_gradient(covariance))
    variance = jnp.sum(w * source_centred**2, axis=(-2, -1), keepdims=True)
    extended = variance > _MIN_VARIANCE_M2
    trace = jnp.sum(R * covariance, axis=(-2, -1), keepdims=True)
    scale = jnp.where(extended, trace / jnp.where(extended, variance, 1.0), 1.0)
    return scale * ((source_m.astype(dtype) - source_mean) @ jnp.swapaxes(R, -1, -2)) + target_mean


def _nearest_rotation(matrix: jax.Array) -> jax.Array:
    """Returns the rotation R that maximises trace(R^T matrix)."""
    U, _, Vt = jnp.linalg.svd(matrix)
    sign = jnp.where(jnp.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    ones = jnp.ones_like(sign)
    return (U * jnp.stack([ones, ones, sign], axis=-1)[..., None, :]) @ Vt
