"""DINOv3's vision transformers for monochrome images."""

from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax.models.encoders.parts import block_class, drop_path, drop_path_rates

_INIT = nn.initializers.truncated_normal(0.02)


class ViT(nn.Module):
    """Returns one map (N, H / 16, W / 16, width) of images (N, H, W, 1): the patch tokens of a DINOv3 transformer.

    Simeoni et al., "DINOv3" (arXiv 2508.10104); the defaults are ViT-S/16. Tokens are [CLS, registers, patches row by
    row]; positions enter through a rotation of queries and keys in every block (see `rotary_table`), so the image size
    is free. The patch embedding takes one channel; with an RGB kernel summed over its three inputs it computes exactly
    what that kernel computes from three copies of the image. There are no batch statistics: `image_valid` and
    `frozen_statistics` have no effect.

    Raises:
      ValueError: the image's sides are not multiples of 16.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_width: int = 1536
    gated: bool = False  # the MLP is a SwiGLU
    dtype: Any = jnp.float32  # of everything but norms and softmax, which are float32
    param_dtype: Any = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time
    drop_path: float = 0.0  # of both branches of the deepest block, in training
    frozen_statistics: bool = False
    scan_layers: bool = False  # one loop over the blocks: a smaller program; the parameters are the same

    patch: ClassVar[int] = 16
    strides: ClassVar[tuple[int, ...]] = (16,)
    registers: ClassVar[int] = 4

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Names of the parameter modules, grouped by depth, input side first."""
        blocks = ((f"block_{i}",) for i in range(self.depth))
        return (("patch_embed", "cls_token", "register_tokens"), *blocks, ("norm",))

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, image_valid: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        chex.assert_axis_dimension(images, -1, 1)
        N, H, W, _ = images.shape
        if H % self.patch or W % self.patch:
            allowed = " x ".join(str(max(1, round(n / self.patch)) * self.patch) for n in (H, W))
            raise ValueError(
                f"images of {H} x {W} pixels cannot be divided into the {self.patch} x {self.patch} patches of this "
                f"encoder; resize or crop them to multiples of {self.patch}, such as {allowed}"
            )
        h, w = H // self.patch, W // self.patch
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        patches = nn.Conv(
            self.width,
            (self.patch, self.patch),
            self.patch,
            "VALID",
            kernel_init=_INIT,
            name="patch_embed",
            **dtypes,
        )(images.astype(self.dtype))
        tokens = [
            jnp.broadcast_to(
                self.param(name, _INIT, (1, number, self.width), self.param_dtype), (N, number, self.width)
            )
            for name, number in (("cls_token", 1), ("register_tokens", self.registers))
        ]
        extra = 1 + self.registers
        x = jnp.concatenate([*(t.astype(self.dtype) for t in tokens), patches.reshape(N, h * w, self.width)], axis=1)
        rotation = rotary_table(h, w, self.width // self.heads, extra)
        if self.scan_layers and not self.is_initializing():
            x = self._scan_blocks(x, train, rotation)
        else:
            block = block_class(Block, self.remat)
            for i, drop_rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
                x = block(self.heads, self.mlp_width, self.gated, drop_rate, name=f"block_{i}", **dtypes)(
                    x, train, rotation
                )
        x = layer_norm(name="norm", **dtypes)(x[:, extra:])
        return (x.reshape(N, h, w, self.width),)

    def _scan_blocks(self, x: jax.Array, train: bool, rotation: tuple[np.ndarray, np.ndarray]) -> jax.Array:
        """Runs the blocks as one loop over their stacked parameters.

        `nn.scan` would store them stacked, which changes checkpoints, weight import and layer-wise learning rates.
        """
        dropping = train and self.drop_path > 0

        def body(x: jax.Array, layer: tuple[Any, ...]) -> tuple[jax.Array, None]:
            params, drop_rate, rngs = layer
            block = Block(self.heads, self.mlp_width, self.gated, drop_rate, self.dtype, self.param_dtype, parent=None)
            return block.apply({"params": params}, x, dropping, rotation, rngs=rngs), None

        def stack(*leaves: jax.Array) -> jax.Array:
            # Matrices in the dtype of the products; vectors keep theirs, as the norms compute in float32.
            return jnp.stack([leaf.astype(self.dtype) if leaf.ndim > 1 else leaf for leaf in leaves])

        params = (self.variables["params"][f"block_{i}"] for i in range(self.depth))
        layers = (
            jax.tree.map(stack, *params),
            jnp.asarray(drop_path_rates(self.drop_path, self.depth)),
            {"drop_path": jax.random.split(self.make_rng("drop_path"), self.depth)} if dropping else {},
        )
        # XLA eliminates no common subexpressions across loop iterations: recomputation needs no barriers.
        body = jax.checkpoint(body, prevent_cse=False) if self.remat else body
        return jax.lax.scan(body, x, layers)[0]


class Block(nn.Module):
    """Returns tokens (N, L, C): attention, then an MLP, both as pre-norm residual branches with a layer scale."""

    heads: int
    mlp_width: int
    gated: bool
    drop_rate: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = Attention(self.heads, name="attn", **dtypes)
        mlp = (GatedMLP if self.gated else MLP)(self.mlp_width, name="mlp", **dtypes)
        branch = attention(layer_norm(name="norm1", **dtypes)(x), rotation)
        x = x + drop_path(self._scale("layer_scale1", branch), self.drop_rate, train)
        branch = mlp(layer_norm(name="norm2", **dtypes)(x))
        return x + drop_path(self._scale("layer_scale2", branch), self.drop_rate, train)

    def _scale(self, name: str, branch: jax.Array) -> jax.Array:
        # The original's 1e-5 suits very deep models and long schedules. Ours: 0.1, with which Touvron et al., "Going
        # deeper with Image Transformers", start models of 12 blocks; it matters only for training from scratch.
        scale = self.param(name, nn.initializers.constant(0.1), branch.shape[-1:], self.param_dtype)
        return branch * scale.astype(self.dtype)[None, None]


class Attention(nn.Module):
    """Returns (N, L, C): multi-head self-attention, queries and keys rotated by `rotation`; no bias on keys."""

    heads: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
        N, L, C = x.shape
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        query, key, value = (
            dense(C, use_bias=name != "key", name=name, **dtypes)(x).reshape(N, L, self.heads, C // self.heads)
            for name in ("query", "key", "value")
        )
        # Scores and softmax are float32 whatever the dtype.
        x = jax.nn.dot_product_attention(rotate(query, rotation), rotate(key, rotation), value)
        return dense(C, name="out", **dtypes)(x.reshape(N, L, C))


class MLP(nn.Module):
    """Returns (N, L, C): two layers with the exact GELU between them."""

    hidden: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = nn.gelu(dense(self.hidden, name="fc1", **dtypes)(x), approximate=False)
        return dense(x.shape[-1], name="fc2", **dtypes)(hidden)


class GatedMLP(nn.Module):
    """Returns (N, L, C): down(silu(gate x) * up x), the SwiGLU of Shazeer, "GLU Variants Improve Transformer"."""

    hidden: int
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gate = nn.silu(dense(self.hidden, name="gate", **dtypes)(x))
        return dense(x.shape[-1], name="down", **dtypes)(gate * dense(self.hidden, name="up", **dtypes)(x))


def dense(width: int, **kwargs: Any) -> nn.Dense:
    """Returns a linear layer with DINOv3's initialisation."""
    return nn.Dense(width, kernel_init=_INIT, **kwargs)


def layer_norm(**kwargs: Any) -> nn.LayerNorm:
    """Returns a layer normalisation with DINOv3's epsilon, computed in float32 whatever the dtype.

    The variance is computed from centred values: a transformer's few huge channels would cancel digits otherwise.
    """
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, **kwargs)


def rotary_table(height: int, width: int, head_dim: int, extra: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosines and sines (extra + height * width, head_dim) of the rotations of queries and keys, float32.

    DINOv3's axial RoPE: a quarter of the channels encodes y and a quarter x, with periods from half the image's extent
    to nearly 100 times that; the second half of the channels, partners of the first in `rotate`, has the same angles.
    Cell centres span (-1, 1) along either axis, whatever the grid. The first `extra` tokens, CLS and registers, are not
    rotated. Periods have full precision, as in timm and Transformers; the original rounds them to bfloat16.
    """
    y, x = (2 * (np.arange(n) + 0.5) / n - 1 for n in (height, width))
    period = 100.0 ** (np.arange(head_dim // 4) / (head_dim // 4))
    angle_y, angle_x = (2 * np.pi * c[:, None] / period[None] for c in (y, x))
    grid = (height, width, head_dim // 4)
    angle = np.concatenate([np.broadcast_to(angle_y[:, None], grid), np.broadcast_to(angle_x[None], grid)], axis=-1)
    angle = np.tile(angle.reshape(height * width, head_dim // 2), 2)
    angle = np.concatenate([np.zeros((extra, head_dim)), angle])
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns `x` (N, L, A, K) with its channel pairs (k, k + K/2) rotated by the angles of a `rotary_table`.

    The product of a rotated query and a rotated key depends only on their relative position. Computed in float32.
    """
    cos, sin = (table[None, :, None] for table in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return (x * cos + jnp.concatenate([-second, first], axis=-1) * sin).astype(x.dtype)
