"""Building blocks of the encoders: convolution, normalisation, stochastic depth, rematerialisation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


def conv(width: int, size: int, stride: int = 1, **kwargs: Any) -> nn.Conv:
    """Returns a convolution without bias, padded by size // 2 on every side ("SAME" pads strided ones unevenly)."""
    padding = [(size // 2, size // 2)] * 2
    return nn.Conv(width, (size, size), stride, padding, use_bias=False, kernel_init=_KERNEL_INIT, **kwargs)


def depthwise_conv(width: int, size: int, stride: int = 1, **kwargs: Any) -> nn.Conv:
    """Returns a depthwise convolution of `width` channels, otherwise like `conv`.

    On a CPU it is a sum of shifted products: XLA's grouped convolution, and even more its gradient, is slow there.
    """
    how = {"conv_general_dilated": _shifted_products} if jax.default_backend() == "cpu" else {}
    return conv(width, size, stride, feature_group_count=width, **how, **kwargs)


def _shifted_products(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, **_: Any) -> jax.Array:
    """Returns the same as `jax.lax.conv_general_dilated` for a depthwise kernel (k, k, 1, C) and x (N, H, W, C)."""
    return depthwise_sum(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, tuple(strides))


@functools.partial(jax.jit, static_argnums=2)
def depthwise_sum(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Returns the depthwise convolution of an already padded x (N, H, W, C) with a kernel (k, k, 1, C)."""
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel.shape, strides, strict=False))
    total = jnp.zeros((x.shape[0], rows, columns, x.shape[3]), jnp.float32)
    for i, j in np.ndindex(*kernel.shape[:2]):
        window = x[:, i : i + strides[0] * rows : strides[0], j : j + strides[1] * columns : strides[1]]
        total += window.astype(jnp.float32) * kernel[i, j][None, None].astype(jnp.float32)
    return total.astype(x.dtype)


def batch_norm(running: bool, **kwargs: Any) -> nn.BatchNorm:
    """Returns a batch normalisation with torchvision's constants; statistics are float32 whatever the dtype.

    `running`: normalise by the running statistics and do not update them, instead of by the batch's statistics.
    """
    return nn.BatchNorm(use_running_average=running, momentum=0.9, epsilon=1e-5, **kwargs)


def statistics_mask(image_valid: jax.Array | None) -> jax.Array | None:
    """Returns the mask (N, 1, 1, 1) of the images that enter batch statistics: the valid ones, or all if none is."""
    if image_valid is None:
        return None
    return (image_valid | ~image_valid.any())[:, None, None, None]


def drop_path(branch: jax.Array, rate: float | jax.Array, train: bool) -> jax.Array:
    """Returns a residual branch (N, ...), in training zero for a share `rate` of the images and scaled up for the rest.

    Stochastic depth (Huang et al.): the mean does not change, and images are drawn independently. Call it inside a
    module; it draws from the random collection "drop_path", except for a Python rate of 0.
    """
    never = not isinstance(rate, jax.Array) and rate == 0
    return Dropout()(branch, rate) if train and not never else branch


class Dropout(nn.Module):
    """`nn.Dropout` with one draw per image and a rate that may be an array, as in a scan over blocks."""

    def __call__(self, branch: jax.Array, rate: float | jax.Array) -> jax.Array:
        one_draw_an_image = (branch.shape[0], *(1,) * (branch.ndim - 1))
        kept = jax.random.bernoulli(self.make_rng("drop_path"), 1 - rate, one_draw_an_image)
        return jnp.where(kept, branch / jnp.asarray(1 - rate, branch.dtype), 0)


def drop_path_rates(deepest: float, number: int) -> list[float]:
    """Returns the rates of `number` blocks, growing linearly with depth from 0 to `deepest`."""
    return np.linspace(deepest, 0, number)[::-1].tolist()


def block_class(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """Returns `block`, rematerialised if asked. Its call is (x, train, ...); `train` stays a Python bool."""
    return nn.remat(block, static_argnums=(2,)) if remat else block
