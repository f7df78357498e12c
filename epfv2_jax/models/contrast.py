"""Local contrast normalisation of images: what is left is shape, whatever the light of the room and the lens."""

import jax
import jax.numpy as jnp
import numpy as np

# Standard deviation below which a window counts as flat, of images in [0, 1]: about that of a dark sensor (our choice).
_FLOOR = 0.03


def normalize(images: jax.Array, share: float) -> jax.Array:
    """Returns images (N, H, W) less their mean over a window, divided by the deviation from it there; float32.

    Subtractive and divisive normalisation as in Jarrett et al., "What is the Best Multi-Stage Architecture for Object
    Recognition?" (2009), over a square window, cut off at the borders. Products with band matrices compute it, which
    all devices and runtimes do fast.

    Args:
      images: (N, H, W) in [0, 1].
      share: side of the window, in image heights.
    """
    H, W = images.shape[1:]
    over_rows, over_columns = (_window_mean(n, round(share * H / 2)) for n in (H, W))

    def along_last(x: jax.Array, mean: np.ndarray) -> jax.Array:
        return jnp.matmul(x, mean.T, precision=jax.lax.Precision.HIGHEST)

    def mean(x: jax.Array) -> jax.Array:
        return along_last(along_last(x, over_columns).swapaxes(1, 2), over_rows).swapaxes(1, 2)

    images = images.astype(jnp.float32)
    detail = images - mean(images)
    return detail / jnp.sqrt(mean(detail**2) + _FLOOR**2)


def _window_mean(size: int, reach: int) -> np.ndarray:
    """Returns the matrix (size, size) that averages a pixel and its neighbours up to `reach` away."""
    place = np.arange(size)
    near = np.abs(place[:, None] - place[None]) <= reach
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
