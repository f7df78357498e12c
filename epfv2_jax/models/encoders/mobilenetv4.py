"""MobileNetV4, the convolutional variants, for monochrome images, in timm's layout."""

import dataclasses
import itertools
import operator
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.encoders.parts import (
    batch_norm,
    block_class,
    conv,
    depthwise_conv,
    drop_path,
    drop_path_rates,
    statistics_mask,
)


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution, normalisation and ReLU."""

    width: int
    size: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Fused:
    """A strided size x size convolution to `expand` times the input's channels, then a 1x1 one to `width`."""

    width: int
    expand: int
    size: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Inverted:
    """A universal inverted bottleneck: 1x1 to `expand` times the input's channels, and 1x1 back to `width`.

    `start` and `middle` are the kernel sizes of the depthwise convolutions before and after the expansion; 0: none.
    Both together are the paper's "ExtraDW", `middle` alone the inverted bottleneck of MobileNetV2, `start` alone
    "ConvNext", neither "FFN". The middle convolution has the stride.
    """

    width: int
    expand: int
    start: int = 0
    middle: int = 0
    stride: int = 1


Stages = tuple[tuple[Conv | Fused | Inverted, ...], ...]

SMALL: Stages = (
    (Conv(32, 3, stride=2), Conv(32, 1)),
    (Conv(96, 3, stride=2), Conv(64, 1)),
    (
        Inverted(96, 3, start=5, middle=5, stride=2),
        Inverted(96, 2, middle=3),
        Inverted(96, 2, middle=3),
        Inverted(96, 2, middle=3),
        Inverted(96, 2, middle=3),
        Inverted(96, 4, start=3),
    ),
    (
        Inverted(128, 6, start=3, middle=3, stride=2),
        Inverted(128, 4, start=5, middle=5),
        Inverted(128, 4, middle=5),
        Inverted(128, 3, middle=5),
        Inverted(128, 4, middle=3),
        Inverted(128, 4, middle=3),
    ),
)

MEDIUM: Stages = (
    (Fused(48, 4, 3, stride=2),),
    (
        Inverted(80, 4, start=3, middle=5, stride=2),
        Inverted(80, 2, start=3, middle=3),
    ),
    (
        Inverted(160, 6, start=3, middle=5, stride=2),
        Inverted(160, 4, start=3, middle=3),
        Inverted(160, 4, start=3, middle=3),
        Inverted(160, 4, start=3, middle=5),
        Inverted(160, 4, start=3, middle=3),
        Inverted(160, 4, start=3),
        Inverted(160, 2),
        Inverted(160, 4, start=3),
    ),
    (
        Inverted(256, 6, start=5, middle=5, stride=2),
        Inverted(256, 4, start=5, middle=5),
        Inverted(256, 4, start=3, middle=5),
        Inverted(256, 4, start=3, middle=5),
        Inverted(256, 4),
        Inverted(256, 4, start=3),
        Inverted(256, 2, start=3, middle=5),
        Inverted(256, 4, start=5, middle=5),
        Inverted(256, 4),
        Inverted(256, 4),
        Inverted(256, 2, start=5),
    ),
)


class MobileNetV4(nn.Module):
    """Returns maps (N, ceil(H / s), ceil(W / s), C) of images (N, H, W, 1): the last of each stride s = 4, 8, 16, 32.

    Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", with timm's structure and names: a weight
    `blocks.2.0.dw_start.conv.weight` there is `blocks_2_0/dw_start/conv/kernel` here. Ends before the last 1x1
    convolution to 960 channels, which only feeds a classifier (our choice). The stem takes one channel; with an RGB
    stem's kernel summed over its three inputs it computes exactly what that stem computes from three copies of the
    image.
    """

    stages: Stages = SMALL
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time
    drop_path: float = 0.0  # of the deepest block, in training; blocks without a shortcut are never dropped
    frozen_statistics: bool = False  # batch normalisation by the running statistics, in training too

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each map, along each axis."""
        blocks = (spec.stride for specs in self.stages for spec in specs)
        _, *after_each_block = itertools.accumulate(blocks, operator.mul, initial=2)
        return tuple(sorted(set(after_each_block)))

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.stages[-1][-1].width

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Names of the parameter modules, grouped by depth, input side first."""
        blocks = ((f"blocks_{stage}_{i}",) for stage, specs in enumerate(self.stages) for i in range(len(specs)))
        return (("conv_stem", "bn1"), *blocks)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, image_valid: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        chex.assert_axis_dimension(images, -1, 1)
        mask = statistics_mask(image_valid)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(32, 3, 2, name="conv_stem", **dtypes)(images.astype(self.dtype))
        x = nn.relu(batch_norm(self.frozen_statistics or not train, name="bn1", **dtypes)(x, mask=mask))
        blocks = {Conv: ConvBlock, Fused: FusedBlock, Inverted: InvertedBlock}
        drop_rates = iter(drop_path_rates(self.drop_path, sum(map(len, self.stages))))
        maps, stride = {}, 2
        for stage, specs in enumerate(self.stages):
            for i, spec in enumerate(specs):
                x = block_class(blocks[type(spec)], self.remat)(
                    spec,
                    drop_rate=next(drop_rates),
                    frozen_statistics=self.frozen_statistics,
                    name=f"blocks_{stage}_{i}",
                    **dtypes,
                )(x, train, mask)
                stride *= spec.stride
                maps[stride] = x
        return tuple(maps.values())


class _Block(nn.Module):
    """Base class of the blocks: (N, h, w, C) -> (N, ceil(h / stride), ceil(w / stride), width)."""

    spec: Any
    drop_rate: float
    frozen_statistics: bool
    dtype: Any
    param_dtype: Any

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def norm(self, name: str, train: bool) -> nn.BatchNorm:
        return batch_norm(self.frozen_statistics or not train, name=name, **self.dtypes)

    def join(self, x: jax.Array, shortcut: jax.Array, train: bool) -> jax.Array:
        """Returns x, with the shortcut added if the block keeps the shape."""
        return drop_path(x, self.drop_rate, train) + shortcut if x.shape == shortcut.shape else x


class ConvBlock(_Block):
    """A `Conv`, without a shortcut."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        x = conv(self.spec.width, self.spec.size, self.spec.stride, name="conv", **self.dtypes)(x)
        return nn.relu(self.norm("bn1", train)(x, mask=mask))


class FusedBlock(_Block):
    """A `Fused`, with a shortcut where the shape is kept; the second convolution has no activation."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        shortcut, expanded = x, self.spec.expand * x.shape[-1]
        x = conv(expanded, self.spec.size, self.spec.stride, name="conv_exp", **self.dtypes)(x)
        x = nn.relu(self.norm("bn1", train)(x, mask=mask))
        x = conv(self.spec.width, 1, name="conv_pwl", **self.dtypes)(x)
        return self.join(self.norm("bn2", train)(x, mask=mask), shortcut, train)


class InvertedBlock(_Block):
    """An `Inverted`, with a shortcut where the shape is kept.

    ReLU follows the expansion and the middle convolution, not the first depthwise one and not the projection.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        def layer(name: str, width: int, size: int, stride: int = 1, depthwise: bool = False) -> ConvNorm:
            running = self.frozen_statistics or not train
            return ConvNorm(width, size, stride, depthwise, running, name=name, **self.dtypes)

        spec, shortcut = self.spec, x
        channels, expanded = x.shape[-1], spec.expand * x.shape[-1]
        if spec.start:
            x = layer("dw_start", channels, spec.start, depthwise=True)(x, mask)
        x = nn.relu(layer("pw_exp", expanded, 1)(x, mask))
        if spec.middle:
            x = nn.relu(layer("dw_mid", expanded, spec.middle, spec.stride, depthwise=True)(x, mask))
        x = layer("pw_proj", spec.width, 1)(x, mask)
        return self.join(x, shortcut, train)


class ConvNorm(nn.Module):
    """Returns (N, ceil(h / stride), ceil(w / stride), width): a convolution and its normalisation."""

    width: int
    size: int
    stride: int
    depthwise: bool
    running: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        make = depthwise_conv if self.depthwise else conv
        x = make(self.width, self.size, self.stride, name="conv", **dtypes)(x)
        return batch_norm(self.running, name="bn", **dtypes)(x, mask=mask)
