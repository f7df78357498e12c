"""Aria Digital Twin for the conversion."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data import records
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import aria, base
from epfv2_jax.data.readers.adt.body import JOINTS, LABELS, read_joints, skeleton_of
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.geometry import skeleton
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

_VRS = "video.vrs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFolder:
    """Where a sequence lies."""

    sequence: str
    split: str
    folder: pathlib.Path

    @property
    def paths(self) -> tuple[pathlib.Path, ...]:
        """The files that are read."""
        names = (_VRS, "aria_trajectory.csv", "metadata.json", "skeleton_aria_association.json")
        return (*(self.folder / name for name in names), *sorted(self.folder.glob("Skeleton_*.json")))


@dataclasses.dataclass(frozen=True)
class AriaDigitalTwin:
    """Reads SPLIT/SEQUENCE/{video.vrs, aria_trajectory.csv, Skeleton_*.json, ...}; a `readers.base.Reader`."""

    source_dir: str | os.PathLike

    skeleton: ClassVar[Skeleton] = skeleton.EGOBODY3M
    layout: ClassVar[RigLayout] = aria.LAYOUT
    camera_model: ClassVar[str] = "fisheye"

    def find_sequences(self) -> list[SequenceFolder]:
        """Returns the sequences, sorted by split (train, validation, test) and name.

        Raises:
          ValueError: there is no folder of a split, or one without sequences.
        """
        source_dir = files.on_disk(self.source_dir, "copy the data there")
        files.check_folder(source_dir, f"give the folder that holds {', '.join(base.SPLITS)}")
        splits = [source_dir / split for split in base.SPLITS if (source_dir / split).is_dir()]
        if not splits and source_dir.resolve().name in base.SPLITS:
            splits = [source_dir.resolve()]
        remedy = f"the data set defines none: put its sequences into folders {', '.join(base.SPLITS)}"
        checks.not_empty(f"{source_dir}: folders of splits", splits, remedy)
        found = []
        for split in splits:
            folders = [path.parent for path in sorted(split.glob(f"*/{_VRS}"))]
            checks.not_empty(f"{split}: folders with {_VRS}", folders, "download them or remove the folder")
            found += [SequenceFolder(sequence=path.name, split=split.name, folder=path) for path in folders]
        return found

    def frame_s(self, sequences: Sequence[SequenceFolder]) -> float:
        """Returns the frame time of the SLAM cameras."""
        return aria.FRAME_S

    def read(
        self, source: SequenceFolder, config: ConversionConfig, report: base.ReadReport
    ) -> Iterator[records.FrameRun]:
        """Yields the runs of a sequence.

        Raises:
          ValueError: a file is missing or damaged, the glasses' wearer has no skeleton, or no image has a pose.
        """
        trajectory = aria.read_trajectory(source.folder / "aria_trajectory.csv")
        joints, finding = read_joints(skeleton_of(source.folder))
        report.findings.append(finding)
        vrs = aria.Vrs(source.folder / _VRS)
        yield from aria.runs(source, vrs, _motion(vrs, trajectory, joints, self.skeleton), config, report)


def _motion(vrs: aria.Vrs, trajectory: tracks.PoseTrack, joints: tracks.JointTrack, body: Skeleton) -> aria.Motion:
    """Returns poses and joints at the images' times: both are of one world, whose y is up."""
    frames_ns = vrs.stamps_ns[0]
    found_m, known = joints.at(frames_ns)
    known &= (tracks.distance_ns(joints.stamps_ns, frames_ns) <= aria.MAX_GAP_NS)[:, None]
    joints_m = np.zeros((len(frames_ns), body.num_joints, 3))
    valid = np.zeros(joints_m.shape[:2], bool)
    for ours, theirs in JOINTS.items():
        joint, column = body.index(ours), LABELS.index(theirs)
        joints_m[:, joint], valid[:, joint] = found_m[:, column], known[:, column]
    return aria.Motion(
        has_pose=tracks.distance_ns(trajectory.stamps_ns, frames_ns) <= aria.MAX_GAP_NS,
        T_world_headset=trajectory.at(frames_ns) @ vrs.T_device_headset,
        joints_world_m=np.where(valid[..., None], joints_m, 0.0),
        joint_valid=valid,
    )
