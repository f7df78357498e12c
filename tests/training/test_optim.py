import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.training import optim

PARAMS = {
    "encoder": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)},
    "head": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)},
}


def updates(config, grads, params=PARAMS):
    optimizer = optim.make_optimizer(config, 100)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_weight_decay_is_on_kernels_only():
    config = optim.OptimizerConfig(warmup_steps=0, weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    result = updates(config, zero)
    np.testing.assert_allclose(result["head"]["kernel"], -config.learning_rate * 0.5)
    np.testing.assert_array_equal(result["head"]["bias"], 0)


def test_encoder_scale_scales_the_encoder_only():
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    full = updates(optim.OptimizerConfig(warmup_steps=0), grads)
    scaled = updates(optim.OptimizerConfig(warmup_steps=0, encoder_scale=0.1), grads)
    np.testing.assert_allclose(scaled["encoder"]["kernel"], 0.1 * full["encoder"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(scaled["head"]["kernel"], full["head"]["kernel"])


def test_schedule_rises_to_the_peak_and_ends_at_the_fraction():
    config = optim.OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.25)
    schedule = optim.learning_rate_schedule(config, 100)
    assert schedule(0) == 0 and schedule(10) == 2.0
    np.testing.assert_allclose(schedule(100), 0.5)
    values = [schedule(i) for i in range(10, 101)]
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_update_is_bounded_by_the_clip_whatever_the_gradient():
    optimizer = optim.make_optimizer(optim.OptimizerConfig(warmup_steps=0, weight_decay=0.0), 100)
    huge = jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), PARAMS)
    _, state = optimizer.update(huge, optimizer.init(PARAMS), PARAMS)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    assert all(float(jnp.abs(m).max()) <= 0.1 * 1.0 for m in moments)  # (1 - b1) * clip_norm


@pytest.mark.parametrize("bad", [{"learning_rate": 0.0}, {"warmup_steps": -1}, {"clip_norm": -1.0}])
def test_bad_values_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        optim.OptimizerConfig(**bad)
