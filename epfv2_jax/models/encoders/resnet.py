"""ResNets for monochrome images, in torchvision's layout, so that their weights can be imported name by name."""

from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.encoders.parts import (
    batch_norm,
    block_class,
    conv,
    drop_path,
    drop_path_rates,
    statistics_mask,
)


class BasicBlock(nn.Module):
    """Returns (N, ceil(h / stride), ceil(w / stride), channels): two 3x3 convolutions with a shortcut around them.

    The shortcut is a strided 1x1 convolution where the shape changes.
    """

    channels: int
    stride: int = 1
    drop_rate: float = 0.0
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        running = self.frozen_statistics or not train
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.channels:
            shortcut = conv(self.channels, 1, self.stride, name="downsample_0", **dtypes)(x)
            shortcut = batch_norm(running, name="downsample_1", **dtypes)(shortcut, mask=mask)
        x = conv(self.channels, 3, self.stride, name="conv1", **dtypes)(x)
        x = nn.relu(batch_norm(running, name="bn1", **dtypes)(x, mask=mask))
        x = conv(self.channels, 3, name="conv2", **dtypes)(x)
        x = batch_norm(running, name="bn2", **dtypes)(x, mask=mask)
        return nn.relu(drop_path(x, self.drop_rate, train) + shortcut)


class Bottleneck(nn.Module):
    """Returns (N, ceil(h / stride), ceil(w / stride), 4 * channels): a 3x3 convolution between two 1x1 ones.

    The shortcut is a strided 1x1 convolution where the shape changes. The stride is in the 3x3 convolution, as in
    torchvision and timm ("v1.5"), not in the first 1x1 one, as in the paper.
    """

    channels: int
    stride: int = 1
    drop_rate: float = 0.0
    frozen_statistics: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        running = self.frozen_statistics or not train
        width = self.expansion * self.channels
        shortcut = x
        if self.stride != 1 or x.shape[-1] != width:
            shortcut = conv(width, 1, self.stride, name="downsample_0", **dtypes)(x)
            shortcut = batch_norm(running, name="downsample_1", **dtypes)(shortcut, mask=mask)
        x = conv(self.channels, 1, name="conv1", **dtypes)(x)
        x = nn.relu(batch_norm(running, name="bn1", **dtypes)(x, mask=mask))
        x = conv(self.channels, 3, self.stride, name="conv2", **dtypes)(x)
        x = nn.relu(batch_norm(running, name="bn2", **dtypes)(x, mask=mask))
        x = conv(width, 1, name="conv3", **dtypes)(x)
        x = batch_norm(running, name="bn3", **dtypes)(x, mask=mask)
        return nn.relu(drop_path(x, self.drop_rate, train) + shortcut)


class ResNet(nn.Module):
    """Returns maps (N, ceil(H / s), ceil(W / s), C) of images (N, H, W, 1), one per stage: s = 4, 8, 16, 32.

    He et al., "Deep Residual Learning for Image Recognition", with the structure, padding and normalisation constants
    of torchvision: a weight `layer2.0.downsample.0.weight` there is `layer2_0/downsample_0/kernel` here. There is no
    classifier. The stem takes one channel; with an RGB stem's kernel summed over its three inputs it computes exactly
    what that stem computes from three copies of the image.
    """

    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    blocks: tuple[int, ...] = (2, 2, 2, 2)  # of each stage
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time
    drop_path: float = 0.0  # of the deepest block, in training
    frozen_statistics: bool = False  # batch normalisation by the running statistics, in training too

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each map, along each axis."""
        return tuple(4 * 2**stage for stage in range(len(self.blocks)))

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return 64 * 2 ** (len(self.blocks) - 1) * self.block.expansion

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Names of the parameter modules, grouped by depth, input side first."""
        return (
            ("conv1", "bn1"),
            *((f"layer{s + 1}_{i}",) for s, number in enumerate(self.blocks) for i in range(number)),
        )

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, image_valid: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        chex.assert_axis_dimension(images, -1, 1)
        mask = statistics_mask(image_valid)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(64, 7, 2, name="conv1", **dtypes)(images.astype(self.dtype))
        x = nn.relu(batch_norm(self.frozen_statistics or not train, name="bn1", **dtypes)(x, mask=mask))
        # Padded separately: an ONNX exporter loses the explicit padding of a pooling.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
        block = block_class(self.block, self.remat)
        drop_rates = iter(drop_path_rates(self.drop_path, sum(self.blocks)))
        maps = []
        for stage, number in enumerate(self.blocks):
            for i in range(number):
                x = block(
                    channels=64 * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    drop_rate=next(drop_rates),
                    frozen_statistics=self.frozen_statistics,
                    name=f"layer{stage + 1}_{i}",
                    **dtypes,
                )(x, train, mask)
            maps.append(x)
        return tuple(maps)
