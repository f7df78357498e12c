"""Bilinear resizing of feature maps, as the decoders of the earlier systems have it."""

import jax
import jax.numpy as jnp
import numpy as np


def resize(x: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """Returns maps (N, h, w, C) of another size: bilinear, the centres of the corner cells lie on one another.

    PyTorch calls this align_corners=True.
    """
    rows, columns = (_interpolation(old, new) for old, new in zip(x.shape[1:3], size_hw, strict=True))
    out = jnp.einsum("ph,nhwc,qw->npqc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)
    return out.astype(x.dtype)


def _interpolation(old: int, new: int) -> np.ndarray:
    """Returns the matrix (new, old) of linear interpolation between the ends of a line of `old` points."""
    place = np.linspace(0, old - 1, new)[:, None]
    return np.maximum(0, 1 - np.abs(place - np.arange(old)[None])).astype(np.float32)
