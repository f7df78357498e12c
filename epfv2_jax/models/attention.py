"""Attention: the multi-head core, rotary and 2D position codes, and one query over many tokens."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax.core import checks

#: Frequencies of the 2D code, cycles per image: fine enough to tell neighbours on a 16x16 grid apart (our choice).
_CYCLES = (0.25, 4.0)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns (B, T, A, K): softmax-weighted values for each query; the softmax is float32.

    Args:
      query: (B, T, A, K).
      key: (B, N, A, K).
      value: (B, N, A, K).
      mask: (B, T, N) bool, True where the query may attend. A query that attends to nothing gets a finite, meaningless
        value.
    """
    chex.assert_equal_shape([key, value])
    chex.assert_shape(mask, (*query.shape[:2], key.shape[1]))
    logits = jnp.einsum("btak,bnak->batn", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    visible = jnp.broadcast_to(mask[:, None], logits.shape)
    weights = nn.softmax(jnp.where(visible, logits, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.einsum("batn,bnak->btak", weights.astype(value.dtype), value)


def rotary(x: jax.Array, time: jax.Array, base: float) -> jax.Array:
    """Returns `x` with its channel pairs (i, i + K/2) rotated by time * base^(-2i/K) radians (RoPE, Su et al.).

    The product of a rotated query and a rotated key depends only on the difference of their times.

    Args:
      x: (B, T, A, K), K even.
      time: (B, T), in frame times of the data; only differences matter.
      base: the slowest pair rotates about `base` times slower than the fastest, which rotates 1 radian per frame time.
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

    Four equal groups of channels hold sin y, cos y, sin x and cos x, at frequencies in geometric progression. The code
    depends on the position in the image, not on the resolution of the grid. Fixed sines are our choice.

    Raises:
      ValueError: `channels` is not a multiple of 4.
    """
    checks.multiple_of(4, "channels of a 2D position code", channels)
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
    """Returns the concatenated heads (..., C) of one query (..., C) over keys and values (..., N, C).

    Equal to the textbook form softmax(q W_q (k W_k)^T / sqrt(K)) (v W_v), but no token is projected: W_k is applied to
    the query and W_v to the weighted sum, since q W_q (k W_k)^T = (q W_q W_k^T) k^T. Besides W_q, the textbook form
    costs 2 N C^2 + 2 N C multiplications, this one 2 C^2 + 2 N C A. There is no bias on the keys, which would shift all
    logits of a head equally, and no output projection: the caller joins the heads of several views.
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
