"""Imported weights give the features and gradients of the original libraries."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch_reference
from safetensors.torch import save_file

from epfv2_jax.models import encoders
from epfv2_jax.models.encoders import weights as weights_lib

pytestmark = [pytest.mark.extras, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4  # of the largest entry
BIG = ("resnet50", "mobilenetv4_conv_medium", "dinov3_vitb16", "dinov3_vitl16")


def differences(reference, path, encoder, size_hw, seed=0):
    """Returns the largest differences of features and of gradients by the image, as shares of the largest entry.

    Where a ReLU's input is nearly zero, rounding decides whether a gradient passes. The gradients of convolutional
    encoders are therefore compared in float64.
    """
    variables = weights_lib.convert(weights_lib.read(path), encoder).variables
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((2, *size_hw, 1), np.float32)
    features = jax.jit(encoders.ENCODERS[encoder]().apply)(variables, images)[-1]
    weights = rng.standard_normal(features.shape, np.float32)
    expected, expected_gradient = reference.features_and_gradient(images, weights)
    if encoder.startswith("dinov3"):
        gradient = image_gradient(encoder, variables, images, weights)
    else:
        images, weights = images.astype(np.float64), weights.astype(np.float64)
        _, expected_gradient = reference.features_and_gradient(images, weights)
        with jax.enable_x64(True):
            gradient = image_gradient(encoder, variables, images, weights)
    pairs = ((features, expected), (gradient, expected_gradient))
    return [np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs]


def image_gradient(encoder, variables, images, weights):
    """Returns the gradient of sum(weights * features) by the images, computed in their dtype."""
    module = encoders.ENCODERS[encoder](dtype=images.dtype, param_dtype=images.dtype)
    variables = jax.tree.map(lambda leaf: leaf.astype(images.dtype), variables)
    gradient = jax.jit(jax.grad(lambda images, variables: (module.apply(variables, images)[-1] * weights).sum()))
    return np.asarray(gradient(images, variables))


def check(reference, folder, encoder):
    path = folder / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in reference.model.state_dict().items()}, path)
    # Odd sizes show how a strided convolution pads; a transformer takes multiples of 16.
    for size_hw in ((64, 64), (32, 96) if encoder.startswith("dinov3") else (75, 50)):
        assert max(differences(reference, path, encoder, size_hw)) <= TOLERANCE, size_hw
    path.unlink()


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "encoder", [pytest.param(e, marks=[pytest.mark.slow] * (e in BIG)) for e in torch_reference.TIMM]
)
def test_timm(tmp_path, encoder):
    check(torch_reference.timm(torch_reference.TIMM[encoder]), tmp_path, encoder)


def test_timm_with_biases_of_query_and_value(tmp_path):
    check(torch_reference.timm("vit_small_patch16_dinov3_qkvb"), tmp_path, "dinov3_vits16")


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_torchvision(tmp_path, encoder):
    check(torch_reference.torchvision(encoder), tmp_path, encoder)


@pytest.mark.parametrize("encoder", ["dinov3_vits16", "dinov3_vits16plus"])
def test_transformers(tmp_path, encoder):
    check(torch_reference.transformers_dinov3(gated=encoder.endswith("plus")), tmp_path, encoder)


def test_transformers_as_it_saves_itself(tmp_path):
    reference = torch_reference.transformers_dinov3(gated=False)
    reference.model.save_pretrained(tmp_path)
    assert max(differences(reference, tmp_path / "model.safetensors", "dinov3_vits16", (32, 48))) <= TOLERANCE


def test_every_encoder_with_published_weights_has_a_reference():
    assert set(torch_reference.TIMM) == set(weights_lib.encoder_names())
