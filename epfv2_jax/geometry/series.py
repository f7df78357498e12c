"""Ratios with a removable singularity: a power series near it, accurate in value and gradient on both sides.

The series cover a wide range on purpose: near zero the derivative of the closed form ``sin(x) / x`` is a difference of
two nearly equal numbers, and its float32 gradient is many times too large, with no NaN to warn of it.
"""

import jax
import jax.numpy as jnp

_SINC_SWITCH = 0.25  # squared argument below which the series is used; its first omitted term is below 1e-13
_ATAN_SWITCH = 0.04  # squared ratio below which the series is used; its first omitted term is below 1e-12
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

    For x <= 0 the ratio has a pole at y = 0; there the result is huge but finite, and callers mask it.
    """
    small = (x > 0) & (y2 < _ATAN_SWITCH * x * x)
    x_safe = jnp.where(small, x, 1.0)
    q = -jnp.where(small, y2, 0.0) / (x_safe * x_safe)
    series = jnp.ones_like(q) / 15
    for denominator in (13, 11, 9, 7, 5, 3, 1):
        series = series * q + 1.0 / denominator
    y = jnp.sqrt(jnp.where(small, 1.0, jnp.maximum(y2, _TINY)))
    return jnp.where(small, series / x_safe, jnp.arctan2(y, jnp.where(small, 1.0, x)) / y)
