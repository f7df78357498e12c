"""Writes pictures as an animated GIF or as an MP4."""

import importlib.util
import os
import pathlib
import subprocess
from typing import Protocol

import numpy as np
from PIL import Image

from epfv2_jax.core import checks, files
from epfv2_jax.viz.drawing import SIZE_PX

#: Width and height of a GIF, which is smaller: it hardly compresses the pixels of a picture.
GIF_SIZE_PX = (800, 450)


class VideoWriter(Protocol):
    """Takes pictures of `SIZE_PX`; the file is complete after `close`."""

    def add(self, picture: Image.Image) -> None:
        """Appends a picture."""

    def close(self) -> None:
        """Completes the file."""


class GifWriter:
    """Writes an animated GIF of `GIF_SIZE_PX` that repeats for ever."""

    def __init__(self, path: str | os.PathLike, frame_rate: float):
        self._path = path
        # GIF counts in hundredths of a second, and browsers slow down what is faster than two of them.
        self._duration_ms = 10 * max(2, round(100 / frame_rate))
        self._pictures: list[Image.Image] = []
        self._palette: Image.Image | None = None

    def add(self, picture: Image.Image) -> None:
        """Appends a picture."""
        small = picture.resize(GIF_SIZE_PX, Image.Resampling.HAMMING)
        # One palette for all pictures: colours that change from one to the next flicker.
        if self._palette is None:
            colors = small.quantize(160, Image.Quantize.MEDIANCUT).getpalette()[: 3 * 160]
            self._palette = Image.new("P", (1, 1))
            self._palette.putpalette([*colors, *(grey for grey in np.linspace(4, 250, 96).astype(int) for _ in "rgb")])
        self._pictures.append(small.quantize(palette=self._palette, dither=Image.Dither.NONE))

    def close(self) -> None:
        """Writes the file."""
        first, *others = self._pictures
        first.save(self._path, format="GIF", save_all=True, append_images=others, duration=self._duration_ms, loop=0)


class Mp4Writer:
    """Writes H.264 in an MP4 of `SIZE_PX` with the ffmpeg of imageio-ffmpeg."""

    def __init__(self, path: str | os.PathLike, frame_rate: float):
        import imageio_ffmpeg

        width, height = SIZE_PX
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{frame_rate:g}", "-i", "-"]
        coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "fast", "-movflags", "+faststart"]
        self._encoder = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *coding, os.fspath(path)],
            stdin=subprocess.PIPE,
        )

    def add(self, picture: Image.Image) -> None:
        """Appends a picture."""
        self._encoder.stdin.write(picture.tobytes())

    def close(self) -> None:
        """Waits for the encoder.

        Raises:
          RuntimeError: ffmpeg failed.
        """
        self._encoder.stdin.close()
        if self._encoder.wait():
            raise RuntimeError(f"ffmpeg ended with status {self._encoder.returncode}; its message is above")


_MP4_MODULE = "imageio_ffmpeg"
WRITERS: dict[str, type[VideoWriter]] = {".gif": GifWriter, ".mp4": Mp4Writer}


def can_write_mp4() -> bool:
    """Returns whether the extra `video` is installed."""
    return importlib.util.find_spec(_MP4_MODULE) is not None


def check_path(path: str | os.PathLike) -> None:
    """Checks that a video can be written at `path`.

    Raises:
      ValueError: it has another suffix than those of `WRITERS`, its folder is missing, or the extra `video` for MP4.
    """
    path = files.on_disk(path, "write the video there")
    suffix = path.suffix.lower()
    checks.one_of(WRITERS, **{f"{path}: suffix of a video": suffix})
    if suffix == ".mp4":
        checks.extra_installed(_MP4_MODULE, "video", f"{path}: a video other than .gif")
    files.check_folder(path.parent, f"make it first, for {path.name}")


def open_writer(path: str | os.PathLike, frame_rate: float) -> VideoWriter:
    """Returns the writer for the suffix of `path`; `frame_rate` in frames a second.

    Raises:
      ValueError: see `check_path`.
    """
    check_path(path)
    return WRITERS[pathlib.Path(path).suffix.lower()](path, frame_rate)
