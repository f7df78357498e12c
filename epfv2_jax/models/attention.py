"""Attention: the multi-head core, rotary and 2D position codes, and one query over many tokens."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

#: Frequencies of the 2D code, cycles over the image: fine enough to tell neighbours on a 16x16 grid apart (our choice).
_CYCLES = (0.25, 4.0)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns (B, T, A, K): softmax-weighted values for each query; the softmax is float32.

    Args:
      query: (B, T, A, K).
      key: (B, N, A, K).
      value: (B, N, A, K).
      mask: (B, T, N) bool, True where the query may look. A query that may look nowhere gets a finite, meaningless
        mixture.
    """
    chex.assert_equal_shape([key, value])
    chex.assert_shape(mask, (*query.shape[:2], key.shape[1]))
    logits = jnp.einsum("btak,bnak->batn", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    visible = jnp.broadcast_to(mask[:, None], logits.shape)
    weights = nn.softmax(jnp.where(visible, logits, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.einsum("batn,bnak->btak", weights.astype(value.dtype), value)


def rotary(x: jax.Array, time: jax.Array, base: float) -> jax.Array:
    """Returns `x` with its channel pairs (i, i + K/2) turned by time * base^(-2i/K) radians (RoPE, Su et al.).

    The product of a query and a key, both turned, depends on the difference of their times alone.

    Args:
      x: (B, T, A, K), K even.
      time: (B, T), in frames; only differences matter.
      base: the slowest pair turns about `base` times slower than the fastest, which turns 1 radian a frame.
    """
    chex.assert_shape(time, x.shape[:2])
    half = x.shape[-1] // 2
    frequency = base ** (-np.arange(half, dtype=np.float32) / half)
    angle = time.astype(jnp.float32)[..., None, None] * frequency[None, None, None]
    cos, sin = (jnp.broadcast_to(f(angle), (*x.shape[:-1], half)) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def position_code_2d(height: int, width: int, channels: int) -> np.ndarray:
    """Returns the fixed sine code (height * width, channels) of the cells of a grid, row by row, float32.

    A quarter of the channels each holds sine and cosine of y and of x, at frequencies in geometric progression. The
    code belongs to the place in the image, whatever the grid's resolution. Fixed sines are our choice.

    Raises:
      ValueError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"a 2D position code needs a multiple of 4 channels, got {channels}")
    cycles = np.geomspace(*_CYCLES, channels // 4)
    y, x = ((np.arange(n) + 0.5) / n for n in (height, width))
    parts = []
    for along_y, coordinate in ((True, y), (False, x)):
        phase = 2 * np.pi * coordinate[:, None] * cycles[None]
        for wave in (np.sin(phase), np.cos(phase)):
            wave = wave[:, None] if along_y else wave[None]
            parts.append(np.broadcast_to(wave, (height, width, channels // 4)))
    return np.concatenate(parts, axis=-1).reshape(height * width, channels).astype(np.float32)


class SingleQueryAttention(nn.Module):
    """Returns the heads (..., C), side by side, of one query (..., C) over tokens keys, values (..., N, C).

    Mathematically the textbook form softmax(q W_q (k W_k)^T / sqrt(K)) (v W_v), but no token is projected: W_k is
    applied to the query and W_v to the weighted sum, since q W_q (k W_k)^T = (q W_q W_k^T) k^T. Besides W_q, the
    textbook form costs 2 N C^2 + 2 N C multiplications, this one 2 C^2 + 2 N C A. A bias on the keys would shift all
    logits of a head alike, so there is none. No output projection either: the caller joins the heads of several views.
    """

    heads: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
        chex.assert_equal_shape([keys, values])
        width = query.shape[-1]
        shape = (width, self.heads, width // self.heads)
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        w_query, w_key, w_value = (
            self.param(name, init, shape, self.param_dtype).astype(self.dtype)
            for name in ("query_kernel", "key_kernel", "value_kernel")
        )
        query, keys, values = (x.astype(self.dtype) for x in (query, keys, values))
        query = jnp.einsum("...c,cak->...ak", query, w_query) / shape[-1] ** 0.5
        query = jnp.einsum("...ak,cak->...ac", query, w_key)
        logits = jnp.einsum("...ac,...nc->...an", query, keys, preferred_element_type=jnp.float32)
        weights = nn.softmax(logits, axis=-1).astype(self.dtype)
        seen = jnp.einsum("...an,...nc->...ac", weights, values)
        return jnp.einsum("...ac,cak->...ak", seen, w_value).reshape((*query.shape[:-2], width))
