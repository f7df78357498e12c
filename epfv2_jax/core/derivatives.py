"""Derivatives of motion that is sampled at even or uneven times."""

import chex
import jax

#: Unit of time of the published figures, seconds: one frame of EgoBody3M. The paper gives MPJVE and its jerk weight
#: without a unit of time; this one is our choice.
PUBLISHED_FRAME_S = 1 / 30


def derivative(values: jax.Array, time_s: jax.Array, order: int) -> jax.Array:
    """Returns (B, T - order, ...) derivatives, unit of `values` / s^order; empty where T is too small.

    Entry t is order! times the divided difference over the frames t ... t + order. At even times this is the finite
    difference over the time step to the power `order`; for a polynomial of this degree it is exact at any times.

    Args:
      values: (B, T, ...).
      time_s: (B, T), strictly increasing.
      order: 1 for velocity, 3 for jerk.
    """
    chex.assert_equal_shape_prefix([values, time_s], 2)
    for k in range(1, order + 1):
        span_s = time_s[:, k:] - time_s[:, :-k]
        span_s = span_s.reshape(span_s.shape + (1,) * (values.ndim - 2))
        values = k * (values[:, 1:] - values[:, :-1]) / span_s
    return values
