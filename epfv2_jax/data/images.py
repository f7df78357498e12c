"""Monochrome JPEG images: strict decoding behind a size cap, turning upright, area resizing, encoding."""

import numpy as np
import simplejpeg
from PIL import Image

#: Largest image that is decoded, pixels. Our choice: six times the largest camera of EgoBody3M (1280 x 1024).
MAX_PIXELS = 8_000_000
#: Longest JPEG that is looked at, bytes. Our choice: one byte a pixel of the largest image.
MAX_JPEG_BYTES = 8_000_000


def jpeg_size_hw(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns (height, width) in pixels that the header of a JPEG declares, without decoding it.

    Raises:
      ValueError: `data` is no JPEG, or declares more than `max_pixels` pixels (380 bytes can declare four billion).
    """
    if not data:
        raise ValueError("JPEG: 0 bytes; the image is missing")
    if len(data) > MAX_JPEG_BYTES:
        raise ValueError(f"JPEG: {len(data)} bytes, allowed are at most {MAX_JPEG_BYTES}")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ValueError(f"JPEG: unreadable header ({error}) in {len(data)} bytes; fetch the file again") from error
    if height * width > max_pixels:
        raise ValueError(
            f"JPEG: the header declares {width}x{height} pixels in {len(data)} bytes, allowed are at most {max_pixels}"
        )
    return height, width


def decode_grey(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the image (H, W) uint8 of a JPEG; colour is turned to grey.

    Raises:
      ValueError: the header is refused (see `jpeg_size_hw`) or the data is truncated or damaged.
    """
    height, width = jpeg_size_hw(data, max_pixels)
    try:
        return simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0]
    except ValueError as error:
        raise ValueError(f"JPEG: {width}x{height} image in {len(data)} bytes is damaged ({error})") from error


def encode_grey(image: np.ndarray, quality: int = 92) -> bytes:
    """Returns the JPEG of a monochrome image (H, W) uint8; `quality` 1 to 100 (92: our choice)."""
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W) uint8, got {image.shape} {image.dtype}")
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image)[:, :, None], quality=quality, colorspace="GRAY", colorsubsampling="Gray"
    )


def upright(stored: np.ndarray) -> np.ndarray:
    """Returns the upright image (W, H) of a stored EgoBody3M image (H, W), whose +x points down in the world."""
    return np.rot90(stored, k=-1)


def as_stored(image: np.ndarray) -> np.ndarray:
    """Returns the image as EgoBody3M stores it: the inverse of `upright`."""
    return np.rot90(image, k=1)


def resize(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Returns the image (H, W) uint8 resampled to `size_hw` (height, width); the two factors may differ.

    Pixel (u, v) goes to ((u + .5) s_u - .5, (v + .5) s_v - .5), as in `epfv2_jax.geometry.cameras.resize`.
    The kernel is Pillow's Hamming window over the area of a new pixel: its box kernel shifts edges by up to 0.23 of a
    new pixel where the factor is no integer, the Hamming window by less than 0.002.
    """
    if image.shape == tuple(size_hw):
        return image
    height, width = size_hw
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.HAMMING))
