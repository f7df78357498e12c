"""The images of one camera of a recording, by row of its data.csv: files in a folder, or frames of a video."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data import images
from epfv2_jax.data.readers.recording.tables import read_table

_TABLE, _FOLDER = "data.csv", "data"
# Containers; not lists of other files, which ffmpeg reads too.
_VIDEOS = ("data.mp4", "data.mkv", "data.mov", "data.avi", "data.webm", "data.m4v")


class Pictures(Protocol):
    """The images of one camera, as they are stored."""

    folder: pathlib.Path  # of the camera
    stamps_ns: np.ndarray  # (n,) int64 of the rows

    def read(self, row: int) -> np.ndarray:
        """Returns the image (H, W) uint8 of a row; ValueError where it is missing or damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PictureFiles:
    """Files in a folder."""

    folder: pathlib.Path
    stamps_ns: np.ndarray
    names: tuple[str, ...]

    def read(self, row: int) -> np.ndarray:
        """Returns the image (H, W) uint8 of a row; ValueError where it is missing or damaged."""
        path = self.folder / _FOLDER / self.names[row]
        with checks.naming(os.fspath(path), (ValueError, OSError)):
            checks.within(1, images.MAX_PNG_BYTES, bytes=path.stat().st_size)
            return images.decode_stored(path.read_bytes())


@dataclasses.dataclass(kw_only=True, eq=False)
class VideoFrames:
    """Frames of a video, the i-th for row i. Reading the rows in order decodes each frame once."""

    folder: pathlib.Path
    stamps_ns: np.ndarray
    path: pathlib.Path
    _frames: Iterator[np.ndarray] | None = None
    _next_row: int = 0
    _image: np.ndarray | None = None

    def read(self, row: int) -> np.ndarray:
        """Returns the image (H, W) uint8 of a row; ValueError where the video ends before it."""
        if self._frames is None or row < self._next_row - 1:
            self._frames, self._next_row = _decode(self.path), 0
        while self._next_row <= row:
            self._image = next(self._frames, None)
            if self._image is None:
                raise ValueError(f"{self.path}: ends after {self._next_row} frames, {_TABLE} has more rows")
            self._next_row += 1
        return self._image


def open_pictures(folder: pathlib.Path) -> Pictures:
    """Returns the images of the camera in a folder.

    Raises:
      ValueError: data.csv, or images and video, are missing or damaged.
    """
    table = read_table(folder / _TABLE)
    stamps_ns = table.stamps_ns(table.column("timestamp"), 1)
    if (folder / _FOLDER).is_dir():
        names = tuple(cells[table.column("filename")] for cells in table.rows)
        for row, name in enumerate(names):
            if pathlib.PurePath(name).name != name or "\0" in name:
                raise ValueError(
                    f"{table.path} row {row}: filename {checks.short(name)} is not that of a file in {_FOLDER}/"
                )
        return PictureFiles(folder=folder, stamps_ns=stamps_ns, names=names)
    videos = [folder / name for name in _VIDEOS if (folder / name).is_file()]
    checks.not_empty(f"{folder}: images", videos, f"give a folder {_FOLDER}/, or one of {', '.join(_VIDEOS)}")
    return VideoFrames(folder=folder, stamps_ns=stamps_ns, path=videos[0])


def _decode(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Yields the frames (H, W) uint8 of a video, none left out and none doubled."""
    checks.extra_installed("imageio_ffmpeg", "video", f"{path}: reading video")
    import imageio_ffmpeg

    # Errors of ffmpeg and of what it could not read.
    with checks.naming(f"{path}: not a readable video", (OSError, RuntimeError, ValueError, StopIteration)):
        frames = imageio_ffmpeg.read_frames(
            path, pix_fmt="gray", bits_per_pixel=8, output_params=["-fps_mode", "passthrough"]
        )
        width, height = next(frames)["size"]
        checks.within(1, images.MAX_PIXELS, **{f"pixels of a frame ({width}x{height})": width * height})
        for frame in frames:
            yield np.frombuffer(frame, np.uint8).reshape(height, width)
