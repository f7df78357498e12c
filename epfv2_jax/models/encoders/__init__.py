"""Image encoders. To add one: write a module with the call of `ResNet18` and give it a line here.

The call is ``encoder(images (N, H, W, 1) float32 normalised, train: bool, image_valid (N,) bool) -> (N, h, w, C)``; the
constructor takes `dtype`, `param_dtype` and `remat`. Images that are not valid do not enter batch statistics.
"""

import functools
from collections.abc import Callable

from flax import linen as nn

from epfv2_jax.models.encoders.resnet import ResNet18
from epfv2_jax.models.encoders.small import Small

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "small": Small,
    "small_stride16": functools.partial(Small, widths=(32, 64, 128), blocks=(1, 1, 1)),
    "tiny": functools.partial(Small, blocks=(0, 1)),
}
