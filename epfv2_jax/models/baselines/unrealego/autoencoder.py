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

    def _deconv(self, width: int, name: str) -> nn.ConvTranspose:
        # PyTorch's fan-in of a transposed convolution counts its outputs.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2)
        return nn.ConvTranspose(width, (4, 4), (2, 2), "SAME", kernel_init=init, dtype=self.dtype, name=name)
