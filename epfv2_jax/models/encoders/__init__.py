"""Image encoders. To add one: write a module with the call and the fields of `ResNet` and add it to `ENCODERS`.

``encoder(images (N, H, W, 1) float32 normalised, train: bool, image_valid (N,) bool)`` returns a tuple of feature maps
(N, h, w, C), finest first; `strides` holds the pixels per cell of each. The constructor takes `dtype`, `param_dtype`,
`remat`, `drop_path` and `frozen_statistics`. The properties `width` (C of the last map) and `layers` (the names of the
parameter modules by depth, for layer-wise learning rates) need no image. Invalid images do not enter batch statistics.
An encoder whose blocks are all alike may take `scan_layers`, which runs them as one loop over the same parameters.
"""

import functools
from collections.abc import Callable

from flax import linen as nn

from epfv2_jax.models.encoders import mobilenetv4
from epfv2_jax.models.encoders.mobilenetv4 import MobileNetV4
from epfv2_jax.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from epfv2_jax.models.encoders.small import Small
from epfv2_jax.models.encoders.vit import ViT

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=Bottleneck, blocks=(3, 4, 6, 3)),
    "mobilenetv4_conv_small": functools.partial(MobileNetV4, stages=mobilenetv4.SMALL),
    "mobilenetv4_conv_medium": functools.partial(MobileNetV4, stages=mobilenetv4.MEDIUM),
    "dinov3_vits16": functools.partial(ViT, width=384, depth=12, heads=6, mlp_width=1536),
    "dinov3_vits16plus": functools.partial(ViT, width=384, depth=12, heads=6, mlp_width=1536, gated=True),
    "dinov3_vitb16": functools.partial(ViT, width=768, depth=12, heads=12, mlp_width=3072),
    "dinov3_vitl16": functools.partial(ViT, width=1024, depth=24, heads=16, mlp_width=4096),
    "small": Small,
    "small_stride16": functools.partial(Small, widths=(32, 64, 128), blocks=(1, 1, 1)),
    "tiny": functools.partial(Small, blocks=(0, 1)),
}

#: The encoders that take `scan_layers`.
SCANNABLE = tuple(name for name, encoder in ENCODERS.items() if hasattr(encoder(), "scan_layers"))
