"""Sequences of recordings: where they lie, and their content."""

import dataclasses
import os
import pathlib

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.core import files as files_lib
from epfv2_jax.data.calibration import formats
from epfv2_jax.data.calibration.formats import CalibratedCamera
from epfv2_jax.data.readers.base import SPLITS
from epfv2_jax.data.readers.recording import pictures as pictures_lib
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.data.readers.recording.headset import HEADSET_NAME, Headset, read_headset

#: The split of a sequence that lies in no folder of a split.
OTHER_SPLIT = "test"
_SENSORS_FOLDER = "mav0"
_SENSOR = "sensor.yaml"
_CALIBRATIONS = ("camchain.yaml", "calibration.json", "camera_calibration_v2.json", "online_calibration.jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingFiles:
    """Where a sequence lies."""

    sequence: str
    split: str
    folder: pathlib.Path  # of the sensors: mav0, or the sequence itself

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """Its files; a folder of images stands for those in it."""
        shared = [self.nearest(HEADSET_NAME), *(self.nearest(name) for name in _CALIBRATIONS)]
        own = [path for path in sorted(self.folder.glob("*/*")) if not path.name.startswith(".")]
        top = [path for path in sorted(self.folder.iterdir()) if path.is_file()] if self.folder.is_dir() else []
        return tuple(dict.fromkeys([*filter(None, shared), *top, *own]))

    @property
    def places(self) -> tuple[pathlib.Path, ...]:
        """Folders in which a file for this sequence may lie, nearest first: its own, its split's, and that of all."""
        sequence = self.folder.parent if self.folder.name == _SENSORS_FOLDER else self.folder
        return tuple(dict.fromkeys([self.folder, sequence, sequence.parent, sequence.parent.parent]))

    def nearest(self, name: str) -> pathlib.Path | None:
        """Returns the nearest file of this name; None where there is none."""
        return next((place / name for place in self.places if (place / name).is_file()), None)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What a sequence holds, as stored. Axis V is that of the headset's views."""

    files: RecordingFiles
    headset_path: pathlib.Path
    headset: Headset
    cameras: tuple[CalibratedCamera, ...]  # [V]
    pictures: tuple[pictures_lib.Pictures, ...]  # [V]
    poses: tracks.PoseTrack
    joints: tracks.JointTrack | None

    @property
    def frames_ns(self) -> np.ndarray:
        """(n,) times of the frames: those of the first view."""
        return self.pictures[0].stamps_ns


def find_sequences(source_dir: str | os.PathLike) -> list[RecordingFiles]:
    """Returns the sequences below a folder, sorted by split (train, validation, test) and name.

    The folder holds folders named after the splits, is itself such a folder, or is one sequence. A folder is a sequence
    if it holds mav0/, or a camera's folder cam*/.

    Raises:
      ValueError: there is no such folder, or one of them holds no sequences.
    """
    source_dir = files_lib.on_disk(source_dir, "copy the recording there")
    files_lib.check_folder(source_dir, f"give a recording, or the folder that holds {', '.join(SPLITS)}")
    source_dir = source_dir.resolve()
    if (folder := _sensors(source_dir)) is not None:
        split = source_dir.parent.name if source_dir.parent.name in SPLITS else OTHER_SPLIT
        return [RecordingFiles(sequence=source_dir.name, split=split, folder=folder)]
    splits = [source_dir / split for split in SPLITS if (source_dir / split).is_dir()]
    if not splits and source_dir.name in SPLITS:
        splits = [source_dir]
    remedy = f"a recording holds mav0/ or cam0/; recordings lie in folders named {', '.join(SPLITS)}"
    checks.not_empty(f"{source_dir}: recordings", splits, remedy)
    sequences = []
    for split in splits:
        found = [(path, folder) for path in sorted(split.iterdir()) if (folder := _sensors(path)) is not None]
        checks.not_empty(f"{split}: recordings", found, "a recording is a folder that holds mav0/ or cam0/")
        sequences += [RecordingFiles(sequence=path.name, split=split.name, folder=folder) for path, folder in found]
    return sequences


def headset_of(files: RecordingFiles) -> tuple[pathlib.Path, Headset]:
    """Returns the headset.yaml that is nearest to a sequence, and its content.

    Raises:
      ValueError: there is none, or it is wrong.
    """
    path = files.nearest(HEADSET_NAME)
    if path is None:
        raise ValueError(
            f"{files.places[-1]}: no {HEADSET_NAME} here or in the recording; docs/own_data.md describes it"
        )
    return path, read_headset(path)


def cameras_of(files: RecordingFiles, headset: Headset) -> tuple[CalibratedCamera, ...]:
    """Returns the calibrated camera of each view: from a file for all cameras where there is one, or the sensor.yaml's.

    Lenses of different models become Fisheye62 (see `formats.alike`).

    Raises:
      ValueError: a file is missing or wrong, or holds no camera of a view's name.
    """
    path = next(filter(None, map(files.nearest, _CALIBRATIONS)), None)
    if path is None:
        paths = {view.camera: files.folder / view.camera / _SENSOR for view in headset.views}
        found = {}
        for name, sensor in paths.items():
            files_lib.check_file(sensor, f"give it, or one of {', '.join(_CALIBRATIONS)}")
            (camera,) = formats.read(sensor)
            found[name] = dataclasses.replace(camera, name=name)
        return formats.alike([found[view.camera] for view in headset.views])
    return cameras_in(path, headset)


def calibration_in(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file for all cameras in a folder; None where there is none of a usual name."""
    return next((folder / name for name in _CALIBRATIONS if (folder / name).is_file()), None)


def cameras_in(path: str | os.PathLike, headset: Headset) -> tuple[CalibratedCamera, ...]:
    """Returns the calibrated camera of each view from a file for all cameras; see `cameras_of`."""
    found = {camera.name: camera for camera in formats.read(path)}
    for v, view in enumerate(headset.views):
        checks.one_of(found, **{f"{path}: camera of {HEADSET_NAME}, views[{v}]": view.camera})
    return formats.alike([found[view.camera] for view in headset.views])


def read_content(files: RecordingFiles) -> Content:
    """Returns what a sequence holds; no image is decoded.

    Raises:
      ValueError: a file is missing or damaged; the message names it.
    """
    headset_path, headset = headset_of(files)
    return Content(
        files=files,
        headset_path=headset_path,
        headset=headset,
        cameras=cameras_of(files, headset),
        pictures=tuple(pictures_lib.open_pictures(files.folder / view.camera) for view in headset.views),
        poses=tracks.read_poses(files.folder),
        joints=tracks.read_joints(files.folder),
    )


def _sensors(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of a sequence's sensors; None if the folder is no sequence."""
    if folder.name.startswith(".") or not folder.is_dir():
        return None
    if (folder / _SENSORS_FOLDER).is_dir():
        return folder / _SENSORS_FOLDER
    return folder if any(path.is_dir() for path in folder.glob("cam*")) else None
