"""Encoders: the originals' layouts, shapes, batch statistics, stochastic depth, rotary places, rematerialisation."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from epfv2_jax.models import encoders
from epfv2_jax.models.encoders import parts, vit
from epfv2_jax.models.encoders.mobilenetv4 import Conv, Fused, Inverted, MobileNetV4
from epfv2_jax.models.encoders.resnet import Bottleneck, ResNet
from epfv2_jax.models.epfv2.model import EPFv2Config

CONVOLUTIONAL = [name for name in encoders.ENCODERS if not name.startswith("dinov3")]

# Our name -> file of keys, what of it we leave out, and what it lacks: the list of the transformers is that of a
# configuration without the biases of queries and values.
LISTED = {
    "resnet18": ("torchvision_resnet18", r"fc\.", 0),
    "mobilenetv4_conv_small": ("timm_mobilenetv4_conv_small", r"blocks\.4\.|conv_head|norm_head|classifier", 0),
    "mobilenetv4_conv_medium": ("timm_mobilenetv4_conv_medium", r"blocks\.4\.|conv_head|norm_head|classifier", 0),
    "dinov3_vits16": ("timm_vit_small_patch16_dinov3", "#", 12 * 2 * 384),
    "dinov3_vits16plus": ("timm_vit_small_plus_patch16_dinov3", "#", 12 * 2 * 384),
    "dinov3_vitb16": ("timm_vit_base_patch16_dinov3", "#", 12 * 2 * 768),
    "dinov3_vitl16": ("timm_vit_large_patch16_dinov3", "#", 24 * 2 * 1024),
}

# Encoders of each family's blocks, and a block's last factor: zero there and the block is its shortcut.
MINIATURES = {
    "resnet": functools.partial(ResNet, block=Bottleneck, blocks=(1, 1)),
    "mobilenetv4": functools.partial(
        MobileNetV4,
        stages=((Fused(8, 2, 3, stride=2), Conv(16, 1)), (Inverted(16, 2, 3, 5, stride=2), Inverted(16, 2, 3))),
    ),
    "vit": functools.partial(vit.ViT, width=32, depth=2, heads=2, mlp_width=64, gated=True),
    "scanned_vit": functools.partial(vit.ViT, width=32, depth=2, heads=2, mlp_width=64, gated=True, scan_layers=True),
}
LAST_FACTOR = {
    "resnet": r"layer2_0/bn3/",
    "mobilenetv4": r"blocks_1_1/pw_proj/bn/",
    "vit": r"block_1/layer_scale",
    "scanned_vit": r"block_1/layer_scale",
}


@functools.cache
def shapes(name):
    """Returns the map, parameter and statistics shapes of an encoder on 64x96 images; nothing is computed."""
    encoder = encoders.ENCODERS[name]()
    return jax.eval_shape(encoder.init_with_output, jax.random.key(0), np.zeros((3, 64, 96, 1), np.float32))


@functools.cache
def miniature(family):
    """Returns random variables of a miniature, no two channels alike, and four images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 32, 48, 1)).astype(np.float32)

    def draw(leaf):
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) / math.prod(leaf.shape[:-1]) ** 0.5).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(MINIATURES[family]().init, jax.random.key(0), images)), images


@functools.partial(jax.jit, static_argnums=0)
def infer(encoder, variables, images):
    """Returns an encoder's last map; compiled once for all encoders that are equal."""
    return encoder.apply(variables, images)[-1]


def keys_of(tree):
    """Returns {"layer1_0/conv1/kernel": leaf, ...}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@functools.cache
def listed_shapes(folder, name):
    """Returns {key: shape} of the original's trunk."""
    file, left_out, _ = LISTED[name]
    lines = (folder / "weight_keys" / f"{file}.keys.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not re.match(rf"#|{left_out}|.*num_batches_tracked", line)]
    return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape, _ in rows}


@pytest.mark.parametrize("name", LISTED)
def test_as_many_parameters_as_the_original_but_for_the_stem(shared_data, name):
    listed = listed_shapes(shared_data, name)
    theirs = sum(math.prod(shape) for key, shape in listed.items() if "running_" not in key) + LISTED[name][2]
    (stem,) = (shape for shape in listed.values() if shape[1:2] == (3,))
    ours = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(name)[1]["params"]))
    assert ours == theirs - math.prod(stem) * 2 // 3  # one input channel instead of three


@pytest.mark.parametrize(("name", "count"), [("resnet34", 21_797_672 - 513_000), ("resnet50", 25_557_032 - 2_049_000)])
def test_as_many_parameters_as_torchvision_states_less_its_classifier(name, count):
    ours = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(name)[1]["params"]))
    assert ours == count - 2 * 64 * 7 * 7


@pytest.mark.parametrize("name", [name for name in LISTED if name in CONVOLUTIONAL])
def test_names_map_one_to_one_onto_the_originals(shared_data, name):
    ours = {}
    leaf_names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    for collection in shapes(name)[1].values():
        for path, leaf in keys_of(collection).items():
            *modules, last = path.split("/")
            key = re.sub(r"_(\d+)(?=[._])|_(\d+)\b", r".\1\2", ".".join(modules))
            # height, width, in, out here; out, in, height, width there
            shape = tuple(leaf.shape[i] for i in (3, 2, 0, 1)) if last == "kernel" else leaf.shape
            ours[f"{key}.{leaf_names[last]}"] = shape
    listed = listed_shapes(shared_data, name)
    assert ours.keys() == listed.keys()
    (stem,) = (key for key in ours if ours[key] != listed[key])
    assert stem in ("conv1.weight", "conv_stem.weight") and listed[stem][1] == 3 and ours[stem][1] == 1


def test_mobilenetv4_has_the_originals_strides_paddings_and_sizes(shared_data):
    listed = {}
    for line in (shared_data / "weight_keys" / "timm_mobilenetv4_conv_small.arch.txt").read_text().splitlines():
        if match := re.match(r"(\S+) k(\d) s(\d) p(\d) g(\d+) .*\| \((\d+), (\d+), (\d+)\)$", line):
            key, *numbers = match.groups()
            listed[key] = tuple(map(int, numbers))
    ours = {}

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            layer, key = context.module, ".".join(context.module.path)
            (size, _), ((padding, _), _) = layer.kernel_size, layer.padding
            ours[re.sub(r"blocks_(\d)_(\d)", r"blocks.\1.\2", key)] = (
                (size, layer.strides, padding, layer.feature_group_count, out.shape[3], *out.shape[1:3])
            )  # fmt: skip
        return out

    encoder = encoders.ENCODERS["mobilenetv4_conv_small"]()
    with nn.intercept_methods(record):
        jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 256, 256, 1), np.float32))
    left_out = {"blocks.4.0.conv", "conv_head"}
    assert ours == {key: numbers for key, numbers in listed.items() if key not in left_out}


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_stride_width_and_layers_are_what_an_encoder_says(name):
    encoder = encoders.ENCODERS[name]()
    maps, variables = shapes(name)
    assert [m.shape[:3] for m in maps] == [(3, 64 // s, 96 // s) for s in encoder.strides]
    assert maps[-1].shape[3] == encoder.width and list(encoder.strides) == sorted(set(encoder.strides))
    stated = [module for group in encoder.layers for module in group]
    present = {module for collection in variables.values() for module in collection}
    assert len(stated) == len(set(stated)) and set(stated) == present
    assert len(encoder.layers) >= 2 and all(encoder.layers)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_any_image_size_suits_a_convolutional_encoder(name):
    encoder = encoders.ENCODERS[name]()
    variables = shapes(name)[1]
    maps = jax.eval_shape(encoder.apply, variables, np.zeros((2, 50, 33, 1), np.float32))
    assert [m.shape[:3] for m in maps] == [(2, math.ceil(50 / s), math.ceil(33 / s)) for s in encoder.strides]
    assert maps[-1].shape[3] == encoder.width


@pytest.mark.parametrize("family", MINIATURES)
def test_a_miniature_has_as_many_maps_as_strides(family):
    variables, images = miniature(family)
    encoder = MINIATURES[family]()
    maps = jax.eval_shape(encoder.apply, variables, images)
    assert [m.shape[1:3] for m in maps] == [(32 // s, 48 // s) for s in encoder.strides]


def test_a_vit_names_the_image_sizes_that_suit_it():
    encoder = encoders.ENCODERS["dinov3_vits16"]()
    with pytest.raises(ValueError, match=r"50 x 33 pixels .* multiples of 16, such as 48 x 32"):
        jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 50, 33, 1), np.float32))


def test_strided_convolution_is_padded_evenly():
    """An impulse in the first pixel reaches output (0, 0) through the kernel's centre; "SAME" would shift it."""
    layer = parts.conv(1, 3, 2)
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    image = np.zeros((1, 4, 4, 1), np.float32)
    image[0, 0, 0, 0] = 1.0
    out = jax.jit(layer.apply)({"params": {"kernel": kernel}}, image)
    assert out.shape == (1, 2, 2, 1) and float(out[0, 0, 0, 0]) == 4.0


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2)])
def test_depthwise_convolution_is_that_of_xla(size, stride):
    rng = np.random.default_rng(0)
    image, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 7, 10, 4), (size, size, 1, 4)))

    def xla(image, kernel):
        padding = [(size // 2, size // 2)] * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (stride, stride), padding, dimension_numbers=numbers, feature_group_count=4
        )

    def ours(image, kernel):
        return parts.depthwise_conv(4, size, stride).apply({"params": {"kernel": kernel}}, image)

    @jax.jit
    def both(image, kernel):
        """The outputs of both, and their gradients for the same cotangent."""
        (expected, theirs_back), (out, back) = (jax.vjp(layer, image, kernel) for layer in (xla, ours))
        return (out, *back(out)), (expected, *theirs_back(out))

    (out, *gradients), (expected, *their_gradients) = both(image, kernel)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for a, b in zip(gradients, their_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "mobilenetv4"])
def test_images_that_are_not_valid_do_not_enter_the_statistics(family):
    variables, images = miniature(family)
    encoder = MINIATURES[family]()

    @jax.jit
    def apply(images, valid):
        maps, updated = encoder.apply(variables, images, True, valid, mutable=["batch_stats"])
        return maps[-1], updated

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    valid = np.array([True, True, False, True])
    out, statistics = jax.device_get(apply(images, valid))
    changed = images.copy()
    changed[2] = 9.0
    other, other_statistics = jax.device_get(apply(changed, valid))
    close(out[valid], other[valid])
    jax.tree.map(close, statistics, other_statistics)
    # The statistics of two images are those of the same two twice over.
    every, doubled = np.ones(4, bool), np.concatenate([images[:2], images[:2]])
    twice, _ = apply(doubled, np.array([True, True, False, False]))
    close(twice, apply(doubled, every)[0])
    # Where no image is valid all count: the output is masked elsewhere and has to be finite.
    whole = jax.device_get(apply(images, every))
    jax.tree.map(close, apply(images, np.zeros(4, bool)), whole)
    assert not np.allclose(out[valid], whole[0][valid], atol=1e-2)


@pytest.mark.parametrize("family", ["resnet", "mobilenetv4"])
def test_frozen_statistics_stay_and_training_computes_what_inference_does(family):
    variables, images = miniature(family)
    frozen = MINIATURES[family](frozen_statistics=True)
    apply = jax.jit(lambda variables: frozen.apply(variables, images, True, mutable=["batch_stats"]))
    out, updated = apply(variables)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(out[-1], infer(MINIATURES[family](), variables, images))


class DropPath(nn.Module):
    """`drop_path` of its input."""

    rate: float

    @nn.compact
    def __call__(self, branch, train):
        return parts.drop_path(branch, self.rate, train)


@pytest.mark.parametrize("rate_type", [float, jnp.asarray])
def test_drop_path_drops_the_branch_of_whole_images_and_keeps_the_mean(rate_type):
    branch = 1 + np.random.default_rng(0).uniform(size=(4000, 2, 3)).astype(np.float32)
    rngs = {"drop_path": jax.random.key(0)}
    assert DropPath(rate_type(0.25)).apply({}, branch, False) is branch
    np.testing.assert_array_equal(DropPath(rate_type(0.0)).apply({}, branch, True, rngs=rngs), branch)
    ratio = DropPath(rate_type(0.25)).apply({}, branch, True, rngs=rngs) / branch
    kept = np.asarray(ratio[:, 0, 0] > 0)
    np.testing.assert_allclose(ratio, np.broadcast_to(kept[:, None, None] / 0.75, ratio.shape), rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_drop_path_grows_linearly_with_depth():
    np.testing.assert_allclose(parts.drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3], atol=1e-12)
    assert parts.drop_path_rates(0.3, 1) == [0.3]


@pytest.mark.parametrize("family", MINIATURES)
def test_a_block_that_is_always_dropped_is_its_shortcut(family):
    """In a miniature the deepest block alone is ever dropped: the first has rate 0, others no shortcut."""
    variables, images = miniature(family)

    def without_last_block(path, leaf):
        last = re.match(LAST_FACTOR[family], jax.tree_util.keystr(path, simple=True, separator="/"))
        return np.zeros_like(leaf) if last else leaf

    cut = {**variables, "params": jax.tree_util.tree_map_with_path(without_last_block, variables["params"])}
    encoder = MINIATURES[family](drop_path=0.999999, frozen_statistics=True)
    rngs = {"drop_path": jax.random.key(0)}
    apply = jax.jit(lambda variables, train: encoder.apply(variables, images, train, rngs=rngs)[-1], static_argnums=1)
    np.testing.assert_allclose(apply(variables, True), apply(cut, False), rtol=1e-5, atol=1e-5)
    assert not np.allclose(apply(variables, False), apply(cut, False), atol=1e-2)


@pytest.mark.parametrize("family", MINIATURES)
def test_rematerialising_changes_the_program_and_no_number(family):
    variables, images = miniature(family)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, remat):
        encoder = MINIATURES[family](remat=remat, drop_path=0.3)
        maps, updated = encoder.apply(
            {**statistics, "params": params},
            images,
            True,
            rngs={"drop_path": jax.random.key(1)},
            mutable=["batch_stats"],
        )
        return jnp.square(maps[-1]).mean(), updated

    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    plain, rematerialised = (gradients.trace(variables["params"], remat) for remat in (False, True))
    assert "prevent_cse" not in str(plain.jaxpr) and "prevent_cse" in str(rematerialised.jaxpr)
    numbers = (traced.lower().compile()(variables["params"]) for traced in (plain, rematerialised))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *numbers)


def test_drop_path_at_rate_0_needs_no_random_key():
    branch = jnp.ones((2, 3))
    assert DropPath(0.0).apply({}, branch, True) is branch


def test_scanning_over_the_layers_changes_the_program_and_no_number():
    variables, images = miniature("vit")

    def loss(params, images, scan):
        (out,) = MINIATURES["vit"](scan_layers=scan).apply({"params": params}, images, True)
        return jnp.square(out - 1).mean(), out

    gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    loop, scanned = (gradients.trace(variables["params"], images, scan) for scan in (False, True))
    assert str(loop.jaxpr).count("scan[") == 0 and str(scanned.jaxpr).count("scan[") == 2  # forward and backward
    expected, actual = (traced.lower().compile()(variables["params"], images) for traced in (loop, scanned))

    def close(a, b):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)

    jax.tree.map(close, *jax.device_get((actual, expected)))


def test_matrices_are_stacked_in_the_dtype_of_their_products():
    variables, images = miniature("vit")
    encoder = MINIATURES["scanned_vit"](dtype=jnp.bfloat16)
    (scan,) = (e for e in jax.make_jaxpr(encoder.apply)(variables, images).eqns if e.primitive.name == "scan")
    stacked = [x.aval for x in scan.invars if x.aval.shape[:1] == (encoder.depth,)]
    assert {x.dtype for x in stacked if x.ndim == 3} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in stacked if x.ndim == 2} == {jnp.dtype("float32")}  # the norms'


def test_scanning_over_the_layers_leaves_the_parameters_where_they_are():
    images = miniature("vit")[1]
    loop, scanned = (jax.eval_shape(MINIATURES[f]().init, jax.random.key(0), images) for f in ("vit", "scanned_vit"))
    assert loop == scanned


def test_each_scanned_layer_has_a_rate_and_draws_of_its_own():
    """Three blocks that each lift a channel of their own, where their MLP's branch is kept."""
    encoder = vit.ViT(width=8, depth=3, heads=1, mlp_width=4, drop_path=0.8, scan_layers=True)
    images = np.zeros((1000, 16, 16, 1), np.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for i in range(3):
        block = params[f"block_{i}"]
        block["layer_scale2"][i] = block["mlp"]["fc2"]["bias"][i] = 1.0
    params["norm"]["scale"] += 1  # the channels stay in order
    (out,) = jax.jit(encoder.apply, static_argnums=2)(
        {"params": params}, images, True, rngs={"drop_path": jax.random.key(1)}
    )
    out = np.asarray(out)[:, 0, 0]
    kept = out[:, :3] > out[:, 3:4]
    np.testing.assert_allclose(kept.mean(axis=0), [1.0, 0.6, 0.2], atol=4 * math.sqrt(0.25 / 1000))
    assert abs(np.corrcoef(kept[:, 1], kept[:, 2])[0, 1]) < 4 / math.sqrt(1000)


def test_scanning_is_refused_by_name_where_blocks_differ():
    with pytest.raises(ValueError, match=r"scan_layers: .* 'resnet18' .* dinov3_vits16, .*dinov3_vitl16"):
        EPFv2Config(encoder="resnet18", scan_layers=True)


@pytest.mark.parametrize("family", MINIATURES)
def test_bfloat16_is_close_and_keeps_parameters_and_statistics_in_float32(family):
    variables, images = miniature(family)
    encoder = MINIATURES[family](dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(encoder.init, jax.random.key(0), images))} == {
        jnp.dtype("float32")
    }
    out, exact = (infer(e, variables, images) for e in (encoder, MINIATURES[family]()))
    assert out.dtype == jnp.bfloat16
    out, exact = (np.asarray(x, np.float32) for x in (out, exact))
    assert np.linalg.norm(out - exact) < 0.02 * np.linalg.norm(exact)


def test_attention_of_patches_depends_on_where_one_lies_from_the_other():
    h, w, K, extra = 3, 5, 16, 5
    query, key = np.random.default_rng(0).normal(size=(2, K))

    def everywhere(x):
        x = np.broadcast_to(x.astype(np.float32), (1, extra + h * w, 1, K))
        return np.asarray(jax.jit(vit.rotate)(x, vit.rotary_table(h, w, K, extra)))[0, :, 0]

    queries, keys = everywhere(query), everywhere(key)
    # CLS and registers stand nowhere.
    np.testing.assert_array_equal(queries[:extra], np.tile(query.astype(np.float32), (extra, 1)))
    cells = [(y, x) for y in range(h) for x in range(w)]
    scores = {}
    for (y, x), q in zip(cells, queries[extra:], strict=True):
        for (other_y, other_x), k in zip(cells, keys[extra:], strict=True):
            scores.setdefault((other_y - y, other_x - x), []).append(q @ k)
    assert len(scores) == (2 * h - 1) * (2 * w - 1)
    assert max(np.ptp(same) for same in scores.values()) < 1e-5
    distinct = np.sort([same[0] for same in scores.values()])
    assert np.diff(distinct).min() > 1e-4
    np.testing.assert_allclose(scores[0, 0][0], query @ key, rtol=1e-5)


def test_rotary_angles_are_the_published_ones():
    """Cell centres in (-1, 1), periods 100^(4k / K); y in the first quarter of the channels, x in the second."""
    cos, sin = vit.rotary_table(2, 4, 8, 0)
    y, x = -0.5, 0.25  # row 0, column 2
    angle = 2 * math.pi * np.array([y, y / 10, x, x / 10])
    np.testing.assert_allclose(cos[2], np.cos(np.tile(angle, 2)), atol=1e-6)
    np.testing.assert_allclose(sin[2], np.sin(np.tile(angle, 2)), atol=1e-6)
