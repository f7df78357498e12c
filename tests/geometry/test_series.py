import jax
import numpy as np
import pytest

from epfv2_jax.geometry import series

sinc_of_square = jax.jit(jax.value_and_grad(series.sinc_of_square))
atan2_ratio = jax.jit(jax.value_and_grad(series.atan2_ratio, argnums=(0, 1)))


@pytest.mark.parametrize("x", [0.0, 1e-6, 1e-3, 0.1, 0.4999, 0.5001, 1.0, 3.0, np.pi])
def test_sinc_value_and_gradient_equal_float64(x):
    value, gradient = sinc_of_square(np.float32(x * x))
    q = np.float64(np.float32(x * x))
    if q < 1e-2:
        expected, slope = 1 - q / 6 + q**2 / 120 - q**3 / 5040, -1 / 6 + q / 60 - q**2 / 1680
    else:
        t = np.sqrt(q)
        expected, slope = np.sin(t) / t, (np.cos(t) / t - np.sin(t) / t**2) / (2 * t)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 1e-6, 1e-3, 0.1, 0.1999, 0.2001, 1.0, 50.0])
@pytest.mark.parametrize("x", [0.02, 1.0, 3.0])
def test_atan2_ratio_value_and_gradient_equal_float64(ratio, x):
    y2 = np.float32((ratio * x) ** 2)
    value, (by_y2, by_x) = atan2_ratio(y2, np.float32(x))
    x, y2 = np.float64(np.float32(x)), np.float64(y2)
    y = np.sqrt(y2)
    if y < 1e-2 * x:
        q = y2 / x**2
        expected = (1 - q / 3 + q**2 / 5) / x
        slope_y2, slope_x = (-1 / 3 + 2 * q / 5 - 3 * q**2 / 7) / x**3, -1 / (x**2 + y2)
    else:
        expected = np.arctan2(y, x) / y
        slope_y2, slope_x = (x / (x**2 + y2) - expected) / (2 * y2), -1 / (x**2 + y2)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(by_y2, slope_y2, rtol=3e-5)
    np.testing.assert_allclose(by_x, slope_x, rtol=1e-5)


def test_atan2_ratio_is_finite_at_its_pole():
    value, (by_y2, _) = atan2_ratio(np.float32(0.0), np.float32(-1.0))
    assert np.isfinite(value) and np.isfinite(by_y2)
