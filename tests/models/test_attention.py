"""Attention: equal to the textbook form, codes of positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.models import attention


def test_single_query_attention_equals_projecting_every_token():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 3, 16)).astype(np.float32)
    keys, values = rng.normal(size=(2, 2, 3, 7, 16)).astype(np.float32)
    module = attention.SingleQueryAttention(heads=4)
    variables = module.init(jax.random.key(0), query, keys, values)
    out = module.apply(variables, query, keys, values)

    W = {name: np.asarray(w, np.float64) for name, w in variables["params"].items()}
    q = np.einsum("btc,cak->btak", query, W["query_kernel"])
    k = np.einsum("btnc,cak->btnak", keys, W["key_kernel"])
    v = np.einsum("btnc,cak->btnak", values, W["value_kernel"])
    logits = np.einsum("btak,btnak->btan", q, k) / np.sqrt(16 / 4)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    textbook = np.einsum("btan,btnak->btak", weights, v).reshape(2, 3, 16)
    np.testing.assert_allclose(out, textbook, atol=1e-5)


def test_rotary_logits_depend_on_time_differences_alone():
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 1, 5, 2, 8)).astype(np.float32)
    time = np.array([[0, 1, 2, 5, 9]])

    def logits(shift):
        rotated = [attention.rotary(jnp.asarray(x), jnp.asarray(time + shift), 100.0) for x in (q, k)]
        return np.einsum("btak,bnak->batn", *rotated)

    np.testing.assert_allclose(logits(0), logits(7), atol=1e-5)
    np.testing.assert_allclose(logits(0), logits(-40), atol=2e-5)
    unrotated = np.einsum("btak,bnak->batn", q, k)
    assert np.abs(logits(0) - unrotated).max() > 0.1  # but differences do matter
    same_time = np.arange(5)
    np.testing.assert_allclose(logits(0)[..., same_time, same_time], unrotated[..., same_time, same_time], atol=1e-5)


def test_attend_ignores_what_is_masked():
    rng = np.random.default_rng(2)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 4, 2, 8)), jnp.float32) for _ in range(3))
    mask = jnp.tril(jnp.ones((1, 4, 4), bool))
    out = attention.attend(q, k, v, mask)
    np.testing.assert_allclose(out[:, 0], v[:, 0], atol=1e-6)
    changed = attention.attend(q, k.at[:, 3].add(5.0), v.at[:, 3].add(5.0), mask)
    np.testing.assert_array_equal(out[:, :3], changed[:, :3])
    assert np.isfinite(attention.attend(q, k, v, jnp.zeros_like(mask))).all()


def test_position_code_tells_cells_apart_and_belongs_to_the_place():
    code = attention.position_code_2d(8, 12, 32)
    assert code.shape == (96, 32)
    distance = np.linalg.norm(code[:, None] - code[None], axis=-1) + 1e9 * np.eye(96)
    assert distance.min() > 0.3
    # The middle cell of a 3x3 grid and of a 1x1 grid cover the same centre.
    np.testing.assert_allclose(
        attention.position_code_2d(3, 3, 32)[4], attention.position_code_2d(1, 1, 32)[0], atol=1e-5
    )
    # Sines and cosines in pairs: how alike two codes are depends on the displacement alone.
    likeness = (code @ code.T).reshape(8, 12, 8, 12)
    np.testing.assert_allclose(likeness[0, 0, 3, 4], likeness[4, 7, 7, 11], rtol=1e-4)
    with pytest.raises(ValueError, match="multiple of 4"):
        attention.position_code_2d(8, 8, 30)
