"""Local contrast normalisation: an independent computation, and what must not change the result."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from epfv2_jax.models import contrast


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(2, 40, 56)).astype(np.float32)


def test_it_is_the_detail_over_its_deviation_in_a_window(images):
    """Inside the image; SciPy's filter treats borders in another way."""
    result = np.asarray(contrast.normalize(jnp.asarray(images), 0.2))
    reach = 4
    for image, found in zip(images.astype(np.float64), result, strict=True):
        detail = image - ndimage.uniform_filter(image, 2 * reach + 1)
        deviation = np.sqrt(ndimage.uniform_filter(detail**2, 2 * reach + 1) + 0.03**2)
        inside = (slice(2 * reach, -2 * reach),) * 2
        np.testing.assert_allclose(found[inside], (detail / deviation)[inside], atol=2e-5)


def test_light_does_not_matter(images):
    plain = np.asarray(contrast.normalize(jnp.asarray(images), 0.2))
    assert 0.5 < plain.std() < 1.5
    np.testing.assert_allclose(contrast.normalize(jnp.asarray(images) + 0.3, 0.2), plain, atol=1e-4)
    dimmed = np.asarray(contrast.normalize(0.6 * jnp.asarray(images), 0.2))
    assert np.abs(dimmed - plain).max() < 0.05 < np.abs(0.6 * images - images).max()


def test_flat_images_stay_flat_and_noise_below_the_floor_small():
    flat = jnp.full((1, 32, 32), 0.7)
    np.testing.assert_allclose(contrast.normalize(flat, 0.2), 0.0, atol=1e-4)
    noise = 0.003 * np.random.default_rng(1).normal(size=(1, 32, 32)).astype(np.float32)
    assert np.abs(contrast.normalize(flat + noise, 0.2)).max() < 0.5
