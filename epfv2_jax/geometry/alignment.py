"""Similarity (Procrustes) and rigid alignment of point sets."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

_MIN_VARIANCE_M2 = 1e-12


@functools.partial(jax.jit, inline=True)
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
    R = nearest_rotation(jax.lax.stop_gradient(covariance))
    variance = jnp.sum(w * source_centred**2, axis=(-2, -1), keepdims=True)
    extended = variance > _MIN_VARIANCE_M2
    trace = jnp.sum(R * covariance, axis=(-2, -1), keepdims=True)
    scale = jnp.where(extended, trace / jnp.where(extended, variance, 1.0), 1.0)
    return scale * ((source_m.astype(dtype) - source_mean) @ jnp.swapaxes(R, -1, -2)) + target_mean


def rigid_fit(source_m: np.ndarray, target_m: np.ndarray) -> np.ndarray:
    """Returns T_target_source (..., 4, 4) float64 that maps host points (..., N, 3) onto others by least squares.

    Kabsch, "A solution for the best rotation to relate two sets of vectors" (1976); never a reflection, nor a scale.
    """
    source_mean, target_mean = (np.asarray(x, np.float64).mean(-2, keepdims=True) for x in (source_m, target_m))
    R = nearest_rotation(np.swapaxes(target_m - target_mean, -1, -2) @ (source_m - source_mean))
    T = np.zeros((*R.shape[:-2], 4, 4))
    T[..., :3, :3], T[..., 3, 3] = R, 1.0
    T[..., :3, 3] = (target_mean - source_mean @ np.swapaxes(R, -1, -2))[..., 0, :]
    return T


def nearest_rotation(matrix: jax.Array) -> jax.Array:
    """Returns the rotation R (..., 3, 3) that maximises trace(R^T matrix); of a host array on the host."""
    xp = np if isinstance(matrix, np.ndarray) else jnp
    U, _, Vt = xp.linalg.svd(matrix)
    sign = xp.where(xp.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    ones = xp.ones_like(sign)
    return (U * xp.stack([ones, ones, sign], axis=-1)[..., None, :]) @ Vt
