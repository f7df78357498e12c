"""The decoder: one token per frame attends to all views, then to the past, at a cost independent of the joints."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax.models.attention import SingleQueryAttention
from epfv2_jax.models.epfv2.temporal import KVCache, TemporalAttention


class ViewTokens(NamedTuple):
    """The features of all views of each frame, as tokens."""

    keys: jax.Array  # (B, T, V, N, C), with positions
    values: jax.Array  # (B, T, V, N, C)
    valid: jax.Array  # (B, T, V) bool


class Decoder(nn.Module):
    """Returns (token (B, T, C), next caches): multi-view cross-attention, temporal attention, feed-forward per layer.

    The order is that of the paper, which shows one layer. Pre-norm residual blocks and sharing the view conditioning
    between the layers of a decoder are our choice.
    """

    depth: int
    heads: int
    ffn_width: int
    window: int
    rope_base: float
    temporal: bool  # whether layers hold temporal attention
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        token: jax.Array,
        views: ViewTokens,
        conditioning: jax.Array | None,
        frame_valid: jax.Array,
        frame_gap: jax.Array,
        caches: tuple[KVCache, ...],
    ) -> tuple[jax.Array, tuple[KVCache, ...]]:
        """Runs the layers on `token` (B, T, C).

        `conditioning` (B, T, V, C), or None, is added to the query of each view. `frame_valid` and `frame_gap` are
        (B, T). There is one cache per temporal layer.
        """
        B, T, V, _, width = views.keys.shape
        chex.assert_shape(token, (B, T, width))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # xi, the learned embedding of each view: as large as the normalised token, so that the queries of views differ.
        xi = self.param("view_embedding", nn.initializers.normal(1.0), (V, width), self.param_dtype)
        sigma = jnp.broadcast_to(xi.astype(self.dtype), (B, T, V, width))
        if conditioning is not None:
            sigma = sigma + conditioning.astype(self.dtype)
        next_caches = []
        for i in range(self.depth):
            normed = nn.LayerNorm(name=f"cross_norm_{i}", **dtypes)(token)
            token = token + MultiViewAttention(self.heads, name=f"cross_{i}", **dtypes)(normed, views, sigma)
            if self.temporal:
                block = TemporalBlock(self.heads, self.window, self.rope_base, name=f"temporal_{i}", **dtypes)
                token, cache = block(token, frame_valid, frame_gap, caches[i])
                next_caches.append(cache)
            normed = nn.LayerNorm(name=f"ffn_norm_{i}", **dtypes)(token)
            hidden = nn.gelu(nn.Dense(self.ffn_width, name=f"ffn_in_{i}", **dtypes)(normed))
            token = token + nn.Dense(width, name=f"ffn_out_{i}", **dtypes)(hidden)
        return token, tuple(next_caches)


class MultiViewAttention(nn.Module):
    """Returns (B, T, C), the paper's eq. 7: q' = Linear(Concat_v MHA(q + sigma^v, keys^v, values^v)).

    Query, key and value weights are shared over views; one Linear joins the heads of all views, V C -> C. A view that
    is not valid contributes zeros.
    """

    heads: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, token: jax.Array, views: ViewTokens, sigma: jax.Array) -> jax.Array:
        B, T, V, width = sigma.shape
        chex.assert_shape(views.valid, (B, T, V))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        query = token[:, :, None] + sigma
        heads = SingleQueryAttention(self.heads, name="attention", **dtypes)(query, views.keys, views.values)
        heads = jnp.where(views.valid[..., None], heads, 0)
        return nn.Dense(width, name="join", **dtypes)(heads.reshape(B, T, V * width))


class TemporalBlock(nn.Module):
    """Returns (token + TemporalAttention(LayerNorm(token)) (B, T, C), next cache)."""

    heads: int
    window: int
    rope_base: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, token: jax.Array, frame_valid: jax.Array, frame_gap: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normed = nn.LayerNorm(name="norm", **dtypes)(token)
        attention = TemporalAttention(self.heads, self.window, self.rope_base, name="attention", **dtypes)
        change, cache = attention(normed, frame_valid, frame_gap, cache)
        return token + change, cache
