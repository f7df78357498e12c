"""Checks of whole sequences, in any format: their files, and what cameras, poses and joints say about one another."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.core.findings import Finding
from epfv2_jax.data import records
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import READERS
from epfv2_jax.data.readers.base import SPLITS, ReadReport
from epfv2_jax.geometry import plausibility
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig

#: Height and width of the images of what is read, for the pictures: our choice.
IMAGE_SIZE_HW = (480, 480)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """What is checked of a run of frames."""

    time_s: np.ndarray  # (n,)
    T_world_headset: np.ndarray  # (n, 4, 4)
    joints_world_m: np.ndarray  # (n, J, 3)
    joint_valid: np.ndarray  # (n, J) bool

    @classmethod
    def of(cls, run: records.FrameRun) -> "Motion":
        """Returns that of a run."""
        return cls(**{field.name: getattr(run, field.name) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """A sequence of raw data or of records, not read yet."""

    name: str
    split: str
    skeleton: Skeleton
    layout: RigLayout
    num_frames: int | None  # None: not known before it is read
    runs: Callable[[ReadReport], Iterable[records.FrameRun]]  # reads it and fills in the report


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Validated:
    """What the checks of one sequence found."""

    sequence: str
    split: str
    findings: tuple[Finding, ...]
    runs: tuple[records.FrameRun, ...]  # what was read of it; none where nothing could be
    skeleton: Skeleton
    layout: RigLayout

    @property
    def has_error(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.verdict == "error" for finding in self.findings)


def findings(motions: Collection[Motion], rig: Rig, skeleton: Skeleton, layout: RigLayout) -> Iterator[Finding]:
    """Yields what the checks of `geometry.plausibility` found in a sequence; its images are upright.

    Args:
      motions: of its runs, in order of time.
      rig: numpy, leading axis V.
      skeleton: of the joints.
      layout: of the views.
    """
    time_s, T, joints_world_m, joint_valid = (
        np.concatenate([getattr(motion, field.name) for motion in motions]) for field in dataclasses.fields(Motion)
    )
    height, *others = plausibility.poses(T, time_s)
    yield height
    yield from plausibility.body(joints_world_m, joint_valid, T, skeleton)  # knows the axis that the body stands along
    yield from others
    yield from plausibility.cameras(rig.T_cam_headset, rig.cameras.center_px, rig.cameras.size_px, layout)
    joints_headset_m = np.einsum("nji,nkj->nki", T[:, :3, :3], joints_world_m - T[:, None, :3, 3])
    yield from plausibility.views(rig.cameras, rig.T_cam_headset, joints_headset_m, joint_valid, layout)


def open_sequences(path: str | os.PathLike, reader: str | None) -> Iterator[Sequence]:
    """Yields the sequences at `path`; raw images are read at `IMAGE_SIZE_HW`.

    Args:
      path: raw data, or a folder of records (one split, or all).
      reader: a key of `READERS`; None: found from the files.

    Raises:
      ValueError: there are no sequences, or no such reader.
    """
    folders = [] if reader else _folders_of_records(path)
    for folder in folders:
        split, indices = records.open_records(folder), collections.defaultdict(list)
        for i, entry in enumerate(split.entries):
            indices[entry.sequence].append(i)
        for name, chosen in indices.items():
            yield Sequence(
                name=name,
                split=split.manifest.split,
                skeleton=split.skeleton,
                layout=split.layout,
                num_frames=sum(split.entries[i].num_frames for i in chosen),
                runs=lambda report, split=split, chosen=chosen: map(split.__getitem__, chosen),
            )
    if not folders:
        name = reader or _format(path)
        checks.one_of(READERS, reader=name)
        data = READERS[name](path)
        config = ConversionConfig(reader=name, image_size_hw=IMAGE_SIZE_HW, doubtful="keep")
        for source in data.find_sequences():
            yield Sequence(
                name=source.sequence,
                split=source.split,
                skeleton=data.skeleton,
                layout=data.layout,
                num_frames=None,
                runs=functools.partial(data.read, source, config),
            )


def validate(path: str | os.PathLike, reader: str | None, max_frames: int) -> Iterator[Validated]:
    """Yields what the checks of each sequence at `path` found; see `open_sequences` and `check`."""
    for sequence in open_sequences(path, reader):
        yield check(sequence, max_frames)


def check(sequence: Sequence, max_frames: int) -> Validated:
    """Returns what the checks of a sequence found.

    Args:
      sequence: from `open_sequences`.
      max_frames: most frames of which poses, joints and images are read; the tables of raw data are checked whole.
    """
    report, read, told = ReadReport(), [], []
    try:
        for run in sequence.runs(report):
            read.append(run)
            if sum(run.num_frames for run in read) >= max_frames:
                break
    except ValueError as error:
        told = [] if _is_known(error, report) else [_unreadable(error)]
    told = [*report.findings, *told, *_left_out(report, read, sequence.layout)]
    if read:
        told += findings([Motion.of(run) for run in read], read[0].rig, sequence.skeleton, sequence.layout)
    return Validated(
        sequence=sequence.name,
        split=sequence.split,
        findings=tuple(told),
        runs=tuple(read),
        skeleton=sequence.skeleton,
        layout=sequence.layout,
    )


def _folders_of_records(path: str | os.PathLike) -> list[os.PathLike]:
    """Returns the folders of records at a path: itself, or those right in it."""
    folder = files.locate(path)
    manifests = (folder / records.MANIFEST_NAME, *sorted(folder.glob(f"*/{records.MANIFEST_NAME}")))
    return [manifest.parent for manifest in manifests if manifest.is_file()]


def _format(path: str | os.PathLike) -> str:
    """Returns the reader of a folder: zips are EgoBody3M's, all else should be recordings."""
    folder = files.on_disk(path, "copy the data there")
    places = [folder, *(folder / split for split in SPLITS)]
    return "egobody3m" if any(any(place.glob("*.metadata.zip")) for place in places) else "recording"


def _is_known(error: ValueError, report: ReadReport) -> bool:
    return any(finding.problem == str(error) for finding in report.findings)


def _unreadable(error: ValueError) -> Finding:
    return Finding(check="readable", value="no", limit="all files", problem=str(error))


def _left_out(report: ReadReport, read: list[records.FrameRun], layout: RigLayout) -> Iterator[Finding]:
    """Yields what the reader left out, and how well it could calibrate the cameras."""
    frames = sum(run.num_frames for run in read)
    for check, bad, of in (
        ("frames", report.quarantined_frames, report.num_frames),
        ("images", report.bad_views, frames * layout.num_views),
    ):
        if of:
            yield Finding(
                check=check,
                value=f"{len(bad)} of {of} not usable",
                limit="none",
                problem=f"{len(bad)} {check} are not usable; the first, frame {bad[0].frame}: {bad[0].reason}"
                if bad
                else "",
                is_error=False,
            )
    for view, camera in zip(layout.view_names, report.calibration, strict=False):
        rms = "" if camera.rms_px is None else f", rms {camera.rms_px:.2g} px"
        poor = camera.verdict.startswith("poor")
        yield Finding(
            check="calibration",
            value=f"{view}: {camera.verdict}{rms}",
            limit="not poor",
            problem=f"{view}: the calibration is {camera.verdict}" if poor else "",
        )
