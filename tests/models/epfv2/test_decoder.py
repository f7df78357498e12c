"""Cross-attention over views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.models.epfv2 import decoder

B, T, V, N, C = 1, 2, 3, 5, 8


@pytest.fixture(scope="module")
def call():
    """Multi-view attention with fixed weights, as a function of its changeable arguments."""
    rng = np.random.default_rng(0)
    token = jnp.asarray(rng.normal(size=(B, T, C)), jnp.float32)
    keys, values = jnp.asarray(rng.normal(size=(2, B, T, V, N, C)), jnp.float32)
    sigma = jnp.asarray(rng.normal(size=(B, T, V, C)), jnp.float32)
    module = decoder.MultiViewAttention(heads=2)
    views = decoder.ViewTokens(keys=keys, values=values, valid=jnp.ones((B, T, V), bool))
    variables = module.init(jax.random.key(0), token, views, sigma)
    bias = jnp.arange(C, dtype=jnp.float32)
    variables = {"params": {**variables["params"], "join": {**variables["params"]["join"], "bias": bias}}}

    def apply(view_valid, sigma=sigma, values=values):
        valid = jnp.broadcast_to(jnp.array(view_valid), (B, T, V))
        return module.apply(variables, token, decoder.ViewTokens(keys=keys, values=values, valid=valid), sigma)

    return apply, sigma, values, bias


def test_a_view_that_is_not_valid_contributes_zeros(call):
    apply, _, values, bias = call
    np.testing.assert_array_equal(apply([False] * 3), np.broadcast_to(bias, (B, T, C)))
    # One Linear over all views is a sum over views: the valid ones add up to the whole.
    parts = [apply([v == w for w in range(V)]) - bias[None, None] for v in range(V)]
    np.testing.assert_allclose(apply([True] * 3) - bias[None, None], sum(parts), atol=1e-5)
    np.testing.assert_allclose(apply([True, False, True]), apply([True, False, True], values=values.at[:, :, 1].add(9)))


def test_conditioning_steers_its_own_view(call):
    apply, sigma, _, _ = call
    changed = sigma.at[:, :, 1].add(1.0)
    assert np.abs(apply([True] * 3, sigma=changed) - apply([True] * 3)).max() > 1e-3
    np.testing.assert_array_equal(apply([True, False, True], sigma=changed), apply([True, False, True]))
