"""Sequences of an UnrealEgo download, by the lists of its splits."""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Iterator

from epfv2_jax.core import checks, files
from epfv2_jax.data.readers.base import SPLITS

CALIBRATION_NAME = "fisheye_calibration_UEP.json"
#: Longest list of a split, bytes: our choice, a hundred times the released ones.
MAX_LIST_BYTES = 100_000_000

_LABELS = re.compile(r"frame_(\d{1,9})\.json")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFolder:
    """Where a sequence lies."""

    sequence: str
    split: str
    folder: pathlib.Path
    calibration: pathlib.Path

    @property
    def frames(self) -> list[int]:
        """Numbers in the names of the frames' labels, ascending."""
        names = os.listdir(self.folder / "json") if (self.folder / "json").is_dir() else ()
        return sorted(int(match[1]) for name in names if (match := _LABELS.fullmatch(name)))

    def labels(self, frame: int) -> pathlib.Path:
        """Returns the JSON of a frame."""
        return self.folder / "json" / f"frame_{frame}.json"

    def image(self, frame: int, side: str) -> pathlib.Path:
        """Returns the PNG of a view."""
        return self.folder / "fisheye_final_image" / f"camera_{side}" / f"final_{frame}.png"

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """The calibration, and labels and images of all frames; looks into the folder."""
        frames = self.frames
        images = (self.image(frame, side) for side in ("left", "right") for frame in frames)
        return (self.calibration, *map(self.labels, frames), *images)


def find_sequences(source_dir: str | os.PathLike) -> list[SequenceFolder]:
    """Returns the listed sequences that lie below `source_dir`, in the order of the lists train, validation, test.

    A line of a list names a folder, with a prefix of the authors' machine: it is that of the longest end of the path
    that lies below `source_dir`. Listed folders that are not there are counted in a warning: a download may be partial.

    Raises:
      ValueError: there is no list, no calibration, or none of the listed folders.
    """
    source_dir = files.on_disk(source_dir, "copy the data there")
    files.check_folder(source_dir, f"give the folder that holds {', '.join(f'{split}.txt' for split in SPLITS)}")
    lists = [source_dir / f"{split}.txt" for split in SPLITS if (source_dir / f"{split}.txt").is_file()]
    checks.not_empty(f"{source_dir}: lists of the splits", lists, "copy train.txt, ... of 'UnrealEgo impl' there")
    calibration = source_dir / CALIBRATION_NAME
    files.check_file(calibration, "copy it there from utils/ of github.com/hiroyasuakada/UnrealEgo")
    found, missing = {}, 0
    for path in lists:
        for parts in _listed(path):
            ends = (source_dir.joinpath(*parts[i:]) for i in range(len(parts)))
            folder = next((end for end in ends if (end / "json").is_dir()), None)
            if folder is None:
                missing += 1
                continue
            name = "__".join(folder.relative_to(source_dir).parts)
            found[path.stem, name] = SequenceFolder(
                sequence=name, split=path.stem, folder=folder, calibration=calibration
            )
    checks.not_empty(
        f"{source_dir}: folders of the {missing} listed sequences with a folder 'json'",
        found,
        "is it the folder UnrealEgoData of 'UnrealEgo 01 ~ 06', unpacked?",
    )
    if missing:
        _log.warning("%s: %d of %d listed sequences are not there", source_dir, missing, missing + len(found))
    return list(found.values())


def _listed(path: pathlib.Path) -> Iterator[list[str]]:
    """Yields the parts of the paths in a list."""
    checks.within(0, MAX_LIST_BYTES, **{f"{path}: bytes": path.stat().st_size})
    for line in path.read_bytes().decode(errors="replace").splitlines():
        parts = [part for part in line.strip().replace("\\", "/").split("/") if part not in ("", ".")]
        if parts and ".." not in parts:
            yield parts
