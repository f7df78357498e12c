"""Sequences of a Nymeria download, and the split of each participant."""

import dataclasses
import hashlib
import os
import pathlib
import re

from epfv2_jax.core import checks, files

# <date>_<session>_<name of the participant, made up>_<activity>_<id>
_NAME = re.compile(r"\d{8}_s\d+_(?P<participant>.+)_act\d+_[0-9a-z]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFolder:
    """Where a sequence lies."""

    sequence: str
    split: str
    folder: pathlib.Path

    @property
    def metadata(self) -> pathlib.Path:
        """What was recorded, of whom and where."""
        return self.folder / "metadata.json"

    @property
    def vrs(self) -> pathlib.Path:
        """Images of the glasses."""
        return self.folder / "recording_head" / "data" / "data.vrs"

    @property
    def trajectory(self) -> pathlib.Path:
        """Poses of the glasses."""
        return self.folder / "recording_head" / "mps" / "slam" / "closed_loop_trajectory.csv"

    @property
    def calibration(self) -> pathlib.Path:
        """Cameras of the glasses as refined for the trajectory; may be missing."""
        return self.trajectory.with_name("online_calibration.jsonl")

    @property
    def xsens(self) -> pathlib.Path:
        """Segments of the suit's body."""
        return self.folder / "body" / "xdata.npz"

    @property
    def momentum(self) -> pathlib.Path:
        """Body fitted to the suit's; may be missing."""
        return self.folder / "body" / "xdata_blueman.glb"

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """The files that are read."""
        return self.metadata, self.vrs, self.trajectory, self.calibration, self.xsens, self.momentum


def split_of(participant: str) -> str:
    """Returns the split of a participant: of ten, one for validation and one for test, by a hash of the name.

    Our choice: it does not depend on what else was downloaded, and nobody is in two splits.
    """
    digit = int(hashlib.sha256(participant.encode()).hexdigest(), 16) % 10
    return {0: "test", 1: "validation"}.get(digit, "train")


def find_sequences(source_dir: str | os.PathLike) -> list[SequenceFolder]:
    """Returns the sequences right below a folder, sorted by name.

    A sequence is a folder with the name that the download gives it and with the suit's body.

    Raises:
      ValueError: there is no such folder, or it holds none.
    """
    source_dir = files.on_disk(source_dir, "copy the data there")
    files.check_folder(source_dir, "give the folder of the download")
    found = []
    for folder in sorted(source_dir.iterdir()):
        match = _NAME.fullmatch(folder.name)
        if match and (folder / "body").is_dir():
            split = split_of(match["participant"])
            found.append(SequenceFolder(sequence=folder.name, split=split, folder=folder))
    remedy = "give the folder that holds them; names are <date>_<session>_<name>_<activity>_<id>"
    checks.not_empty(f"{source_dir}: sequences with a folder 'body'", found, remedy)
    return found
