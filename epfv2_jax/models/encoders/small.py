"""A small residual encoder for monochrome images of about 64x64 on a CPU (our choice)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.encoders.parts import batch_norm, block_class, conv, drop_path_rates, statistics_mask
from epfv2_jax.models.encoders.resnet import BasicBlock


class Small(nn.Module):
    """Returns maps (N, ceil(H / s), ceil(W / s), widths[i]) of images (N, H, W, 1), one per stage: s = 4, 8, 16, ...

    A 7x7 stem of stride 4, then stages of residual blocks as in ResNet: the first keeps the resolution, each later one
    halves it. A stem of stride 4 followed by a block trains faster on a CPU than two layers of stride 2, despite more
    multiplications: few channels at high resolution run far below the machine's peak.
    """

    widths: tuple[int, ...] = (32, 64)
    blocks: tuple[int, ...] = (1, 1)  # of each stage
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time
    drop_path: float = 0.0  # of the deepest block, in training
    frozen_statistics: bool = False  # batch normalisation by the running statistics, in training too

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each map, along each axis."""
        return tuple(4 * 2**stage for stage in range(len(self.widths)))

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.widths[-1]

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
        x = conv(self.widths[0], 7, 4, name="conv1", **dtypes)(images.astype(self.dtype))
        x = nn.relu(batch_norm(self.frozen_statistics or not train, name="bn1", **dtypes)(x, mask=mask))
        block = block_class(BasicBlock, self.remat)
        drop_rates = iter(drop_path_rates(self.drop_path, sum(self.blocks)))
        maps = []
        for stage, (width, number) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for i in range(number):
                x = block(
                    channels=width,
                    stride=2 if stage > 0 and i == 0 else 1,
                    drop_rate=next(drop_rates),
                    frozen_statistics=self.frozen_statistics,
                    name=f"layer{stage + 1}_{i}",
                    **dtypes,
                )(x, train, mask)
            maps.append(x)
        return tuple(maps)
