"""Monochrome images: strict decoding behind a size cap, turning upright, area resizing, JPEG encoding."""

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image

from epfv2_jax.core import checks

#: Largest image that is decoded, pixels. Our choice: six times the largest camera of EgoBody3M (1280 x 1024).
MAX_PIXELS = 8_000_000
#: Longest JPEG that is read, bytes. Our choice: one byte a pixel of the largest image.
MAX_JPEG_BYTES = 8_000_000
#: Longest PNG that is read, bytes. Our choice: four bytes a pixel of the largest image.
MAX_PNG_BYTES = 32_000_000


def jpeg_size_hw(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns (height, width) in pixels that the header of a JPEG declares, without decoding it.

    Raises:
      ValueError: `data` is no JPEG, or declares more than `max_pixels` pixels (380 bytes can declare four billion).
    """
    checks.not_empty("JPEG: bytes", data, "the image is missing")
    checks.within(1, MAX_JPEG_BYTES, **{"JPEG, bytes": len(data)})
    with checks.naming(f"JPEG: unreadable header in {len(data)} bytes", remedy="fetch the file again"):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    declared = f"JPEG: pixels that the header declares ({width}x{height}) in {len(data)} bytes"
    checks.within(1, max_pixels, **{declared: height * width})
    return height, width


def decode_grey(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the image (H, W) uint8 of a JPEG; colour is turned to grey.

    Raises:
      ValueError: the header is refused (see `jpeg_size_hw`) or the data is truncated or damaged.
    """
    height, width = jpeg_size_hw(data, max_pixels)
    with checks.naming(f"JPEG: {width}x{height} image in {len(data)} bytes is damaged"):
        return simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0]


def decode_stored(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the image (H, W) uint8 of a JPEG or PNG; colour is turned to grey, 16 bits to their upper 8.

    Raises:
      ValueError: the data is neither, truncated or damaged, or has more than `max_pixels` pixels.
    """
    if data.startswith(b"\xff\xd8"):
        return decode_grey(data, max_pixels)
    checks.within(1, MAX_PNG_BYTES, **{"PNG, bytes": len(data)})
    # SyntaxError: a damaged chunk of a PNG. Warning: Pillow's, of very large images.
    errors = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError, Warning)
    with (
        checks.naming("neither a JPEG nor a PNG, or damaged", errors, "fetch the file again"),
        Image.open(io.BytesIO(data), formats=("PNG",)) as image,
    ):
        width, height = image.size
        checks.within(1, max_pixels, **{f"pixels that the header declares ({width}x{height})": width * height})
        if image.mode.startswith("I"):
            return (np.asarray(image) >> 8).astype(np.uint8)
        return np.asarray(image.convert("L"))


def encode_grey(image: np.ndarray, quality: int = 92) -> bytes:
    """Returns the JPEG of a monochrome image (H, W) uint8; `quality` 1 to 100 (92: our choice)."""
    checks.array("image (H, W)", image, (None, None), np.uint8)
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image)[:, :, None], quality=quality, colorspace="GRAY", colorsubsampling="Gray"
    )


def upright(stored: np.ndarray, turns: int, size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """Returns the upright image of a stored one (H, W) after `turns` quarter turns, in the sense of `np.rot90`.

    With `size_hw` (height, width) the upright image is of that size, as `resize` makes it.
    """
    if size_hw is not None:  # the small image is the cheaper one to turn
        stored = resize(stored, size_hw[::-1] if turns % 2 else size_hw)
    return np.rot90(stored, turns)


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
