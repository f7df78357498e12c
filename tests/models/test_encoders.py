"""Encoders: torchvision's layout, shapes, batch statistics, rematerialisation."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.models import encoders
from epfv2_jax.models.encoders import resnet

# Of torchvision's resnet18 without its classifier.
TORCHVISION_TRUNK_PARAMETERS = 11_176_512


def shapes(name):
    """Returns parameter and statistics shapes of an encoder; nothing is computed."""
    image = jnp.zeros((1, 32, 32, 1))
    return jax.eval_shape(encoders.ENCODERS[name]().init, jax.random.key(0), image)


def test_resnet18_has_torchvisions_parameters_but_for_the_stem():
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes("resnet18")["params"]))
    assert count == TORCHVISION_TRUNK_PARAMETERS - 2 * 64 * 7 * 7  # one input channel instead of three


def test_resnet18_names_map_one_to_one_onto_torchvisions(shared_data):
    listed = {}
    for line in (shared_data / "weight_keys" / "torchvision_resnet18.keys.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, shape, _ = line.split("\t")
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            listed[key] = tuple(int(n) for n in re.findall(r"\d+", shape))
    ours = {}
    leaf_names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    variables = shapes("resnet18")
    for collection in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables[collection]):
            *modules, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            modules = [re.sub(r"_(\d)$", r".\1", m) for m in modules]
            shape = leaf.shape
            if name == "kernel":  # height, width, in, out there; out, in, height, width here
                shape = tuple(shape[i] for i in (3, 2, 0, 1))
            ours[".".join([*modules, leaf_names[name]])] = shape
    assert ours.keys() == listed.keys()
    differing = {key: (ours[key], listed[key]) for key in ours if ours[key] != listed[key]}
    assert differing == {"conv1.weight": ((64, 1, 7, 7), (64, 3, 7, 7))}


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 32), ("small", 8), ("small_stride16", 16), ("tiny", 8)])
def test_feature_shape_at_sizes_that_are_not_square_nor_multiples(name, stride):
    for H, W in ((64, 96), (50, 33), (240, 320)):
        encoder = encoders.ENCODERS[name]()
        out, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((3, H, W, 1)))
        assert out.shape[:3] == (3, math.ceil(H / stride), math.ceil(W / stride))


def test_strided_convolution_is_padded_evenly():
    """An impulse in the first pixel reaches output (0, 0) through the kernel's centre; "SAME" would shift it."""
    layer = resnet.conv(1, 3, 2)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    image = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
    out = layer.apply({"params": {"kernel": kernel}}, image)
    assert out.shape == (1, 2, 2, 1) and float(out[0, 0, 0, 0]) == 4.0


@pytest.fixture(scope="module")
def small():
    """The small encoder's variables and four images."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 1)), jnp.float32)
    return jax.jit(encoders.ENCODERS["small"]().init)(jax.random.key(0), images), images


def test_images_that_are_not_valid_do_not_enter_the_statistics(small):
    variables, images = small
    encoder = encoders.ENCODERS["small"]()
    apply = jax.jit(lambda images, valid: encoder.apply(variables, images, True, valid, mutable=["batch_stats"]))
    valid = jnp.array([True, True, False, True])
    out, statistics = apply(images, valid)
    other, other_statistics = apply(images.at[2].set(9.0), valid)
    np.testing.assert_allclose(out[valid], other[valid], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), statistics, other_statistics)
    alone, alone_statistics = jax.jit(lambda x: encoder.apply(variables, x, True, mutable=["batch_stats"]))(
        images[valid]
    )
    np.testing.assert_allclose(out[valid], alone, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), statistics, alone_statistics)
    nothing, nothing_statistics = apply(images, jnp.zeros(4, bool))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((nothing, nothing_statistics)))


def test_rematerialising_changes_the_program_and_no_number(small):
    variables, images = small

    def loss(params, remat):
        encoder = encoders.ENCODERS["small"](remat=remat)
        out, updated = encoder.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return jnp.square(out).sum(), updated

    gradients = jax.value_and_grad(loss, has_aux=True)
    plain, rematerialised = (
        jax.jit(gradients, static_argnums=1)(variables["params"], remat) for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, rematerialised)
    programs = [str(jax.make_jaxpr(gradients, static_argnums=1)(variables["params"], r)) for r in (False, True)]
    assert "prevent_cse" not in programs[0] and "prevent_cse" in programs[1]


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    encoder = encoders.ENCODERS["resnet18"](dtype=jnp.bfloat16)
    out, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    assert out.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
