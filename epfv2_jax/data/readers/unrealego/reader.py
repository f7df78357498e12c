"""UnrealEgo for the conversion: labels of a sequence, the glasses that they imply, and images as runs of frames."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import formats
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base
from epfv2_jax.data.readers.unrealego.body import LAYOUT, UNREALEGO
from epfv2_jax.data.readers.unrealego.frame import FrameLabels, read_labels
from epfv2_jax.data.readers.unrealego.sequence import SequenceFolder, find_sequences
from epfv2_jax.geometry import alignment, cameras
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig

#: Frame time, seconds: our choice, 25 frames a second. No file states it.
FRAME_S = 1 / 25
#: Largest rms distance of a frame's joints from world to cameras, and of its baseline from the sequence's, metres.
MAX_RESIDUAL_M = 0.002
#: Largest rms distance of a frame's pixels in the labels from our projection, pixels.
MAX_PROJECTION_RMS_PX = 1.0
# Both cameras have parallel axes and look straight down in headset axes (x left, y up, z forward): image right is the
# wearer's left, image down is ahead. Our choice, read off the pictures in the authors' repository, where the ground
# fills the middle of the image; the data do not say where level is.
_R_CAM_HEADSET = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclasses.dataclass(frozen=True)
class UnrealEgo:
    """Reads PNG and JSON; a `readers.base.Reader`. The headset's origin is the middle between the cameras."""

    source_dir: str | os.PathLike

    skeleton: ClassVar[Skeleton] = UNREALEGO
    layout: ClassVar[RigLayout] = LAYOUT
    camera_model: ClassVar[str] = "fisheye"

    def find_sequences(self) -> list[SequenceFolder]:
        """Returns the listed sequences; see `sequence.find_sequences`."""
        return find_sequences(self.source_dir)

    def frame_s(self, sequences: Sequence[SequenceFolder]) -> float:
        """Returns the frame time."""
        return FRAME_S

    def read(
        self, source: SequenceFolder, config: ConversionConfig, report: base.ReadReport
    ) -> Iterator[records.FrameRun]:
        """Yields the runs of a sequence.

        Raises:
          ValueError: the calibration is unreadable, no frame or image is readable, or the labels' pixels are not those
            of this calibration and `config` does not keep such sequences.
        """
        frames = source.frames
        report.num_frames = len(frames)
        checks.not_empty(f"{source.folder}/json: files frame_N.json", frames, "unpack the archive again")
        files.check_file(source.calibration, "copy it there again")
        camera = _camera(source.calibration, os.stat(source.calibration).st_mtime_ns)
        labels = _readable(source, frames, report)
        baseline_m = _baseline_m(np.stack([label.joints_cam_m for label in labels.values()]))
        T_world_headset = _poses(source, labels, baseline_m, report)
        off_px, report.calibration = _compare(camera, labels.values())
        for view, found in enumerate(report.calibration):
            if found.verdict == "good":
                _leave_out(source, T_world_headset, dict(zip(labels, off_px[view], strict=True)), report)
            elif config.doubtful == "quarantine":
                raise ValueError(
                    f"{source.calibration}: camera {self.layout.view_names[view]} is {found.verdict}; is it the "
                    "calibration of these images? doubtful = 'keep' would use it"
                )
        checks.not_empty(f"{source.folder}: usable frames", T_world_headset, _first_reason(report))
        report.quarantined_frames.sort(key=lambda note: note.frame)
        rig = _rig(camera, baseline_m, config)
        kept, num_images = list(T_world_headset), 0
        for part in base.split_runs(np.array(kept), config.record_frames):
            jpegs = [_jpegs(source, frame, camera, config, report) for frame in kept[part]]
            num_images += sum(bool(jpeg) for views in jpegs for jpeg in views)
            yield _run(source, {f: (T_world_headset[f], labels[f]) for f in kept[part]}, jpegs, rig)
        if not num_images:
            raise ValueError(f"{source.folder}: no image is readable; the first: {report.bad_views[0].reason}")


@functools.lru_cache(maxsize=1)
def _camera(path: pathlib.Path, changed_ns: int) -> Camera:
    """Returns the camera of a calibration file, refitted once for all sequences, until the file changes."""
    (calibrated,) = formats.read(path)
    return calibrated.camera


def _readable(source: SequenceFolder, frames: list[int], report: base.ReadReport) -> dict[int, FrameLabels]:
    """Returns the readable labels by frame; notes the others."""
    good = {}
    for frame in frames:
        try:
            good[frame] = read_labels(source.labels(frame))
        except ValueError as error:
            report.quarantined_frames.append(base.QuarantinedFrame(frame=frame, reason=str(error)))
    checks.not_empty(f"{source.folder}/json: readable frames", good, _first_reason(report))
    return good


def _first_reason(report: base.ReadReport) -> str:
    return f"the first: {report.quarantined_frames[0].reason}" if report.quarantined_frames else ""


def _baseline_m(joints_cam_m: np.ndarray) -> np.ndarray:
    """Returns where a point lies in the left camera minus where it lies in the right one, (3,), of joints (n, 2, J, 3).

    It is the median: with parallel cameras, one vector.
    """
    return np.median(joints_cam_m[:, 0] - joints_cam_m[:, 1], axis=(0, 1))


def _poses(
    source: SequenceFolder, labels: dict[int, FrameLabels], baseline_m: np.ndarray, report: base.ReadReport
) -> dict[int, np.ndarray]:
    """Returns T_world_headset (4, 4) of the frames whose joints are rigidly the same in the world and in both cameras.

    No convention of Euler angles is needed: the joints' places in the world and in the cameras tell the pose.
    """
    poses = {}
    for frame, label in labels.items():
        joints_headset_m = label.joints_cam_m.mean(axis=0) @ _R_CAM_HEADSET
        T = alignment.rigid_fit(joints_headset_m, label.joints_world_m)
        off_m = joints_headset_m @ T[:3, :3].T + T[:3, 3] - label.joints_world_m
        apart_m = label.joints_cam_m[0] - label.joints_cam_m[1] - baseline_m
        try:
            for what, distance_m in (
                ("joints.trans against camera_*_pts3d", off_m),
                ("camera_left_pts3d - camera_right_pts3d against the sequence's baseline", apart_m),
            ):
                rms_m = float(np.sqrt(np.square(distance_m).sum(-1).mean()))
                checks.within(0, MAX_RESIDUAL_M, **{f"{source.labels(frame)}: {what}, rms m": rms_m})
            poses[frame] = T
        except ValueError as error:
            report.quarantined_frames.append(base.QuarantinedFrame(frame=frame, reason=str(error)))
    return poses


def _compare(camera: Camera, labels: Collection[FrameLabels]) -> tuple[np.ndarray, list[base.CameraReport]]:
    """Returns how far the labels' pixels are from our projection of the joints within the image circle.

    The first is the rms distance for each view and frame (V, n), pixels, 0 where no joint is in the circle. A camera is
    judged by its median over the frames.
    """
    points_m = np.stack([label.joints_cam_m for label in labels], axis=1)
    stored_px = np.stack([label.uv_px for label in labels], axis=1)
    uv_px, valid = map(np.asarray, cameras.project(camera, points_m))
    shares = (valid & np.asarray(cameras.inside_image(camera, uv_px))).mean(axis=(1, 2))
    with np.errstate(over="ignore"):  # numbers near 1e308
        square_px2 = np.where(valid, np.square(uv_px - stored_px).sum(-1), 0.0).sum(-1)
    off_px = np.sqrt(square_px2 / np.maximum(valid.sum(-1), 1))
    reports = []
    for view, share in enumerate(shares):
        seen = off_px[view][valid[view].any(-1)]
        rms_px = float(np.median(seen)) if seen.size else None
        if rms_px is None:
            verdict = "without a joint inside the image circle"
        elif rms_px > MAX_PROJECTION_RMS_PX:
            verdict = f"{rms_px:.3g} px rms off the labels, at most {MAX_PROJECTION_RMS_PX} is allowed"
        else:
            verdict = "good"
        reports.append(
            base.CameraReport(
                verdict=verdict,
                rms_px=None if rms_px is None or not np.isfinite(rms_px) else float(f"{rms_px:.6g}"),
                held_out_rms_px=None,
                angle_range_deg=None,
                num_points=int(valid[view].sum()),
                visible_share=round(float(share), 4),
            )
        )
    return off_px, reports


def _leave_out(
    source: SequenceFolder, poses: dict[int, np.ndarray], off_px: dict[int, float], report: base.ReadReport
) -> None:
    """Removes and notes the frames whose pixels a good camera does not explain."""
    for frame in [frame for frame in poses if off_px[frame] > MAX_PROJECTION_RMS_PX]:
        reason = f"{source.labels(frame)}: camera_*_pts2d is {off_px[frame]:.3g} px rms off the projected pts3d"
        report.quarantined_frames.append(base.QuarantinedFrame(frame=frame, reason=reason))
        del poses[frame]


def _rig(camera: Camera, baseline_m: np.ndarray, config: ConversionConfig) -> Rig:
    T_cam_headset = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    T_cam_headset[:, :3, :3] = _R_CAM_HEADSET
    T_cam_headset[:, :3, 3] = baseline_m / 2, -baseline_m / 2
    stored = Rig(cameras=cameras.stack([camera, camera]), T_cam_headset=T_cam_headset)
    return jax.tree.map(np.asarray, rig_lib.upright(stored, LAYOUT, config.image_size_hw))


def _jpegs(
    source: SequenceFolder, frame: int, camera: Camera, config: ConversionConfig, report: base.ReadReport
) -> tuple[bytes, ...]:
    """Returns the upright images of both views of a frame; b"" for one that is bad, which the report then holds."""
    views = []
    for view, (side, turns) in enumerate(zip(LAYOUT.view_names, LAYOUT.upright_turns, strict=True)):
        path = source.image(frame, side)
        try:
            with checks.naming(f"{path}", (ValueError, OSError)):
                checks.within(1, images.MAX_PNG_BYTES, bytes=path.stat().st_size)
                stored = images.decode_stored(path.read_bytes())
                size = tuple(camera.size_px.astype(int).tolist())
                checks.equal("width and height", stored.shape[::-1], size, f"as {source.calibration} says")
            views.append(base.upright_jpeg(stored, turns, config))
        except ValueError as error:
            views.append(b"")
            report.bad_views.append(base.BadView(frame=frame, view=view, reason=str(error)))
    return tuple(views)


def _run(
    source: SequenceFolder,
    frames: dict[int, tuple[np.ndarray, FrameLabels]],
    jpegs: list[tuple[bytes, ...]],
    rig: Rig,
) -> records.FrameRun:
    frame_index = np.array(list(frames), np.int32)
    return records.FrameRun(
        sequence=source.sequence,
        split=source.split,
        frame_index=frame_index,
        time_s=frame_index * FRAME_S,
        jpegs=tuple(jpegs),
        T_world_headset=np.stack([T for T, _ in frames.values()]).astype(np.float32),
        joints_world_m=np.stack([label.joints_world_m for _, label in frames.values()]).astype(np.float32),
        joint_valid=np.ones((len(frames), UNREALEGO.num_joints), bool),
        view_valid=np.array([[bool(jpeg) for jpeg in views] for views in jpegs]),
        rig=rig,
    )
