"""Linear algebra of 3-vectors in closed form: no LAPACK call, so it fuses under jit and exports."""

import chex
import jax
import jax.numpy as jnp


def solve_lower_3x3(lower: jax.Array, b: jax.Array) -> jax.Array:
    """Returns x (..., 3) with L x = b, by forward substitution.

    Args:
      lower: (..., 3, 3) L; entries above the diagonal are not read, those on it must not be zero.
      b: (..., 3), with the same leading axes.
    """
    chex.assert_shape(lower, (*b.shape, 3))
    x0 = b[..., 0] / lower[..., 0, 0]
    x1 = (b[..., 1] - lower[..., 1, 0] * x0) / lower[..., 1, 1]
    x2 = (b[..., 2] - lower[..., 2, 0] * x0 - lower[..., 2, 1] * x1) / lower[..., 2, 2]
    return jnp.stack([x0, x1, x2], axis=-1)


def squared_norm(x: jax.Array) -> jax.Array:
    """Returns the squared lengths (...) of vectors (..., C)."""
    return jnp.square(x).sum(-1)


def norm(x: jax.Array) -> jax.Array:
    """Returns the lengths (...) of vectors (..., C); the gradient of a zero vector's is zero."""
    square = squared_norm(x)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
