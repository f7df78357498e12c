"""Opens the rig of a headset that nothing may have been recorded with: its calibration and its headset.yaml."""

import os
import pathlib

from epfv2_jax.core import files
from epfv2_jax.data.calibration import formats
from epfv2_jax.data.calibration.formats import CalibratedCamera
from epfv2_jax.data.readers.recording.headset import HEADSET_NAME, Headset, read_headset
from epfv2_jax.data.readers.recording.sequence import (
    RecordingFiles,
    calibration_in,
    cameras_in,
    cameras_of,
    find_sequences,
)

_TEMPLATE = """format: epfv2-asl/1
T_headset_body: [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]  # body to headset: x left, y up, z forward
views:  # turns of np.rot90 that make the image upright; add mirror: NAME, the partner under a left-right flip
{views}"""


def open_rig(path: str | os.PathLike) -> tuple[Headset, tuple[CalibratedCamera, ...]]:
    """Returns a headset and the calibrated camera of each of its views, of one lens model.

    Args:
      path: of a calibration file (see `calibration.formats`) with headset.yaml beside it; of headset.yaml; or of the
        folder of headset.yaml, in which a calibration file of a usual name lies, or recordings.

    Raises:
      ValueError: a file is missing or wrong. Where there is no headset.yaml, the message shows one to begin with.
    """
    path = files.on_disk(path, "copy the calibration there")
    folder = path if path.is_dir() else path.parent
    headset_path = folder / HEADSET_NAME
    given = path != folder and path.name != HEADSET_NAME
    calibration = path if given else calibration_in(folder)
    if calibration is not None and not headset_path.is_file():
        raise ValueError(_no_headset(calibration, headset_path))
    headset = read_headset(headset_path)
    if given:
        return headset, cameras_in(path, headset)
    own = RecordingFiles(sequence="rig", split="train", folder=folder)
    try:
        return headset, cameras_of(own, headset)
    except ValueError:
        if (found := _recordings(folder)) is None:
            raise
    return headset, cameras_of(found, headset)


def _recordings(folder: pathlib.Path) -> RecordingFiles | None:
    """Returns the first recording below a folder, if there is one."""
    try:
        return find_sequences(folder)[0]
    except ValueError:
        return None


def _no_headset(path: pathlib.Path, headset_path: pathlib.Path) -> str:
    views = "\n".join(f"- {{camera: {c.name}, name: {c.name}, upright_turns: 0}}" for c in formats.read(path))
    return (
        f"{headset_path}: no such file; a calibration does not say where the head is, which cameras are views, and how "
        f"their images are turned. Begin with\n{_TEMPLATE.format(views=views)}"
    )
