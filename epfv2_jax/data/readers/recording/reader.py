"""Recordings for the conversion: a sequence as runs of frames."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.core.findings import raise_first
from epfv2_jax.data import records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base
from epfv2_jax.data.readers.recording import tracks, validation
from epfv2_jax.data.readers.recording.headset import rig_of
from epfv2_jax.data.readers.recording.pictures import open_pictures
from epfv2_jax.data.readers.recording.sequence import (
    Content,
    RecordingFiles,
    cameras_of,
    find_sequences,
    headset_of,
    read_content,
)
from epfv2_jax.geometry import skeleton
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """Reads recordings in the layout of docs/own_data.md; a `readers.base.Reader`.

    Layout and lens model are those of the first sequence of which they can be read; a sequence with others is
    quarantined.
    """

    source_dir: str | os.PathLike

    skeleton: ClassVar[Skeleton] = skeleton.EGOBODY3M

    @functools.cached_property
    def layout(self) -> RigLayout:
        """The views of all sequences."""
        return self._first(lambda files: headset_of(files)[1].layout)

    @functools.cached_property
    def camera_model(self) -> Model:
        """The lens model of all sequences."""
        return self._first(lambda files: cameras_of(files, headset_of(files)[1])[0].camera.model)

    def _first(self, read: Callable[[RecordingFiles], T]) -> T:
        """Returns what is read of the first sequence of which it can be; raises the first error where there is none."""
        sequences = self.find_sequences()
        for files in sequences:
            with contextlib.suppress(ValueError):
                return read(files)
        return read(sequences[0])

    def find_sequences(self) -> list[RecordingFiles]:
        """Returns the sequences; see `sequence.find_sequences`."""
        return find_sequences(self.source_dir)

    def frame_s(self, sequences: Sequence[RecordingFiles]) -> float:
        """Returns the median time between the frames of the first sequence that can be read."""
        return self._first(_frame_s)

    def read(
        self, source: RecordingFiles, config: ConversionConfig, report: base.ReadReport
    ) -> Iterator[records.FrameRun]:
        """Yields the runs of a sequence: those frames of the first view that have a pose.

        Raises:
          ValueError: a file is missing or damaged, the views are not those of the first sequence, no frame has a pose;
            or, unless `config` keeps such sequences, most frames lack a pose, joints or a view.
        """
        content = read_content(source)
        checks.equal(f"{content.headset_path}: views", content.headset.layout, self.layout, "as of the other sequences")
        report.num_frames = len(content.frames_ns)
        for found in (check(content) for check in validation.MUST):
            report.findings += found
        raise_first(report.findings)
        for found in (check(content) for check in validation.SHOULD):
            report.findings += found
        if config.doubtful == "quarantine":
            raise_first(report.findings)
        motion = _motion(content, self.skeleton)
        stored, layout = rig_of(content.headset, content.cameras)
        report.calibration = [_camera_report(camera.refit_px) for camera in content.cameras]
        report.quarantined_frames = [
            base.QuarantinedFrame(frame=int(i), reason=f"{content.poses.path}: no pose near its time")
            for i in np.flatnonzero(~motion.has_pose)
        ]
        rig = jax.tree.map(np.asarray, rig_lib.upright(stored, layout, config.image_size_hw))
        views = [_matches(content, v) for v in range(layout.num_views)]
        frame_index = np.flatnonzero(motion.has_pose).astype(np.int32)
        for part in base.split_runs(frame_index, config.record_frames):
            frames = frame_index[part]
            jpegs = tuple(_jpegs(content, views, int(frame), config, report) for frame in frames)
            yield _run(source, content, frames, jpegs, motion, rig)


def _frame_s(files: RecordingFiles) -> float:
    pictures = open_pictures(files.folder / headset_of(files)[1].views[0].camera)
    steps_ns = np.diff(pictures.stamps_ns)
    checks.not_empty(f"{pictures.folder}: times between frames", steps_ns, "record two frames or more")
    median_s = round(float(np.median(steps_ns)) / 1e9, 6)
    checks.above(0, **{f"{pictures.folder}: median time between frames, s": median_s})
    return median_s


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Motion:
    """Poses and joints at the n frames, in a world whose y is up."""

    has_pose: np.ndarray  # (n,) bool
    T_world_headset: np.ndarray  # (n, 4, 4)
    joints_world_m: np.ndarray  # (n, J, 3), zeros where not valid
    joint_valid: np.ndarray  # (n, J) bool


def _motion(content: Content, body: Skeleton) -> _Motion:
    headset, frames_ns = content.headset, content.frames_ns
    T_yup_world = np.eye(4)
    T_yup_world[:3, :3] = headset.R_yup_world
    T_body_headset = np.linalg.inv(np.asarray(headset.T_headset_body, np.float64))
    T_world_headset = T_yup_world @ content.poses.at(frames_ns) @ T_body_headset
    max_gap_ns = headset.max_pose_gap_ms * 1e6
    joints_m = np.zeros((len(frames_ns), body.num_joints, 3))
    valid = np.zeros(joints_m.shape[:2], bool)
    if content.joints is not None:
        places, columns = _joint_map(content, body)
        found_m, known = content.joints.at(frames_ns)
        known &= (tracks.distance_ns(content.joints.stamps_ns, frames_ns) <= max_gap_ns)[:, None]
        T = T_world_headset if content.joints.sensor.frame == "headset" else T_yup_world
        found_m = found_m @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3]
        joints_m[:, places], valid[:, places] = found_m[:, columns], known[:, columns]
    return _Motion(
        has_pose=tracks.distance_ns(content.poses.stamps_ns, frames_ns) <= max_gap_ns,
        T_world_headset=T_world_headset,
        joints_world_m=np.where(valid[..., None], joints_m, 0.0),
        joint_valid=valid,
    )


def _joint_map(content: Content, body: Skeleton) -> tuple[list[int], list[int]]:
    """Returns joints of the skeleton, and for each its place in the recording's names.

    Raises:
      ValueError: headset.yaml names a joint that the skeleton or the recording has not, or no joint is known.
    """
    names, where = content.joints.sensor.names, f"{content.headset_path}: joints"
    for ours, theirs in content.headset.joints.items():
        checks.one_of(body.joint_names, **{f"{where}: joint of the skeleton {body.name}": ours})
        checks.one_of(names, **{f"{where}.{ours}, of those in joints0/sensor.yaml": theirs})
    named = [(j, content.headset.joints.get(name, name)) for j, name in enumerate(body.joint_names)]
    pairs = [(j, names.index(theirs)) for j, theirs in named if theirs in names]
    checks.not_empty(f"{where} of the skeleton {body.name} in the recording", pairs, "map some: b_l_arm: NAME")
    places, columns = zip(*pairs, strict=True)
    return list(places), list(columns)


def _matches(content: Content, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each frame the row of a view that is nearest in time, and how far it is, milliseconds."""
    stamps_ns = content.pictures[view].stamps_ns
    rows = validation.matching_rows(content, stamps_ns)
    return rows, np.abs(stamps_ns[rows] - content.frames_ns) / 1e6


def _jpegs(
    content: Content,
    views: list[tuple[np.ndarray, np.ndarray]],
    frame: int,
    config: ConversionConfig,
    report: base.ReadReport,
) -> tuple[bytes, ...]:
    """Returns the upright images of all views of a frame; b"" for one that is bad, which the report then holds."""
    jpegs = []
    for v, (rows, away_ms) in enumerate(views):
        pictures, camera = content.pictures[v], content.cameras[v]
        try:
            limit_ms = content.headset.max_skew_ms
            checks.within(0, limit_ms, **{f"{pictures.folder}: time to the nearest image, ms": float(away_ms[frame])})
            stored = pictures.read(int(rows[frame]))
            size = tuple(map(int, camera.size_wh))
            checks.equal(f"{pictures.folder}: width and height", stored.shape[::-1], size, "as calibrated")
            jpegs.append(base.upright_jpeg(stored, content.headset.views[v].upright_turns, config))
        except ValueError as error:
            jpegs.append(b"")
            report.bad_views.append(base.BadView(frame=frame, view=v, reason=str(error)))
    return tuple(jpegs)


def _run(
    source: RecordingFiles,
    content: Content,
    frames: np.ndarray,
    jpegs: tuple[tuple[bytes, ...], ...],
    motion: _Motion,
    rig: Rig,
) -> records.FrameRun:
    return records.FrameRun(
        sequence=source.sequence,
        split=source.split,
        frame_index=frames,
        time_s=(content.frames_ns[frames] - content.frames_ns[0]) / 1e9,
        jpegs=jpegs,
        T_world_headset=motion.T_world_headset[frames].astype(np.float32),
        joints_world_m=motion.joints_world_m[frames].astype(np.float32),
        joint_valid=motion.joint_valid[frames],
        view_valid=np.array([[bool(data) for data in views] for views in jpegs]),
        rig=rig,
    )


def _camera_report(refit_px: float) -> base.CameraReport:
    return base.CameraReport(
        verdict="refitted" if refit_px else "as given",
        rms_px=refit_px or None,
        held_out_rms_px=None,
        angle_range_deg=None,
        num_points=0,
        visible_share=None,
    )
