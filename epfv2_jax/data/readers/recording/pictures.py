"""The images of one camera of a recording, by row of its data.csv: files in a folder, or frames of a video."""

import dataclasses
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Protocol

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

    # PGM: each frame comes with its size.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", os.path.abspath(path), "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-pix_fmt", "gray", "-c:v", "pgm", "-f", "image2pipe", "-"]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as ffmpeg:
        try:
            with checks.naming(os.fspath(path)):
                while (image := _read_pgm(ffmpeg.stdout)) is not None:
                    yield image
        finally:
            ffmpeg.kill()
        log.seek(0)
        if reason := log.read(1000).decode(errors="replace").strip():
            raise ValueError(f"{path}: damaged, or no video: {reason.splitlines()[0]}")


def _read_pgm(stream: BinaryIO) -> np.ndarray | None:
    """Returns the next image (H, W) uint8 of a stream of PGMs as ffmpeg writes them; None at its end."""
    if not stream.readline():
        return None
    width, height = map(int, stream.readline().split())
    checks.within(1, images.MAX_PIXELS, **{f"pixels of a frame ({width}x{height})": width * height})
    stream.readline()  # the largest grey value
    data = stream.read(width * height)
    return np.frombuffer(data, np.uint8).reshape(height, width) if len(data) == width * height else None
