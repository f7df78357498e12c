"""The layers of the transformer: deformable attention to the views, attention between joints, feed-forward."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax.models.attention import attend

#: PyTorch's initialisation of kernels, and Glorot's; biases start at zero (our choice; PyTorch's are random too).
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_GLOROT = nn.initializers.xavier_uniform()


class Views(NamedTuple):
    """What the joints look at."""

    features: jax.Array  # (N, V, h, w, C)
    anchors: jax.Array  # (N, V, J, 2): x right, y down, from 0 to 1 over the image
    seen: jax.Array  # (N, V, J) bool: whether the view has the joint in it


class StereoLayer(nn.Module):
    """Returns joint queries (N, J, C) after one layer: views, other joints, feed-forward; post-norm residuals."""

    heads: int
    points: int
    ffn_width: int
    dtype: Any = jnp.float32  # of the values that are sampled; all else is float32

    @nn.compact
    def __call__(self, queries: jax.Array, views: Views) -> jax.Array:
        N, J, C = queries.shape
        V = views.seen.shape[1]
        chex.assert_shape([views.anchors, views.seen[..., None]], (N, V, J, None))
        sampled = DeformableAttention(self.heads, self.points, self.dtype, name="cross")(queries, views)
        joined = dense(C, name="join")(sampled.swapaxes(1, 2).reshape(N, J, V * C))
        x = layer_norm(name="cross_norm")(queries + joined)
        x = layer_norm(name="attention_norm")(x + JointAttention(self.heads, name="attention")(x))
        hidden = nn.gelu(dense(self.ffn_width, name="ffn_in")(x), approximate=False)
        return layer_norm(name="ffn_norm")(x + dense(C, name="ffn_out")(hidden))


class DeformableAttention(nn.Module):
    """Returns what each view says to each query, (N, V, J, C); zeros where the view does not have the joint in it.

    Each head samples the view at points around the joint's anchor. The offsets, in cells, and the weights of the points
    depend on the query alone, so they are the same for all views (Zhu et al., "Deformable DETR", one level).
    """

    heads: int
    points: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, views: Views) -> jax.Array:
        N, V, h, w, C = views.features.shape
        J, A, P = queries.shape[1], self.heads, self.points
        values = dense(C, kernel_init=_GLOROT, dtype=self.dtype, name="value")(views.features)
        offsets = dense(2 * A * P, kernel_init=nn.initializers.zeros, bias_init=_rays(A, P), name="offsets")(queries)
        logits = dense(A * P, kernel_init=nn.initializers.zeros, name="weights")(queries)
        weights = nn.softmax(logits.reshape(N, J, A, P), axis=-1)
        size = np.array([w, h], np.float32)[None, None, None]
        centre = views.anchors * size - 0.5  # of cell (0, 0): 0
        at = centre[:, :, :, None, None] + offsets.reshape(N, 1, J, A, P, 2)
        chex.assert_shape(at, (N, V, J, A, P, 2))
        seen = sample(
            values.reshape(N * V, h, w, A, C // A),
            at.reshape(N * V, J, A, P, 2),
            jnp.broadcast_to(weights[:, None], (N, V, J, A, P)).reshape(N * V, J, A, P),
        )
        seen = dense(C, kernel_init=_GLOROT, name="out")(seen.reshape(N, V, J, C))
        return jnp.where(views.seen[..., None], seen, 0.0)


class JointAttention(nn.Module):
    """Returns (N, J, C): multi-head attention of each joint to all joints."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        N, J, C = x.shape
        query, key, value = (
            dense(C, kernel_init=_GLOROT, name=name)(x).reshape(N, J, self.heads, C // self.heads)
            for name in ("query", "key", "value")
        )
        seen = attend(query, key, value, jnp.ones((N, J, J), bool))
        return dense(C, name="out")(seen.reshape(N, J, C))


def sample(maps: jax.Array, at: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns weighted sums (N, J, A, K) float32 of bilinear samples of maps (N, h, w, A, K); zero outside the maps.

    Head a samples channels a of the maps. Bilinear interpolation is a product of two hat functions, one of rows and one
    of columns, so the sum over points is one weight for each cell: products of matrices, in the gradient too. Gathers
    are three to five times as fast for maps of 64x64 on a CPU, but their gradient takes three times as long for maps of
    12x12, and accelerators and their ONNX runtimes prefer products.

    Args:
      maps: (N, h, w, A, K).
      at: (N, J, A, P, 2) points as x (column), y (row) in cells; integers are the centres of cells.
      weights: (N, J, A, P) of the points.
    """
    chex.assert_shape(at, (*weights.shape, 2))
    h, w = maps.shape[1:3]
    x, y = at[..., 0, None].astype(jnp.float32), at[..., 1, None].astype(jnp.float32)
    rows, columns = (
        nn.relu(1 - jnp.abs(place - np.arange(cells, dtype=np.float32).reshape(1, 1, 1, 1, -1)))
        for place, cells in ((y, h), (x, w))
    )
    share = jnp.einsum("njaph,njapw->njahw", rows * weights[..., None], columns)
    return jnp.einsum("njahw,nhwak->njak", share.astype(maps.dtype), maps, preferred_element_type=jnp.float32)


def _rays(heads: int, points: int) -> Any:
    """Returns the initialiser of the offsets' bias: point p of a head lies p + 1 cells from the anchor.

    The heads look in different directions; the larger coordinate of an offset is p + 1.
    """
    angle = 2 * np.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    offsets = direction[:, None] * np.arange(1, points + 1)[:, None]
    return lambda key, shape, dtype: jnp.asarray(offsets.reshape(shape), dtype)


def dense(width: int, **kwargs: Any) -> nn.Dense:
    """Returns a linear layer with PyTorch's initialisation of the kernel, in float32 unless told otherwise."""
    return nn.Dense(width, **{"kernel_init": KERNEL_INIT, "dtype": jnp.float32, **kwargs})


def layer_norm(**kwargs: Any) -> nn.LayerNorm:
    """Returns a layer normalisation with PyTorch's epsilon, in float32."""
    return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, **kwargs)
