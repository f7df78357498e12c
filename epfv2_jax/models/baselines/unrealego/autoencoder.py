"""The autoencoder: the heatmaps of all views to a short code, and from the code the pose and the heatmaps again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax.models.baselines.unrealego.heatmaps import KERNEL_INIT
from epfv2_jax.models.encoders.parts import batch_norm, statistics_mask

_LEAK = 0.2  # slope of LeakyReLU below zero


def _norm_of_maps_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The authors draw the scales of normalisations of maps from [0.02, 1); those of vectors start at 1."""
    return jax.random.uniform(key, shape, dtype, 0.02, 1.0)


class AutoEncoder(nn.Module):
    """Returns joints (N, J, 3) and the reconstructed heatmaps (N, h, w, C), both float32, from heatmaps (N, h, w, C).

    Each layer is followed by batch normalisation and LeakyReLU, those of the code and of the reconstruction too; only
    the pose comes from a linear layer.

    Source: the public code of UnrealEgo, for maps of 64x64. Our choice: each convolution halves the map, so sides that
    are no multiples of 2^(number of convolutions) are padded with zeros at their ends and cut off again. And the
    pose starts as a rest pose, not as zero: Adam's small steps take long to where the feet are in the headset frame.
    """

    rest: tuple[tuple[float, float, float], ...]  # J joints, in the unit of the output: the pose starts there
    conv_widths: tuple[int, ...]
    dense_widths: tuple[int, ...]
    code_width: int
    pose_width: int  # of the two hidden layers between code and pose
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, heatmaps: jax.Array, train: bool, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Takes heatmaps and which of them (N,) enter batch statistics."""
        N, h, w, C = heatmaps.shape
        factor = 2 ** len(self.conv_widths)
        mask = statistics_mask(valid)

        def block(layer: nn.Module, x: jax.Array) -> jax.Array:
            x = layer(x)
            is_map = x.ndim == 4
            scale_init = _norm_of_maps_init if is_map else nn.initializers.ones
            norm = batch_norm(not train, dtype=self.dtype, scale_init=scale_init, name=f"{layer.name}_bn")
            return nn.leaky_relu(norm(x, mask=mask if is_map else mask[:, 0, 0]), _LEAK)

        x = jnp.pad(heatmaps, ((0, 0), (0, -h % factor), (0, -w % factor), (0, 0)))
        for i, width in enumerate(self.conv_widths):
            conv = {"padding": [(1, 1)] * 2, "kernel_init": KERNEL_INIT, "dtype": self.dtype, "name": f"conv{i + 1}"}
            x = block(nn.Conv(width, (4, 4), 2, **conv), x)
        smallest = x.shape[1:]
        x = x.reshape(N, -1)
        flat = x.shape[1]
        for i, width in enumerate((*self.dense_widths, self.code_width)):
            x = block(self._dense(width, f"fc{i + 1}"), x)
        code = x

        for i in (1, 2):
            x = block(self._dense(self.pose_width, f"pose_fc{i}"), x)
        rest = np.asarray(self.rest, np.float32)
        pose = nn.Dense(
            rest.size, kernel_init=KERNEL_INIT, bias_init=lambda *_: jnp.asarray(rest.ravel()), name="pose_fc3"
        )
        joints = pose(x.astype(jnp.float32)).reshape(N, *rest.shape)

        x = code
        for i, width in enumerate((*reversed(self.dense_widths), flat)):
            x = block(self._dense(width, f"heatmap_fc{i + 1}"), x)
        x = x.reshape(N, *smallest)
        for i, width in enumerate((*reversed(self.conv_widths[:-1]), C)):
            x = block(self._deconv(width, f"deconv{i + 1}"), x)
        return joints, x[:, :h, :w].astype(jnp.float32)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name)

    def _deconv(self, width: int, name: str) -> "Deconvolution":
        return Deconvolution(width, dtype=self.dtype, name=name)


class Deconvolution(nn.Module):
    """Returns (N, 2h, 2w, width) of x (N, h, w, C): a transposed convolution of 4x4 pixels and stride 2.

    It equals `nn.ConvTranspose(width, (4, 4), (2, 2), "SAME")` and has its parameters. A matrix product gives the 4x4
    pixels that each cell adds to, and those of neighbours are added up: on a CPU this is several times faster than
    XLA's gradient of a transposed convolution.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        N, h, w, C = x.shape
        # PyTorch's fan-in of a transposed convolution counts its outputs.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, (4, 4, C, self.width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        # The pixel 2 * (i + p) + q of a map with one pixel more on each side, along rows; r and s along columns.
        kernel = kernel[::-1, ::-1].reshape(2, 2, 2, 2, C, self.width)
        products = jnp.einsum("nijc,pqrsco->prnijqso", x.astype(self.dtype), kernel)
        moved = [
            jnp.pad(products[p, r], ((0, 0), (p, 1 - p), (r, 1 - r), (0, 0), (0, 0), (0, 0)))
            for p, r in np.ndindex(2, 2)
        ]
        pixels = sum(moved).swapaxes(2, 3).reshape(N, 2 * h + 2, 2 * w + 2, self.width)
        return pixels[:, 1:-1, 1:-1] + bias[None, None, None]
