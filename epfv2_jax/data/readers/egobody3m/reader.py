"""EgoBody3M for the conversion: metadata, fitted cameras and images of a sequence as runs of frames."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base
from epfv2_jax.data.readers.egobody3m.frame import FRAME_S, FrameMetadata
from epfv2_jax.data.readers.egobody3m.sequence import SequenceFiles, SequenceReader, find_sequences
from epfv2_jax.geometry import cameras, layout, skeleton
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

# Cameras of a headset see at least this share of the joints, one of them: our choice, far below the 77 % of the sample.
_MIN_VISIBLE_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class EgoBody3M:
    """Reads the released zips; a `readers.base.Reader`."""

    source_dir: str | os.PathLike

    skeleton: ClassVar[Skeleton] = skeleton.EGOBODY3M
    layout: ClassVar[RigLayout] = layout.EGOBODY3M
    camera_model: ClassVar[str] = "fisheye"

    def find_sequences(self) -> list[SequenceFiles]:
        """Returns the sequences; see `egobody3m.find_sequences`."""
        return find_sequences(self.source_dir)

    def frame_s(self, sequences: Sequence[SequenceFiles]) -> float:
        """Returns the frame time that the first readable sequence states, else that of the release."""
        for source in sequences:
            with contextlib.suppress(ValueError), SequenceReader(source, with_images=False) as reader:
                return reader.metadata(reader.frames[0]).frame_s
        return FRAME_S

    def read(
        self, source: SequenceFiles, config: ConversionConfig, report: base.ReadReport
    ) -> Iterator[records.FrameRun]:
        """Yields the runs of a sequence, all with the one rig that is fitted to it.

        Raises:
          ValueError: the zips are unusable, hold no readable frame of the chosen levels or no readable image, or the
            calibration of a camera is poor and `config` does not keep such sequences.
        """
        with SequenceReader(source) as reader:
            report.num_frames = len(reader.frames)
            good, report.quarantined_frames = read_metadata(reader)
            report.levels = _count_levels(good)
            kept = [f for f in good if config.levels is None or f.annotation_level in config.levels]
            found = ", ".join(report.levels) or "none"
            checks.not_empty("readable frames of the chosen levels", kept, f"levels found: {found}")
            sizes = reader.view_sizes_px()
            readable = list(filter(None, sizes))
            checks.not_empty(f"{source.images.name}: readable images", readable, "download it again")
            fits = _fit(good, sizes)
            shares = _visible_shares(good, sizes)
            report.calibration = [_camera_report(fit, share) for fit, share in zip(fits, shares, strict=True)]
            poor = [view for view, fit in enumerate(fits) if not fit.good]
            if poor and config.doubtful == "quarantine":
                raise ValueError(
                    f"calibration of camera {poor[0]} is {fits[poor[0]].verdict}; doubtful = 'keep' would use it"
                )
            if max(shares) < _MIN_VISIBLE_SHARE and config.doubtful == "quarantine":
                raise ValueError(
                    f"only {max(shares):.1%} of the joints fall into any image: are images and labels of one size and "
                    "sequence? doubtful = 'keep' would use them"
                )
            report.kept_levels = _count_levels(kept)
            upright = rig_lib.upright(calibration.to_rig(fits), self.layout, config.image_size_hw)
            rig = jax.tree.map(np.asarray, upright)
            frame_index = np.array([f.frame_index for f in kept], np.int32)
            for part in base.split_runs(frame_index, config.record_frames):
                jpegs = [self._jpegs(reader, f.frame_index, sizes, config, report) for f in kept[part]]
                yield _run(source, kept[part], jpegs, rig)

    def _jpegs(
        self,
        reader: SequenceReader,
        frame: int,
        sizes: list[tuple[int, int] | None],
        config: ConversionConfig,
        report: base.ReadReport,
    ) -> tuple[bytes, ...]:
        """Returns the upright images of all views of a frame; b"" for one that is bad, which the report then holds."""
        views = []
        for view, (size, turns) in enumerate(zip(sizes, self.layout.upright_turns, strict=True)):
            try:
                stored = reader.jpeg(frame, view)
                height, width = images.jpeg_size_hw(stored)
                checks.equal("JPEG: width and height", (width, height), size, "as the other images of this camera")
                views.append(base.upright_jpeg(images.decode_grey(stored), turns, config))
            except ValueError as error:
                views.append(b"")
                report.bad_views.append(base.BadView(frame=frame, view=view, reason=str(error)))
        return tuple(views)


def calibrate(reader: SequenceReader) -> list[calibration.CameraFit]:
    """Returns the fitted cameras of a sequence, from all its readable frames, in the stored image orientation.

    Raises:
      ValueError: no frame is readable.
    """
    frames, bad = read_metadata(reader)
    if not frames:
        raise ValueError(f"{reader.files.metadata}: none of {len(bad)} frames is readable; the first: {bad[0].reason}")
    return _fit(frames, reader.view_sizes_px())


def read_metadata(reader: SequenceReader) -> tuple[list[FrameMetadata], list[base.QuarantinedFrame]]:
    """Returns the readable frames of a sequence in order of time, and those that are not with the reason."""
    good, bad = [], []
    for frame in reader.frames:
        try:
            good.append(reader.metadata(frame))
        except ValueError as error:
            bad.append(base.QuarantinedFrame(frame=frame, reason=str(error)))
    return good, bad


def _run(
    source: SequenceFiles, frames: list[FrameMetadata], jpegs: list[tuple[bytes, ...]], rig: rig_lib.Rig
) -> records.FrameRun:
    return records.FrameRun(
        sequence=source.sequence,
        split=source.split,
        frame_index=np.array([f.frame_index for f in frames], np.int32),
        time_s=np.array([f.time_s for f in frames], np.float64),
        jpegs=tuple(jpegs),
        T_world_headset=np.stack([f.T_world_headset for f in frames]).astype(np.float32),
        joints_world_m=np.stack([f.joints_world_m for f in frames]).astype(np.float32),
        joint_valid=np.ones((len(frames), frames[0].joints_world_m.shape[0]), bool),
        view_valid=np.array([[bool(data) for data in views] for views in jpegs]),
        rig=rig,
    )


def _fit(frames: list[FrameMetadata], sizes: list[tuple[int, int] | None]) -> list[calibration.CameraFit]:
    """Returns the fit to all frames; it leans on the default headset with images of these sizes (width, height)."""
    default = rig_lib.default_rig()
    views = [jax.tree.map(lambda x, v=v: x[v], default.cameras) for v in range(len(sizes))]
    sizes_px = np.array([size or view.size_px for size, view in zip(sizes, views, strict=True)]).astype(int)
    views = [cameras.resize(view, *size) for view, size in zip(views, sizes_px.tolist(), strict=True)]
    default = default.replace(cameras=cameras.stack(views))
    T_world_headset = np.stack([f.T_world_headset for f in frames])
    joints_world_m = np.stack([f.joints_world_m for f in frames])
    T_headset_world = np.linalg.inv(T_world_headset)
    joints_headset_m = (
        joints_world_m @ np.swapaxes(T_headset_world[:, :3, :3], -1, -2) + T_headset_world[:, None, :3, 3]
    )
    return calibration.calibrate_sequence(joints_headset_m, np.stack([f.uvz for f in frames]), sizes_px, default)


def _visible_shares(frames: list[FrameMetadata], sizes: list[tuple[int, int] | None]) -> list[float]:
    """Returns for each view the share of all joints of all frames that fall into its image; 0 without images."""
    uvz = np.stack([f.uvz for f in frames])
    sizes_px = np.array([size or (0, 0) for size in sizes])[:, None]
    inside = (np.abs(uvz[..., :2] + 0.5 - sizes_px / 2) <= sizes_px / 2).all(-1) & (uvz[..., 2] > 0)
    return inside.mean(axis=(0, 2)).round(4).tolist()


def _camera_report(fit: calibration.CameraFit, visible_share: float) -> base.CameraReport:
    def finite(value: float) -> float | None:
        return float(f"{value:.6g}") if math.isfinite(value) else None

    low, high = (finite(math.degrees(angle)) for angle in fit.angle_range_rad)
    return base.CameraReport(
        verdict=fit.verdict,
        rms_px=finite(fit.rms_px),
        held_out_rms_px=finite(fit.held_out_rms_px),
        angle_range_deg=None if low is None or high is None else (low, high),
        num_points=fit.num_points,
        visible_share=visible_share,
    )


def _count_levels(frames: list[FrameMetadata]) -> dict[str, int]:
    levels, counts = np.unique([f.annotation_level for f in frames], return_counts=True)
    return {str(int(level)): int(count) for level, count in zip(levels, counts, strict=True)}
