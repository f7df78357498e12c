"""UnrealEgo: sizes, what the second stage leaves alone, masks, learning, and the import of its released weights."""

import collections
import dataclasses
import re
import zlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from epfv2_jax import models, objectives
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models import base, weights
from epfv2_jax.models.baselines.resize import resize
from epfv2_jax.models.baselines.unrealego.autoencoder import Deconvolution
from epfv2_jax.models.baselines.unrealego.model import UnrealEgoConfig
from epfv2_jax.models.baselines.unrealego.weights import CONFIG, LAYOUT, SKELETON, load
from epfv2_jax.models.encoders.weights import reading
from epfv2_jax.objectives.heatmap import HeatmapObjectiveConfig
from epfv2_jax.objectives.unrealego import UnrealEgoObjectiveConfig
from epfv2_jax.structs import Batch, Targets, blank_frames
from epfv2_jax.testing import fakes
from epfv2_jax.training import augment, optim, state, step

SMALL = UnrealEgoConfig(
    encoder="tiny", decoder_widths=(16,), conv_widths=(8, 16), dense_widths=(32,), code_width=12, pose_width=16
)
PUBLISHED_PARAMETERS = 106_812_240


def build(skeleton=EGOBODY3M, layout=fakes.TWO_VIEWS, **changes):
    return models.build(dataclasses.replace(SMALL, **changes), skeleton, layout)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_released_network_has_the_published_number_of_parameters():
    params = base.abstract_variables(models.build(CONFIG, SKELETON, LAYOUT), blank_frames(1, 1, 2, (256, 256)))[
        "params"
    ]
    colours_of_the_stem = 2 * 64 * 7 * 7  # our stem sees one channel of three
    classifier = 512 * 1000 + 1000  # of the ResNet, not used
    assert size_of(params) + colours_of_the_stem + classifier == PUBLISHED_PARAMETERS
    assert size_of(params["heatmaps"]) == 24_454_050 and size_of(params["autoencoder"]) == 70_668_678


@pytest.mark.parametrize("encoder", ["tiny", "resnet18", "small_stride16"])
@pytest.mark.parametrize("size_hw", [(48, 48), (64, 96), (40, 52)])
def test_any_image_size_gives_maps_of_a_quarter(encoder, size_hw):
    """Of both kinds, also where no convolution of the autoencoder divides them."""
    model = build(layout=layouts.EGOBODY3M, encoder=encoder, decoder_widths=(8, 8, 8), heatmap_joints=("b_neck0",))
    found = jax.eval_shape(model.init_with_output, jax.random.key(0), blank_frames(2, 3, 4, size_hw))[0].heatmaps
    shape = (2, 3, 4, size_hw[0] // 4, size_hw[1] // 4, 1)
    assert {name: maps.shape for name, maps in found.items()} == {"predicted": shape, "reconstructed": shape}


def test_an_untrained_network_predicts_empty_maps_and_its_layers_are_alive(helpers):
    """From random maps, training would begin by pushing everything down."""
    model, batch = build(), eight_frames(helpers)
    objective = objectives.build(HeatmapObjectiveConfig(), EGOBODY3M)
    variables = jax.jit(model.init)(jax.random.key(0), batch.frames)
    assert not np.any(jax.jit(model.apply)(variables, batch.frames).heatmaps["predicted"])

    def loss(params):
        predictions, _ = model.apply(variables | {"params": params}, batch.frames, train=True, mutable=["batch_stats"])
        return objective(predictions, batch, 0.0)["heatmap_mse"].total

    gradient = jax.jit(jax.grad(loss))(variables["params"])["heatmaps"]["heatmap"]["kernel"]
    assert (np.abs(gradient).max((0, 1, 3)) > 0).mean() > 0.8  # of the channels before the last convolution


def test_a_deconvolution_is_that_of_flax():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 7))
    cotangent = jax.random.normal(jax.random.key(1), (2, 6, 10, 4))
    values, gradients = [], []
    for module in (Deconvolution(4), nn.ConvTranspose(4, (4, 4), (2, 2), "SAME")):
        variables = jax.tree.map(lambda leaf: leaf + 0.1, Deconvolution(4).init(jax.random.key(2), x))
        value, pull = jax.vjp(module.apply, variables, x)
        values.append(value)
        gradients.append(pull(cotangent))
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *gradients)


def test_upsampling_keeps_ramps_and_the_corners():
    ramp = np.linspace(0, 5, 3)[None, :, None, None] + np.linspace(0, 7, 4)[None, None, :, None]
    finer = jax.jit(resize, static_argnums=1)(ramp.astype(np.float32), (6, 7))
    expected = np.linspace(0, 5, 6)[:, None] + np.linspace(0, 7, 7)[None]
    np.testing.assert_allclose(finer[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder": "dinov3_vits16"}, r"encoder: strides of 'dinov3_vits16': expected \(4,\), got \(16,\)"),
        ({"encoder": "resnet18"}, r"decoder_widths: upsamplings of 'resnet18': must be in \[0, 1\], got 3"),
        ({"conv_widths": ()}, "conv_widths: there are none"),
        ({"dense_widths": (8, 0)}, r"dense_widths\[1\]: must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_a_heatmap_of_a_joint_that_is_not_there_is_refused(helpers):
    with pytest.raises(ValueError, match=r"'b_nekc0' is not one of .* did you mean b_neck0"):
        base.abstract_variables(build(heatmap_joints=("b_nekc0",)), helpers.make_frames(1, 1))


def eight_frames(helpers):
    """Two clips of four frames whose joints the cameras may see, as a batch."""
    frames = helpers.make_frames(2, 4)
    rng = np.random.default_rng(1)
    sway = rng.normal(0, 0.1, (2, 4, 1, 3)) + rng.normal(0, 0.03, (2, 4, EGOBODY3M.num_joints, 3))
    joints = (EGOBODY3M.rest_joints_headset_m() + sway).astype(np.float32)
    return Batch(
        frames=frames,
        targets=Targets(joints_headset_m=joints, joint_valid=np.ones(joints.shape[:-1], bool)),
        clip_id=np.arange(2, dtype=np.int32),
        time_s=np.tile(np.arange(4, dtype=np.float32) / 30, (2, 1)),
    )


def trained(model, objective, batch, steps, learning_rate, start=None):
    """States before and after training on one batch over and over, and the terms of the first and the last step."""
    rate = optim.OptimizerConfig(learning_rate=learning_rate, warmup_steps=5)
    optimizer = optim.make_optimizer(rate, steps, model.backbone)
    off = ("noise", "blur_px", "gamma", "contrast", "brightness", "flip", "view_dropout")
    learner = step.Learner(
        model=model,
        objective=objectives.build(objective, EGOBODY3M),
        optimizer=optimizer,
        augment=augment.AugmentConfig(**dict.fromkeys(off, 0.0)),
        config=step.StepConfig(steps=steps),
    )
    key = jax.random.key(0)
    now = before = start(jax.jit(lambda: state.create_state(key, model, optimizer, batch.frames))())
    advance = jax.jit(lambda now: step.train_step(now, batch, key, learner=learner))
    found = []
    for _ in range(steps):
        now, metrics = advance(now)
        found.append({name: value[0] / value[1] for name, value in metrics.items() if isinstance(value, tuple)})
    return before, now, found[0], found[-1]


@pytest.mark.slow
def test_two_stages_learn_eight_frames_and_the_second_leaves_the_first_alone(helpers):
    batch, wide = eight_frames(helpers), {"decoder_widths": (32,), "pose_width": 32}
    objective = HeatmapObjectiveConfig()
    _, first, begin, end = trained(build(**wide), objective, batch, 120, 2e-3, start=lambda fresh: fresh)
    assert end["heatmap_mse"] < 0.1 * begin["heatmap_mse"]

    def after_the_first(fresh):
        return state.with_modules(fresh, inference(first), ("encoder", "heatmaps"), "first")

    def inference(trained):
        return {"params": trained.params, "batch_stats": trained.batch_stats}

    model = build(frozen_heatmaps=True, **wide)
    before, after, begin, end = trained(model, UnrealEgoObjectiveConfig(), batch, 200, 1e-2, start=after_the_first)
    assert begin["mpjpe_cm"] > 8 and end["mpjpe_cm"] < 0.5
    assert begin["cosine"] < 0.9 and end["cosine"] > 0.999
    assert end["reconstruction_mse"] < 0.05 * begin["reconstruction_mse"]
    for old, new in ((before.params, after.params), (before.batch_stats, after.batch_stats)):
        for module in old:
            same = jax.tree.map(lambda a, b: bool((a == b).all()), old[module], new[module])
            assert all(jax.tree.leaves(same)) == (module != "autoencoder"), module
    found = jax.jit(model.apply)(inference(after), batch.frames)
    assert np.abs(found.joints_headset_m - batch.targets.joints_headset_m).mean() < 0.01


def test_the_frozen_network_is_the_same_in_training(helpers):
    frames = helpers.make_frames(2, 2)
    variables = fakes.random_variables(build(), frames)

    def predicted(train, frozen):
        model = build(frozen_heatmaps=frozen)
        found, _ = jax.jit(lambda v: model.apply(v, frames, train=train, mutable=["batch_stats"]))(variables)
        return found.heatmaps["predicted"]

    inference = predicted(False, frozen=False)
    np.testing.assert_allclose(predicted(True, frozen=True), inference, atol=1e-6)
    assert np.abs(predicted(True, frozen=False) - inference).max() > 1e-2


def test_padding_does_not_enter_the_statistics_of_training(helpers):
    padded = helpers.make_frames(2, 3)
    variables = fakes.random_variables(build(), padded)
    frames = helpers.time_slice(padded, 0, 2)
    run = jax.jit(lambda frames: build().apply(variables, frames, train=True, mutable=["batch_stats"]))
    expected, statistics = run(frames)
    valid = np.array([[True, True, False]] * 2)
    found, found_statistics = run(padded.replace(frame_valid=valid))
    np.testing.assert_allclose(found.joints_headset_m[:, :2], expected.joints_headset_m, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found_statistics, statistics)
    whole, _ = run(padded)
    assert np.abs(whole.joints_headset_m[:, :2] - expected.joints_headset_m).max() > 1e-5, "it would change nothing"


def listed(shared_data, name):
    """The shapes of a released file by key."""
    lines = (shared_data / "weight_keys" / f"unrealego_{name}.keys.txt").read_text().splitlines()
    parts = (line.split(" ", 1) for line in lines)
    return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in parts}


def name_of(key):
    """The name of a tensor in the ResNet, under which it is the same wherever it is stored again."""
    name = re.sub(r"^layer1\.1\.(?=\d\.)", "layer1.", key.removeprefix("backbone.backbone.").removeprefix("backbone."))
    return name.replace("layer0.0.", "conv1.").replace("layer0.1.", "bn1.")


def file_of(shapes, dtype="F32", **changed):
    """A file with random values, which repeat; `changed`: values that replace those of a key."""

    def values(key):
        few = np.random.default_rng(zlib.crc32(name_of(key).encode())).random(997, np.float32)
        return changed[key] if key in changed else np.resize(few, shapes[key])

    return reading.TensorFile(path="F", shapes=shapes, dtypes=dict.fromkeys(shapes, dtype), load=values)


@pytest.fixture(scope="module")
def shapes(shared_data):
    return {name: listed(shared_data, name) for name in ("heatmap", "autoencoder")}


def test_every_released_tensor_is_used_once_or_ignored_for_a_reason(shapes):
    files = {name: file_of({f"module.{k}": v for k, v in shapes[name].items()}) for name in shapes}
    assert all(key.startswith("module.") for file in files.values() for key in file.shapes)
    files["heatmap"] = file_of(shapes["heatmap"])
    imported = load([files["autoencoder"], files["heatmap"]])
    assert imported.used + len(imported.ignored) == sum(map(len, shapes.values()))
    assert collections.Counter(imported.ignored.values()) == {
        "the same tensor again": 100,
        "counts training steps": 54,
        "classifier": 2,
    }
    expected = base.abstract_variables(models.build(CONFIG, SKELETON, LAYOUT), blank_frames(1, 1, 2, (256, 256)))
    assert jax.tree.map(lambda x: x.shape, imported.variables) == jax.tree.map(lambda x: x.shape, expected)
    # Each value arrives: sums of tensors, in whatever order their axes are.
    arrived = sorted(leaf.sum(dtype=np.float64) for leaf in jax.tree.leaves(imported.variables))
    used = [
        file.load(key).sum(dtype=np.float64)
        for file in files.values()
        for key in file.shapes
        if key.removeprefix("module.") not in imported.ignored
    ]
    np.testing.assert_allclose(arrived, sorted(used), rtol=1e-6)
    assert imported.config == CONFIG and imported.image_size_hw == (256, 256)
    assert weights.IMPORTERS["unrealego"] is load


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"after_backbone.conv_up2.0.bias": None},
            "not the released weights of the heatmap network: missing: after_ba.*",
        ),
        ({"after_backbone.layer0_1x1.0.weight": (128, 128, 1, 1)}, "unknown: after_backbone.layer0_1x1.0.weight"),
        ({"after_backbone.conv_heatmap.weight": (52, 512, 1, 1)}, r"\(52, 512, 1, 1\), not \(30, 512, 1, 1\)"),
        ({"backbone.backbone.layer2.0.bn1.bias": (64,)}, r"another shape: backbone.backbone.layer2.0.bn1.bias \(64,\)"),
    ],
)
def test_other_keys_and_shapes_are_refused(shapes, change, message):
    changed = {key: shape for key, shape in {**shapes["heatmap"], **change}.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        load([file_of(changed), file_of(shapes["autoencoder"])])


def test_tensors_that_are_stored_twice_must_agree(shapes):
    key = "backbone.backbone.layer1.1.1.bn2.running_var"
    broken = file_of(shapes["heatmap"], **{key: np.ones(64, np.float32)})
    with pytest.raises(ValueError, match=rf"{key} must be backbone.backbone.backbone.layer1.1.bn2.running_var again"):
        load([broken, file_of(shapes["autoencoder"])])


def test_both_files_are_needed_in_float32_and_finite(shapes):
    heatmap, autoencoder = file_of(shapes["heatmap"]), file_of(shapes["autoencoder"])
    with pytest.raises(ValueError, match="number of files: expected 2, got 1; give the heatmap network's and the auto"):
        load([heatmap])
    with pytest.raises(ValueError, match="F and F: neither holds the autoencoder, whose file has the key pose_fc3"):
        load([heatmap, heatmap])
    with pytest.raises(ValueError, match="must be float32"):
        load([file_of(shapes["heatmap"], "F16"), autoencoder])
    key = "backbone.backbone.backbone.conv1.weight"
    nan = dict.fromkeys((key, "backbone.backbone.layer0.0.weight"), np.full(shapes["heatmap"][key], np.inf, np.float32))
    with pytest.raises(ValueError, match=f"not finite in {key}"):
        load([file_of(shapes["heatmap"], **nan), autoencoder])
