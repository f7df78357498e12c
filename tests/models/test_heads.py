"""The Cholesky factor of the uncertainty, and the cells of maps."""

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.models import heads


def test_factor_is_lower_triangular_with_a_positive_diagonal():
    raw = jnp.asarray(np.random.default_rng(0).normal(0, 50, (5, 26, 6)), jnp.float32)
    L = np.asarray(heads.cholesky_from_raw(raw))
    assert (L[..., *np.triu_indices(3, 1)] == 0).all()
    assert (np.diagonal(L, axis1=-2, axis2=-1) >= heads.MIN_SIGMA_M).all()
    np.testing.assert_allclose(L[..., 1, 0], 0.1 * raw[..., 3], rtol=1e-6)
    np.testing.assert_allclose(L[..., 2, 0], 0.1 * raw[..., 4], rtol=1e-6)
    np.testing.assert_allclose(L[..., 2, 1], 0.1 * raw[..., 5], rtol=1e-6)


def test_zeros_mean_the_initial_uncertainty():
    np.testing.assert_allclose(heads.cholesky_from_raw(jnp.zeros((1, 6)))[0], 0.1 * np.eye(3), atol=1e-6)


def test_every_number_has_its_own_entry():
    jacobian = jax.jacobian(lambda r: heads.cholesky_from_raw(r[None])[0].reshape(9))(jnp.zeros(6))
    assert ((np.abs(jacobian) > 0).sum(0) == 1).all() and np.linalg.matrix_rank(jacobian) == 6


def test_a_cell_of_a_map_depends_on_the_cell_of_the_features_that_it_lies_in():
    head = heads.MapHead(channels=3, cells=2)
    blank = jnp.zeros((2, 4, 5, 8))
    variables = head.init(jax.random.key(0), blank)
    found = np.asarray(head.apply(variables, blank.at[1, 2, 3].set(1.0)))
    assert found.shape == (2, 8, 10, 3)
    touched = np.zeros(found.shape, bool)
    touched[1, 4:6, 6:8] = True
    np.testing.assert_array_equal(found != 0, touched)
    assert len(np.unique(found[1, 4:6, 6:8])) == 12, "each finer cell has values of its own"
