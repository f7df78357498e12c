"""ResNet-18 for monochrome images, in torchvision's layout, so that its weights can be imported name by name."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class ResNet18(nn.Module):
    """Returns features (N, ceil(H / 32), ceil(W / 32), 512) of images (N, H, W, 1).

    He et al., "Deep Residual Learning for Image Recognition", with the structure, padding and normalisation constants
    of torchvision's `resnet18`: a weight `layer2.0.downsample.0.weight` there is `layer2_0/downsample_0/kernel` here.
    There is no classifier, and the stem takes one channel.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, image_valid: jax.Array | None = None) -> jax.Array:
        chex.assert_axis_dimension(images, -1, 1)
        mask = statistics_mask(image_valid)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = images.astype(self.dtype)
        x = conv(64, 7, 2, name="conv1", **dtypes)(x)
        x = nn.relu(batch_norm(train, name="bn1", **dtypes)(x, mask=mask))
        # Padded by hand: an explicit padding of the pooling itself is lost by an ONNX exporter.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
        block = block_class(self.remat)
        for stage, width in enumerate((64, 128, 256, 512)):
            for i in range(2):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(width, stride, name=f"layer{stage + 1}_{i}", **dtypes)(x, train, mask)
        return x


class BasicBlock(nn.Module):
    """Returns (N, ceil(h / stride), ceil(w / stride), width): two 3x3 convolutions with a shortcut round them.

    The shortcut is a strided 1x1 convolution where the shape changes.
    """

    width: int
    stride: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.width:
            shortcut = conv(self.width, 1, self.stride, name="downsample_0", **dtypes)(x)
            shortcut = batch_norm(train, name="downsample_1", **dtypes)(shortcut, mask=mask)
        x = conv(self.width, 3, self.stride, name="conv1", **dtypes)(x)
        x = nn.relu(batch_norm(train, name="bn1", **dtypes)(x, mask=mask))
        x = conv(self.width, 3, 1, name="conv2", **dtypes)(x)
        x = batch_norm(train, name="bn2", **dtypes)(x, mask=mask)
        return nn.relu(x + shortcut)


def block_class(remat: bool) -> type[BasicBlock]:
    """Returns `BasicBlock`, rematerialised if asked; `train` stays a Python bool."""
    return nn.remat(BasicBlock, static_argnums=(2,)) if remat else BasicBlock


def conv(width: int, size: int, stride: int, **kwargs: Any) -> nn.Conv:
    """Returns a convolution without bias, padded by size // 2 on every side ("SAME" pads strided ones unevenly)."""
    padding = [(size // 2, size // 2)] * 2
    return nn.Conv(width, (size, size), stride, padding, use_bias=False, kernel_init=_KERNEL_INIT, **kwargs)


def batch_norm(train: bool, **kwargs: Any) -> Any:
    """Returns a batch normalisation with torchvision's constants; statistics are float32 whatever the dtype."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **kwargs)


def statistics_mask(image_valid: jax.Array | None) -> jax.Array | None:
    """Returns the mask (N, 1, 1, 1) of the images that enter batch statistics: the valid ones, or all if none is."""
    if image_valid is None:
        return None
    return (image_valid | ~image_valid.any())[:, None, None, None]
