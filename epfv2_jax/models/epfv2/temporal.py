"""Causal attention over the last frames of a stream, with a cache that makes any chunking equal the whole clip."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from epfv2_jax.models import attention


class KVCache(struct.PyTreeNode):
    """Keys and values of the frames before a chunk, oldest first; immutable, passed in and returned.

    Keys are stored NOT rotated, with their age in frame times of the data at the newest frame. Positions are computed
    from ages at use, relative to the chunk: they stay small however long the stream is, and a dropped frame ages its
    predecessors by two instead of one. An entry as old as the window is masked; an empty cache holds only such entries.
    """

    keys: jax.Array  # (B, W - 1, A, K)
    values: jax.Array  # (B, W - 1, A, K)
    age: jax.Array  # (B, W - 1) int32, at most W


def empty_cache(batch: int, window: int, heads: int, head_width: int, dtype: Any = jnp.float32) -> KVCache:
    """Returns the cache of `batch` streams before their first frame."""
    shape = (batch, window - 1, heads, head_width)
    return KVCache(
        keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype), age=jnp.full(shape[:2], window, jnp.int32)
    )


class TemporalAttention(nn.Module):
    """Returns (B, T, C) and the next cache: each frame attends to the frames of the last `window` frame times.

    The paper's eq. 9: RoPE on queries and keys, not on values. Our window includes the current frame and is measured in
    frame times, not frames, so that a gap reduces the frames in it instead of stretching it. Frames with `frame_valid`
    False are neither attended to nor written to the cache; their outputs are finite but meaningless.
    """

    heads: int
    window: int
    rope_base: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: jax.Array, frame_valid: jax.Array, frame_gap: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        B, T, width = tokens.shape
        chex.assert_shape([frame_valid, frame_gap], (B, T))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        head_shape = (self.heads, width // self.heads)
        query, key, value = (nn.DenseGeneral(head_shape, name=n, **dtypes)(tokens) for n in ("query", "key", "value"))

        # Time is counted from the newest frame in the cache. A gap as long as the window hides everything before it, so
        # gaps are clipped there and no sum can overflow.
        elapsed = jnp.cumsum(jnp.where(frame_valid, jnp.clip(frame_gap, 1, self.window), 0), axis=1)
        keys = jnp.concatenate([cache.keys, key.astype(cache.keys.dtype)], axis=1)
        values = jnp.concatenate([cache.values, value.astype(cache.values.dtype)], axis=1)
        key_time = jnp.concatenate([-cache.age, elapsed], axis=1)
        known = jnp.concatenate([cache.age < self.window, frame_valid], axis=1)
        age = elapsed[:, :, None] - key_time[:, None, :]
        visible = (age >= 0) & (age < self.window) & known[:, None, :]

        query = attention.rotary(query, elapsed, self.rope_base)
        seen = attention.attend(query, attention.rotary(keys, key_time, self.rope_base), values, visible)
        out = nn.DenseGeneral(width, axis=(-2, -1), name="out", **dtypes)(seen)

        newest_age = jnp.minimum(elapsed[:, -1:] - key_time, self.window)
        return out, _drop_oldest(KVCache(keys=keys, values=values, age=newest_age), frame_valid)


def _drop_oldest(entries: KVCache, frame_valid: jax.Array) -> KVCache:
    """Returns the newest entries (B, W - 1, ...) of entries (B, W - 1 + T, ...), without trailing invalid ones."""
    T = frame_valid.shape[1]
    size = entries.age.shape[1] - T

    def newest(x: jax.Array) -> jax.Array:
        if T == 1:  # a static shift, or none
            written = frame_valid.reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.where(written, x[:, 1:], x[:, :-1])
        index = frame_valid.sum(axis=1, dtype=jnp.int32)[:, None] + jnp.arange(size)[None]
        return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)

    return jax.tree.map(newest, entries)
