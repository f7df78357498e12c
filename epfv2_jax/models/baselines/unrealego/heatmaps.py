"""The decoder from the features of all views to their heatmaps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.baselines.resize import resize

#: He et al.'s normal initialisation by fan-in, of this decoder and the autoencoder.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class HeatmapDecoder(nn.Module):
    """Returns heatmaps (N, h, w, num_heatmaps) float32, linear, from maps whose channels are those of all views.

    From the coarsest map on: upsample, append the next finer map, convolve. There is no normalisation; every
    convolution but the last is followed by ReLU. The lateral convolutions keep the number of channels, except that the
    one of stride 16 gives 516 where it reads 512, as in the authors' code. The last convolution starts at zero (our
    choice): from a random start, with an encoder that is not trained yet, Adam pushed the maps down so hard that every
    ReLU before them died.

    Source: the public code of UnrealEgo. Upsampling to the size of the finer map in place of by two is our choice: it
    is the same where the image's sides are multiples of the coarsest stride, and works for all others.
    """

    num_heatmaps: int
    widths: tuple[int, ...]  # channels after each upsampling, the coarsest first
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Takes the maps (N, h, w, C), finest first; there is one width fewer than maps."""
        *_, x = laterals = [self._lateral(level, features) for level, features in enumerate(maps)]
        for level, width in zip(reversed(range(len(self.widths))), self.widths, strict=True):
            finer = laterals[level]
            x = jnp.concatenate([resize(x, finer.shape[1:3]), finer], axis=-1)
            x = nn.relu(self._conv(width, 3, f"up{level + 1}")(x))
        return self._conv(self.num_heatmaps, 1, "heatmap", nn.initializers.zeros)(x).astype(jnp.float32)

    def _lateral(self, level: int, features: jax.Array) -> jax.Array:
        channels = features.shape[-1]
        width = 516 if (level, channels) == (2, 512) else channels
        return nn.relu(self._conv(width, 1, f"lateral{level + 1}")(features))

    def _conv(
        self, width: int, size: int, name: str, kernel_init: nn.initializers.Initializer = KERNEL_INIT
    ) -> nn.Conv:
        padding = [(size // 2, size // 2)] * 2
        return nn.Conv(width, (size, size), padding=padding, kernel_init=kernel_init, dtype=self.dtype, name=name)
