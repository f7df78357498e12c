"""Derivatives over time: exact for polynomials at any times, finite differences at even ones."""

import jax
import numpy as np
import pytest

from epfv2_jax.core import derivatives

derivative = jax.jit(derivatives.derivative, static_argnums=2)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_polynomial_of_the_order_has_its_derivative_at_uneven_times(order):
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(0.02, 0.3, (2, 9)), axis=1)
    coefficients = rng.normal(size=(order + 1, 4, 3))
    values = sum(c * time_s[..., None, None] ** k for k, c in enumerate(coefficients))
    with jax.enable_x64(True):
        found = derivative(values, time_s, order)
        expected = np.prod(np.arange(1, order + 1)) * coefficients[order]
        np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 9 - order, 4, 3)), rtol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_at_even_times_it_is_the_finite_difference(order):
    values = np.cumsum(np.random.default_rng(1).normal(0, 0.05, (2, 16, 5, 3)), axis=1).astype(np.float32)
    time_s = np.tile(np.arange(16, dtype=np.float32) / 30, (2, 1))
    found = derivative(values, time_s, order) * derivatives.PUBLISHED_FRAME_S**order
    np.testing.assert_allclose(found, np.diff(values, n=order, axis=1), atol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_too_few_frames_have_none(length):
    assert derivative(np.zeros((2, length, 3)), np.zeros((2, length)), 3).shape == (2, 0, 3)
