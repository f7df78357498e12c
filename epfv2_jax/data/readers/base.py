"""What the conversion needs of a reader, and what readers share."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from epfv2_jax.core.findings import Finding
from epfv2_jax.data import images
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.records import FrameRun
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton


class SourceSequence(Protocol):
    """A sequence that a reader found: a value that can be pickled."""

    sequence: str  # its name, plain enough for a file
    split: str  # the folder of its records
    paths: tuple[pathlib.Path, ...]  # its files, or folders of such; when one changes, the sequence is converted again


#: Folder names of the splits.
SPLITS: tuple[str, ...] = ("train", "validation", "test")


class Reader(Protocol):
    """Turns the raw data below a folder into runs of frames.

    It must be picklable, to be sent to the workers of a conversion.
    """

    skeleton: Skeleton  # of all sequences; gives J
    layout: RigLayout  # of all sequences; gives V
    camera_model: Model  # of all cameras

    def __init__(self, source_dir: str | os.PathLike):
        """Takes the folder."""

    def find_sequences(self) -> Sequence[SourceSequence]:
        """Returns all sequences, always in the same order.

        Raises:
          ValueError: there are none.
        """

    def frame_s(self, sequences: Sequence[SourceSequence]) -> float:
        """Returns the nominal time from one frame to the next of the data set of these sequences, seconds."""

    def read(self, source: SourceSequence, config: ConversionConfig, report: "ReadReport") -> Iterator[FrameRun]:
        """Yields the runs of a sequence, images upright and of `config.image_size_hw`; fills in `report` on the way.

        A frame or view that cannot be used is left out and noted in the report.

        Raises:
          ValueError: no part of the sequence can be used; the conversion quarantines it for this reason.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuarantinedFrame:
    """A frame that is left out."""

    frame: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadView:
    """One image that is missing or unreadable; its frame stays, without this view."""

    frame: int
    view: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraReport:
    """How well one camera of a sequence could be calibrated; None where nothing was fitted."""

    verdict: str
    rms_px: float | None
    held_out_rms_px: float | None
    angle_range_deg: tuple[float, float] | None
    num_points: int
    # Of all joints of all frames: how many the camera's image holds, occluded or not; None where that was not counted.
    visible_share: float | None


@dataclasses.dataclass(kw_only=True)
class ReadReport:
    """What a reader found in one sequence and what it left out. The reader fills it in."""

    num_frames: int = 0  # found in the source, usable or not
    levels: dict[str, int] = dataclasses.field(default_factory=dict)  # annotation level -> readable frames
    kept_levels: dict[str, int] = dataclasses.field(default_factory=dict)  # annotation level -> frames in the records
    quarantined_frames: list[QuarantinedFrame] = dataclasses.field(default_factory=list)
    bad_views: list[BadView] = dataclasses.field(default_factory=list)
    calibration: list[CameraReport] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)  # of the source's files


def split_runs(frame_index: np.ndarray, max_frames: int) -> list[slice]:
    """Returns slices of consecutive frames, cut at every gap of `frame_index` (n,) and after `max_frames`."""
    starts = [0, *(np.nonzero(np.diff(frame_index) != 1)[0] + 1).tolist(), len(frame_index)]
    return [
        slice(start, min(start + max_frames, stop))
        for first, stop in itertools.pairwise(starts)
        for start in range(first, stop, max_frames)
    ]


def upright_jpeg(stored: np.ndarray, turns: int, config: ConversionConfig) -> bytes:
    """Returns the JPEG of a record for a stored grey image (H, W) uint8 that `turns` quarter turns make upright."""
    return images.encode_grey(images.upright(stored, turns, config.image_size_hw), config.jpeg_quality)
