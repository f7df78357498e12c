"""The query token of a frame, computed from the headset's pose alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class QueryToken(nn.Module):
    """Returns the query token (B, T, C) of each frame for the first decoder: an MLP of the headset vector
    (see `models.headset`).

    Without a headset vector the token is learned and the same for all frames (the paper's ablation 4).
    """

    width: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, headset: jax.Array | None, batch_time: tuple[int, int]) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if headset is None:
            token = self.param("token", nn.initializers.normal(1.0), (self.width,), self.param_dtype)
            return jnp.broadcast_to(token.astype(self.dtype), (*batch_time, self.width))
        x = nn.gelu(nn.Dense(self.width, name="hidden", **dtypes)(headset.astype(self.dtype)))
        return nn.Dense(self.width, name="out", **dtypes)(x)
