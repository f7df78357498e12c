"""Ratios with a removable singularity, exact in value and in gradient on both sides of their series switch.

The switches are wide on purpose: just above a narrow switch the derivative of ``sin(x) / x`` is a difference of two
nearly equal numbers, and in float32 the gradient is many times too large without a NaN to warn of it.
"""

import jax
import jax.numpy as jnp

_SINC_SWITCH = 0.25  # of the squared argument; the first term left out is then below 1e-13
_ATAN_SWITCH = 0.04  # of the squared ratio; the first term left out is then below 1e-12
_TINY = 1e-18  # its power -3/2, the derivative's size, is finite in float32


def sinc_of_square(x2: jax.Array) -> jax.Array:
    """Returns sin(x) / x given x squared (any shape, >= 0); smooth at zero."""
    small = x2 < _SINC_SWITCH
    q = jnp.where(small, x2, 0.0)
    series = 1.0 - q / 6 * (1.0 - q / 20 * (1.0 - q / 42 * (1.0 - q / 72 * (1.0 - q / 110))))
    x = jnp.sqrt(jnp.where(small, 1.0, x2))
    return jnp.where(small, series, jnp.sin(x) / x)


def atan2_ratio(y2: jax.Array, x: jax.Array) -> jax.Array:
    """Returns atan2(y, x) / y given y squared (any shape, >= 0) and x; smooth at y = 0 for x > 0.

    For x <= 0 the ratio has a true pole at y = 0: there the result is huge but finite, and callers mask it.
    """
    small = (x > 0) & (y2 < _ATAN_SWITCH * x * x)
    x_safe = jnp.where(small, x, 1.0)
    q = -jnp.where(small, y2, 0.0) / (x_safe * x_safe)
    series = jnp.ones_like(q) / 15
    for denominator in (13, 11, 9, 7, 5, 3, 1):
        series = series * q + 1.0 / denominator
    y = jnp.sqrt(jnp.where(small, 1.0, jnp.maximum(y2, _TINY)))
    return jnp.where(small, series / x_safe, jnp.arctan2(y, jnp.where(small, 1.0, x)) / y)
