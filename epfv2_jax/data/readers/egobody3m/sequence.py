"""Sequences of the EgoBody3M release, read from their zips without extracting them.

A sequence is a pair `<id>.images.zip` and `<id>.metadata.zip` in a folder named after its split, as the official
download script lays them out: `train`, `validation`, `test`. Members are read by their expected names, behind caps.
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.core import files as files_lib
from epfv2_jax.data import images as images_lib
from epfv2_jax.data.readers.base import SPLITS
from epfv2_jax.data.readers.egobody3m.frame import FrameMetadata, parse_frame
from epfv2_jax.data.readers.egobody3m.zips import Zip
from epfv2_jax.geometry import layout

#: Largest metadata member, bytes. Those of the sample clip have about 12 kB: our choice.
MAX_JSON_BYTES = 1_000_000

_IMAGES_SUFFIX, _METADATA_SUFFIX = ".images.zip", ".metadata.zip"
_FRAME_NAME = re.compile(r"frame(\d{4,7})\.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFiles:
    """Where a sequence lies; a path is that of a file that may be missing."""

    sequence: str
    split: str
    images: pathlib.Path
    metadata: pathlib.Path

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """Both files."""
        return self.images, self.metadata


def find_sequences(source_dir: str | os.PathLike) -> list[SequenceFiles]:
    """Returns the sequences below `source_dir`, sorted by split (train, validation, test) and name.

    `source_dir` holds folders named after the splits, or is itself such a folder. A sequence with one zip missing is
    listed too: reading it says what is missing. Hidden files are passed over.

    Raises:
      ValueError: there is no such folder, or one of them holds no sequences.
    """
    source_dir = files_lib.on_disk(source_dir, "copy the zips there")
    files_lib.check_folder(source_dir, f"give the folder that holds {', '.join(SPLITS)}")
    folders = [source_dir / split for split in SPLITS if (source_dir / split).is_dir()]
    if not folders and source_dir.resolve().name in SPLITS:
        folders = [source_dir.resolve()]
    if not folders:
        raise ValueError(
            f"{source_dir}: no folder named {', '.join(SPLITS)} in it; the split of a sequence is the name of its "
            "folder, as the official download makes it"
        )
    sequences = []
    for folder in folders:
        names = {
            path.name.removesuffix(suffix)
            for suffix in (_IMAGES_SUFFIX, _METADATA_SUFFIX)
            for path in folder.iterdir()
            if path.name.endswith(suffix) and not path.name.startswith(".")  # ._NAME: macOS keeps its own notes there
        }
        zips = f"files <id>{_IMAGES_SUFFIX} and <id>{_METADATA_SUFFIX} of split {folder.name!r}"
        checks.not_empty(f"{folder}: {zips}", names, "download them or remove the folder")
        for name in sorted(names):
            sequences.append(
                SequenceFiles(
                    sequence=name,
                    split=folder.name,
                    images=folder / (name + _IMAGES_SUFFIX),
                    metadata=folder / (name + _METADATA_SUFFIX),
                )
            )
    return sequences


class SequenceReader:
    """One sequence, read member by member. Use as a context manager.

    Raises:
      ValueError: a zip is missing, damaged or holds members that no sequence has (see `Zip`).
    """

    def __init__(self, files: SequenceFiles, with_images: bool = True):
        self.files = files
        self._metadata = Zip(files.metadata)
        try:
            self._images = Zip(files.images) if with_images else None
            prefix = f"{files.sequence}/"
            numbers = [
                int(match[1])
                for name in self._metadata.names
                if name.startswith(prefix) and (match := _FRAME_NAME.fullmatch(name[len(prefix) :]))
            ]
            #: Numbers in the file names of the frames that have metadata, ascending.
            self.frames: tuple[int, ...] = tuple(sorted(set(numbers)))
            members = f"{files.metadata}: members named {prefix}frameNNNN.json"
            checks.not_empty(members, self.frames, "is it the zip of another sequence?")
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> "SequenceReader":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        self._metadata.close()
        if getattr(self, "_images", None) is not None:
            self._images.close()

    def metadata(self, frame: int) -> FrameMetadata:
        """Returns the metadata of the frame with this number in its file name, or raises ValueError."""
        name = f"{self.files.sequence}/frame{frame:04d}.json"
        where = f"{self.files.metadata}:{name}"
        metadata = parse_frame(self._metadata.read(name, MAX_JSON_BYTES), where)
        checks.equal(f"{where}: frame_index", metadata.frame_index, frame, "as in its file name")
        return metadata

    def jpeg(self, frame: int, view: int) -> bytes:
        """Returns the stored JPEG of one view, not decoded; ValueError where it is missing or its member is damaged."""
        if self._images is None:
            raise ValueError(f"{self.files.images}: the sequence was opened without its images")
        return self._images.read(f"{self.files.sequence}/frame{frame:04d}_cam{view}.jpg", images_lib.MAX_JPEG_BYTES)

    def view_sizes_px(self, samples: int = 9) -> list[tuple[int, int] | None]:
        """Returns (width, height) of each view's stored images, None for a view without one readable image.

        It is the commonest size in the JPEG headers of `samples` frames spread over the sequence, or of all frames
        where none of these is readable.
        """
        spread = np.unique(np.linspace(0, len(self.frames) - 1, samples).round().astype(int))
        sizes = []
        for view in range(layout.EGOBODY3M.num_views):
            counts = self._count_sizes([self.frames[i] for i in spread], view) or self._count_sizes(self.frames, view)
            sizes.append(counts.most_common(1)[0][0] if counts else None)
        return sizes

    def _count_sizes(self, frames: Sequence[int], view: int) -> collections.Counter[tuple[int, int]]:
        counts = collections.Counter()
        for frame in frames:
            try:
                height, width = images_lib.jpeg_size_hw(self.jpeg(frame, view))
            except ValueError:
                continue
            counts[width, height] += 1
        return counts
