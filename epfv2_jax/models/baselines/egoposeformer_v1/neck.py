"""The neck: from the maps of the encoder to one map at the finest stride."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.baselines.egoposeformer_v1.layers import KERNEL_INIT
from epfv2_jax.models.baselines.resize import resize


class Neck(nn.Module):
    """Returns a map (N, h, w, width) as fine as the first of the encoder's maps (N, h_i, w_i, C_i), finest first.

    From the coarsest map down: upsample, append it to the next finer one, a 1x1 and a 3x3 convolution. ReLU follows
    every convolution; there is no normalisation. Upsampling to the finer map's size in place of by two is our choice:
    the same where the coarsest stride divides the image, and right for any other size.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        *finer, x = (self._conv(1, f"lateral_{i}", features) for i, features in enumerate(maps))
        for i in reversed(range(len(finer))):
            x = jnp.concatenate([finer[i], resize(x, finer[i].shape[1:3])], axis=-1)
            x = self._conv(3, f"smooth_{i}", self._conv(1, f"fuse_{i}", x))
        return x

    def _conv(self, size: int, name: str, x: jax.Array) -> jax.Array:
        padding = [(size // 2, size // 2)] * 2
        conv = nn.Conv(self.width, (size, size), padding=padding, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)
        return nn.relu(conv(x))
