"""The optimizer: what decays, how fast each layer learns, what is frozen, the schedule."""

import dataclasses
import functools
import itertools
import operator

import jax
import numpy as np
import pytest

from epfv2_jax.models.base import Backbone
from epfv2_jax.training import optim

BACKBONE = Backbone(name="any", layers=(("stem", "tokens"), ("block_0",), ("block_1",)))
ONES = functools.partial(np.ones, dtype=np.float32)
PARAMS = {
    "encoder": {
        "stem": {"kernel": ONES((3, 3)), "bias": ONES(3)},
        "tokens": ONES((1, 4, 3)),
        "block_0": {"kernel": ONES((3, 3))},
        "block_1": {"kernel": ONES((3, 3))},
    },
    "head": {"kernel": ONES((3, 3)), "bias": ONES(3)},
}


@functools.partial(jax.jit, static_argnums=(0, 3))
def first_step(config, grads, params, backbone):
    """Returns the updates and the state of the first step."""
    optimizer = optim.make_optimizer(config, 100, backbone)
    return optimizer.update(grads, optimizer.init(params), params)


def updates(config, grads, params=PARAMS, backbone=BACKBONE):
    return jax.device_get(first_step(config, grads, params, backbone)[0])


def test_weight_decay_is_on_kernels_only():
    config = optim.OptimizerConfig(warmup_steps=0, weight_decay=0.5)
    zero = jax.tree.map(np.zeros_like, PARAMS)
    result = updates(config, zero)
    np.testing.assert_allclose(result["head"]["kernel"], -config.learning_rate * 0.5)
    np.testing.assert_array_equal(result["head"]["bias"], 0)
    np.testing.assert_array_equal(result["encoder"]["tokens"], 0)


def test_encoder_scale_scales_the_encoder_only():
    grads = jax.tree.map(np.ones_like, PARAMS)
    full = updates(optim.OptimizerConfig(warmup_steps=0), grads)
    scaled = updates(optim.OptimizerConfig(warmup_steps=0, encoder_scale=0.1), grads)
    np.testing.assert_allclose(scaled["encoder"]["stem"]["kernel"], 0.1 * full["encoder"]["stem"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(scaled["head"]["kernel"], full["head"]["kernel"])


def test_each_encoder_layer_learns_slower_than_the_next():
    grads = jax.tree.map(np.ones_like, PARAMS)
    plain = {"warmup_steps": 0, "weight_decay": 0.0}
    full = updates(optim.OptimizerConfig(**plain), grads)
    config = optim.OptimizerConfig(**plain, encoder_scale=0.5, encoder_layer_decay=0.8)
    decayed = updates(config, grads)
    ratios = jax.tree.map(lambda a, b: float((a / b).ravel()[0]), decayed, full)
    assert ratios["head"] == {"kernel": 1.0, "bias": 1.0}
    expected = {"block_1": 0.5 * 0.8, "block_0": 0.5 * 0.8**2, "stem": 0.5 * 0.8**3, "tokens": 0.5 * 0.8**3}
    for name, value in expected.items():
        np.testing.assert_allclose(jax.tree.leaves(ratios["encoder"][name]), value, rtol=1e-6)


def test_a_module_outside_every_layer_is_named():
    short = dataclasses.replace(BACKBONE, layers=BACKBONE.layers[:2])
    with pytest.raises(ValueError, match="block_1"):
        updates(optim.OptimizerConfig(encoder_layer_decay=0.8), PARAMS, backbone=short)


def test_a_frozen_encoder_is_left_alone_and_costs_no_moments_nor_norm():
    grads = jax.tree.map(np.ones_like, PARAMS)
    config = optim.OptimizerConfig(warmup_steps=0)
    result, state = first_step(config, grads, PARAMS, dataclasses.replace(BACKBONE, frozen=True))
    assert all(not leaf.any() for leaf in jax.tree.leaves(result["encoder"]))
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    assert len(moments) == 2 * len(jax.tree.leaves(PARAMS["head"]))
    # The clip saw the head alone: its norm is sqrt(12), so each first moment is (1 - b1) / sqrt(12).
    np.testing.assert_allclose(moments[0], 0.1 / 12**0.5, rtol=1e-6)


def test_what_is_frozen_with_the_encoder_is_left_alone_too():
    """Weight decay would move parameters without a gradient."""
    params = {**PARAMS, "neck": PARAMS["head"]}
    backbone = dataclasses.replace(BACKBONE, frozen_with=("neck",))
    decay = optim.OptimizerConfig(warmup_steps=0, weight_decay=0.1)
    for frozen in (False, True):
        grads = jax.tree.map(np.zeros_like, params)
        result = updates(decay, grads, params, dataclasses.replace(backbone, frozen=frozen))
        assert result["neck"]["kernel"].any() == (not frozen) and result["head"]["kernel"].any()


def test_without_a_backbone_all_learn_alike():
    """A model may call a module `encoder` that is no registered one."""
    grads = jax.tree.map(np.ones_like, PARAMS)
    config = optim.OptimizerConfig(warmup_steps=0, weight_decay=0.0, encoder_scale=0.1, encoder_layer_decay=0.8)
    result = updates(config, grads, backbone=None)
    np.testing.assert_allclose(result["encoder"]["stem"]["kernel"], result["head"]["kernel"], rtol=1e-6)


def test_schedule_rises_to_the_peak_and_ends_at_the_fraction():
    config = optim.OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.25)
    schedule = jax.jit(optim.learning_rate_schedule(config, 100))
    assert schedule(0) == 0 and schedule(10) == 2.0
    np.testing.assert_allclose(schedule(100), 0.5)
    values = [schedule(i) for i in range(10, 101)]
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_update_is_bounded_by_the_clip_whatever_the_gradient():
    huge = jax.tree.map(lambda p: 1e6 * p, PARAMS)
    _, state = jax.device_get(first_step(optim.OptimizerConfig(warmup_steps=0, weight_decay=0.0), huge, PARAMS, None))
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    assert all(np.abs(m).max() <= 0.1 * 1.0 for m in moments)  # (1 - b1) * clip_norm


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam():
    config = optim.OptimizerConfig(kind="muon", warmup_steps=0, weight_decay=0.0, clip_norm=1e9)
    params = {
        "encoder": {"stem": {"kernel": np.zeros((3, 3, 2, 24)), "bias": np.zeros(24)}},
        "head": {"hidden": {"kernel": np.zeros((40, 16))}, "last": {"kernel": np.zeros((16, 9))}},
        "attention": {  # tokens of 24 channels, 2 heads of 8
            "key": {"kernel": np.zeros((24, 2, 8))},
            "out": {"kernel": np.zeros((2, 8, 24))},
            "query_kernel": np.zeros((24, 2, 8)),
        },
    }
    params = jax.tree.map(np.float32, params)
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    result = updates(config, grads, params, backbone=None)
    kernels = (
        (("encoder", "stem", "kernel"), (18, 24)),
        (("head", "hidden", "kernel"), (40, 16)),
        (("attention", "key", "kernel"), (24, 16)),
        (("attention", "out", "kernel"), (16, 24)),
        (("attention", "query_kernel"), (24, 16)),
    )
    for name, matrix in kernels:
        kernel, grad = (functools.reduce(operator.getitem, name, tree).reshape(matrix) for tree in (result, grads))
        # All singular values alike (Newton-Schulz gets near), along the gradient's axes, of Adam's size.
        U, _, Vt = np.linalg.svd(grad, full_matrices=False)
        along = np.diag(U.T @ np.asarray(kernel) @ Vt.T) / (-config.learning_rate * 0.2 * max(kernel.shape) ** 0.5)
        assert along.min() > 0.5 and along.max() < 1.3
        rms = np.sqrt(np.mean(np.square(kernel)))
        assert 0.5 < rms / (0.2 * config.learning_rate) < 1.3
    # The first step of Adam, here with Nesterov's momentum, is the sign of the gradient.
    for name in (("encoder", "stem", "bias"), ("head", "last", "kernel")):
        update, grad = (functools.reduce(operator.getitem, name, tree) for tree in (result, grads))
        signs = np.asarray(update) / (-config.learning_rate * np.sign(grad))
        np.testing.assert_allclose(signs, signs.ravel()[0], rtol=1e-3)
        assert 1.0 <= signs.ravel()[0] < 1.6


def test_muon_takes_decay_depth_and_frozen_encoders_like_adamw():
    grads = jax.tree.map(np.ones_like, PARAMS)
    plain = {"kind": "muon", "warmup_steps": 0}
    full = updates(optim.OptimizerConfig(**plain, weight_decay=0.0), grads)
    scaled = updates(optim.OptimizerConfig(**plain, weight_decay=0.0, encoder_scale=0.1), grads)
    stems = [result["encoder"]["stem"]["kernel"] for result in (scaled, full)]
    np.testing.assert_allclose(stems[0], 0.1 * stems[1], rtol=1e-6)
    decayed = updates(optim.OptimizerConfig(**plain, weight_decay=0.5), grads)
    np.testing.assert_allclose(decayed["head"]["kernel"] - full["head"]["kernel"], -1e-3 * 0.5, rtol=1e-3)
    np.testing.assert_array_equal(decayed["head"]["bias"], full["head"]["bias"])
    frozen = updates(optim.OptimizerConfig(**plain), grads, backbone=dataclasses.replace(BACKBONE, frozen=True))
    assert all(not leaf.any() for leaf in jax.tree.leaves(frozen["encoder"])) and frozen["head"]["kernel"].all()


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": 0.0}, {"kind": "sgd"}, {"warmup_steps": -1}, {"clip_norm": -1.0}, {"encoder_layer_decay": 1.5}],
)
def test_bad_values_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        optim.OptimizerConfig(**bad)
