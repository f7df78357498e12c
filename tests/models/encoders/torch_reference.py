"""The encoders of timm, torchvision and transformers with random weights, as references for ours."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

TIMM = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "mobilenetv4_conv_small": "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium": "mobilenetv4_conv_medium",
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model, and its features (N, C, h, w) of images (N, 3, H, W)."""

    model: Any
    features: Callable[[Any], Any]

    def features_and_gradient(self, images: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features (N, h, w, C) of images (N, H, W, 1), and the gradient of sum(weights * features).

        Computed in the images' dtype.
        """
        mono = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
        self.model.to(mono.dtype)
        features = self.features(mono.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1)
        (features * torch.tensor(weights)).sum().backward()
        return features.detach().numpy(), mono.grad.numpy().transpose(0, 2, 3, 1)


def timm(name: str, seed: int = 0) -> Reference:
    """Returns timm's model by its name there: the feature map that our encoder of the same kind gives."""
    _import_torchvision()
    library = _import("timm")
    model = _randomized(library.create_model(name, pretrained=False), seed)
    if name.startswith("resnet"):
        return Reference(model, model.forward_features)
    if name.startswith("mobilenetv4"):
        return Reference(model, lambda x: model.blocks[:4](model.bn1(model.conv_stem(x))))
    return Reference(model, lambda x: _patches(model.forward_features(x), x))


def torchvision(name: str, seed: int = 0) -> Reference:
    """Returns torchvision's ResNet by its name there."""
    model = _randomized(getattr(_import_torchvision().models, name)(weights=None), seed)
    trunk = torch.nn.Sequential(*list(model.children())[:-2])
    return Reference(model, trunk)


def transformers_dinov3(gated: bool, seed: int = 0) -> Reference:
    """Returns Hugging Face's DINOv3 ViT-S, or S+ if `gated`."""
    _import_torchvision()
    library = _import("transformers")
    config = library.DINOv3ViTConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    model = _randomized(library.DINOv3ViTModel(config), seed)
    return Reference(model, lambda x: _patches(model(x).last_hidden_state, x))


def _patches(tokens: Any, images: Any) -> Any:
    """Returns the patch tokens (N, 5 + h * w, C) as a map (N, C, h, w): a class token and four registers go first."""
    h, w = images.shape[2] // 16, images.shape[3] // 16
    return tokens[:, 5:].unflatten(1, (h, w)).permute(0, 3, 1, 2)


def _randomized(model: Any, seed: int) -> Any:
    """Returns the model in evaluation mode, with random values everywhere, also where it began with zeros or ones.

    Layers get outputs of about their inputs' size: with small weights every attention would be nearly even, and its
    details could hide.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Any, mean: float, std: float) -> None:
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("bias", "token", "tokens")):
                normal(tensor, 0.0, 0.2)
            elif tensor.ndim > 1:
                normal(tensor, 0.0, 1 / math.sqrt(math.prod(tensor.shape[1:])))
            else:  # scales of normalisations and of layers
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                normal(tensor, 0.0, 0.2)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.eval().requires_grad_(False)


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def _import_torchvision() -> Any:
    """Imports torchvision, which timm and transformers need too.

    Where its compiled operators belong to another build of torch they do not load, and the import fails when it
    describes an operator that is not there. Nothing here uses one, so declaring the names suffices.
    """
    try:
        return _import("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)  # the declarations go with the object
        return _import("torchvision")


_KEPT: list[Any] = []
