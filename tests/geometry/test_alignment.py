import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform as sst

from epfv2_jax.geometry import alignment


def _points(seed=0, count=26):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def squared_error(source, target, weights):
    return jnp.sum((alignment.similarity_align(source, target, weights) - target) ** 2)


def test_undoes_a_known_similarity():
    source = _points()
    R = sst.Rotation.random(random_state=4).as_matrix()
    target = (1.7 * source @ R.T + np.array([[0.3, -2.0, 1.0]])).astype(np.float32)
    np.testing.assert_allclose(alignment.similarity_align(source, target, np.ones(26)), target, atol=1e-5)


def test_rotation_equals_scipy():
    """Of the optimal rotation for noisy points; scipy's align_vectors is the reference."""
    source, target = _points(1), _points(2)
    weights = np.random.default_rng(5).uniform(0.1, 1.0, 26).astype(np.float32)
    share = weights[:, None] / weights.sum()
    a, b = source - (share * source).sum(0), target - (share * target).sum(0)
    R = sst.Rotation.align_vectors(b, a, weights)[0].as_matrix()
    scale = np.sum(share * b * (a @ R.T)) / np.sum(share * a**2)
    expected = scale * a @ R.T + (share * target).sum(0)
    np.testing.assert_allclose(alignment.similarity_align(source, target, weights), expected, atol=1e-5)


def test_never_reflects():
    source = _points()
    mirrored = source * np.array([[-1.0, 1.0, 1.0]], np.float32)
    aligned = np.asarray(alignment.similarity_align(source, mirrored, np.ones(26)))
    volume = [np.linalg.det(p[1:4] - p[:1]) for p in (source, aligned)]
    assert np.sign(volume[0]) == np.sign(volume[1])
    assert np.abs(aligned - mirrored).max() > 0.1


def test_weight_zero_points_do_not_count_even_if_nan():
    source, target = _points(1), _points(2)
    weights = np.ones(26, np.float32)
    weights[3] = 0.0
    spoiled, wrong = source.copy(), target.copy()
    spoiled[3], wrong[3] = np.nan, np.nan
    kept = np.arange(26) != 3
    ours = np.asarray(alignment.similarity_align(spoiled, wrong, weights))
    np.testing.assert_allclose(
        ours[kept], alignment.similarity_align(source[kept], target[kept], np.ones(25)), atol=1e-5
    )


_LINE = np.linspace(0, 1, 26, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("source", "target", "weights"),
    [
        (_points(), _points(1), np.zeros(26)),
        (np.ones((26, 3)), _points(1), np.ones(26)),
        (_points(), np.ones((26, 3)), np.ones(26)),
        (np.zeros((26, 3)), np.zeros((26, 3)), np.ones(26)),
        (_LINE, _LINE[::-1], np.ones(26)),
        (_points() * np.array([[1, 1, 0]]), _points(1), np.ones(26)),
        (_points(), _points(), np.ones(26)),
    ],
    ids=["no weights", "source one point", "target one point", "all zero", "line", "plane", "equal"],
)
def test_finite_values_and_gradients_for_degenerate_sets(source, target, weights):
    arrays = [x.astype(np.float32) for x in (source, target, weights)]
    assert np.isfinite(alignment.similarity_align(*arrays)).all()
    for gradient in squared_error(*arrays)[1]:
        assert np.isfinite(gradient).all()


def test_gradient_of_the_squared_error_equals_differences():
    with jax.enable_x64(True):
        source, target, direction = (_points(seed).astype(np.float64) for seed in (1, 2, 3))
        step, ones = 1e-6, np.ones(26)
        up, down = (float(squared_error(source + sign * step * direction, target, ones)[0]) for sign in (1, -1))
        gradient = np.asarray(squared_error(source, target, ones)[1][0])
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(np.sum(gradient * direction), (up - down) / (2 * step), rtol=1e-6)


def test_batches_equal_a_loop():
    source, target = _points(1, 52).reshape(2, 26, 3), _points(2, 52).reshape(2, 26, 3)
    together = np.asarray(alignment.similarity_align(source, target, np.ones((2, 26))))
    for i in range(2):
        np.testing.assert_allclose(
            together[i], alignment.similarity_align(source[i], target[i], np.ones(26)), atol=1e-5
        )


def test_a_rigid_fit_finds_the_transform_and_never_reflects():
    rng = np.random.default_rng(0)
    R = sst.Rotation.random(4, random_state=0).as_matrix()
    source_m, t_m = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 3))
    T = alignment.rigid_fit(source_m, source_m @ np.swapaxes(R, 1, 2) + t_m[:, None])
    np.testing.assert_allclose(T[:, :3, :3], R, atol=1e-12)
    np.testing.assert_allclose(T[:, :3, 3], t_m, atol=1e-12)
    mirrored_m = source_m * [-1, 1, 1]
    T = alignment.rigid_fit(source_m, mirrored_m)
    np.testing.assert_allclose(np.linalg.det(T[:, :3, :3]), 1.0)
    off_m = source_m @ np.swapaxes(T[:, :3, :3], 1, 2) + T[:, None, :3, 3] - mirrored_m
    assert (np.abs(off_m).max(axis=(1, 2)) > 0.1).all()
