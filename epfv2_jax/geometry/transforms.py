"""Rigid transforms as 4x4 matrices: ``T_a_b`` maps coordinates in b to a, so inner names cancel in a product."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.core import checks


@functools.partial(jax.jit, inline=True)
def make(rotation: jax.Array, translation_m: jax.Array) -> jax.Array:
    """Returns the transforms (..., 4, 4) of rotations (..., 3, 3) and translations (..., 3); leading axes broadcast."""
    chex.assert_axis_dimension(rotation, -1, 3)
    chex.assert_axis_dimension(translation_m, -1, 3)
    rotation, translation_m = jnp.asarray(rotation), jnp.asarray(translation_m)
    lead = jnp.broadcast_shapes(rotation.shape[:-2], translation_m.shape[:-1])
    dtype = jnp.result_type(rotation, translation_m)
    top = jnp.concatenate(
        [
            jnp.broadcast_to(rotation, (*lead, 3, 3)).astype(dtype),
            jnp.broadcast_to(translation_m, (*lead, 3))[..., None].astype(dtype),
        ],
        axis=-1,
    )
    bottom = jnp.broadcast_to(jnp.asarray([[0.0, 0.0, 0.0, 1.0]], dtype), (*lead, 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def compose(*transforms: jax.Array) -> jax.Array:
    """Returns the product T_a_z of T_a_b, T_b_c, ..., each (..., 4, 4); leading axes broadcast."""
    product = transforms[0]
    for transform in transforms[1:]:
        product = jnp.matmul(product, transform)
    return product


@functools.partial(jax.jit, inline=True)
def invert(T_a_b: jax.Array) -> jax.Array:
    """Returns the inverse T_b_a of rigid transforms (..., 4, 4), by transposing the rotation."""
    chex.assert_axis_dimension(T_a_b, -1, 4)
    R_b_a = jnp.swapaxes(T_a_b[..., :3, :3], -1, -2)
    return make(R_b_a, -(R_b_a @ T_a_b[..., :3, 3:])[..., 0])


@functools.partial(jax.jit, inline=True)
def apply(T_a_b: jax.Array, points_b_m: jax.Array) -> jax.Array:
    """Returns the points (..., N, 3) in a of points (..., N, 3) in b; leading axes broadcast."""
    chex.assert_axis_dimension(T_a_b, -1, 4)
    rotated = rotate(T_a_b, points_b_m)
    return rotated + jnp.broadcast_to(T_a_b[..., None, :3, 3], rotated.shape)


@functools.partial(jax.jit, inline=True)
def rotate(T_a_b: jax.Array, vectors_b: jax.Array) -> jax.Array:
    """Returns the directions (..., N, 3) in a of directions (..., N, 3) in b; leading axes broadcast."""
    chex.assert_axis_dimension(vectors_b, -1, 3)
    return jnp.matmul(vectors_b, jnp.swapaxes(T_a_b[..., :3, :3], -1, -2))


def check_rigid(T_a_b: np.ndarray, name: str = "transform", tolerance: float = 1e-3) -> None:
    """Raises unless all matrices (..., 4, 4), host arrays, are finite rigid transforms.

    Raises:
      ValueError: wrong shape, a value that is not finite, a bottom row other than 0 0 0 1, or a rotation part that is
        not orthonormal and right-handed within `tolerance`.
    """
    T_a_b = np.asarray(T_a_b)
    if T_a_b.shape[-2:] != (4, 4):
        raise ValueError(f"{name}: expected 4x4 matrices, got shape {T_a_b.shape}")
    checks.finite(name, T_a_b, "drop the frame or repair the pose")
    bottom = np.abs(T_a_b[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max(initial=0.0)
    if not bottom <= tolerance:
        raise ValueError(
            f"{name}: the bottom row must be 0 0 0 1 but is off by {bottom:.3g}; is the matrix stored column-major?"
        )
    R = T_a_b[..., :3, :3].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers near 1e308
        error = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max(initial=0.0)
    if not error <= tolerance:  # or NaN
        raise ValueError(f"{name}: the rotation part is not orthonormal: off by {error:.3g}, allowed is {tolerance:g}")
    if (np.linalg.det(R) < 0).any():
        raise ValueError(f"{name}: the rotation part is a reflection (determinant -1); flip one axis")
