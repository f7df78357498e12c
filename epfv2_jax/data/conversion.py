"""Conversion of the EgoBody3M zips to records: a shard for each sequence, a manifest for each split.

A sequence is the unit of work: its shard and its report appear whole or not at all, so a conversion that was killed
goes on with the sequences that have none, and ends with the same bytes. Any number of processes and machines may share
the work. Nothing that is wrong with one frame, view or sequence ends the pass: it is left out, counted and named in the
manifest.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from epfv2_jax.core import config as config_lib
from epfv2_jax.core import tasks
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.geometry import cameras
from epfv2_jax.structs import Rig

_CONFIG_NAME = "conversion.json"
_REPORT_FOLDER = "sequences"
_MAX_LISTED_VIEWS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """How zips become records."""

    image_size_hw: tuple[int, int] = (256, 256)  # of the upright images; the two factors may differ
    levels: tuple[int, ...] | None = None  # annotation levels to keep (0 is the best grade); None keeps all
    record_frames: int = 64  # most frames in a record
    jpeg_quality: int = 92
    # What becomes of a sequence with a poorly calibrated camera: "quarantine" leaves the sequence out, "keep" uses the
    # fit as it is (the default headset's camera where too few joints are seen to fit one).
    poor_calibration: Literal["quarantine", "keep"] = "quarantine"

    def __post_init__(self):
        if min(self.image_size_hw) < 16 or max(self.image_size_hw) > 2048:
            raise ValueError(f"image_size_hw: {self.image_size_hw}, allowed are 16 to 2048")
        if self.levels is not None and (not self.levels or min(self.levels) < 0):
            raise ValueError(f"levels: {self.levels}, allowed are levels from 0, or None for all")
        if not 1 <= self.record_frames <= 4096:
            raise ValueError(f"record_frames: {self.record_frames}, allowed are 1 to 4096")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality: {self.jpeg_quality}, allowed are 1 to 100")


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
    """What the calibration says of one camera of a sequence; None where nothing was fitted."""

    verdict: str
    rms_px: float | None
    held_out_rms_px: float | None
    angle_range_deg: tuple[float, float] | None
    num_points: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceReport:
    """What became of one sequence."""

    sequence: str
    split: str
    source_bytes: tuple[int, int]  # sizes of the images and the metadata zip; another size: converted again
    quarantined: str | None = None  # why the whole sequence is left out
    num_frames: int = 0  # frames with metadata in the zip
    num_kept: int = 0  # frames in the records
    levels: dict = dataclasses.field(default_factory=dict)  # annotation level -> readable frames
    kept_levels: dict = dataclasses.field(default_factory=dict)  # annotation level -> frames in the records
    quarantined_frames: tuple[QuarantinedFrame, ...] = ()
    num_bad_views: int = 0
    bad_views: tuple[BadView, ...] = ()  # the first of them
    calibration: tuple[CameraReport, ...] = ()
    shard: records.Shard | None = None


#: Called after each sequence of this call's share with the number done, the number in the share and the report.
Progress = Callable[[int, int, SequenceReport], None]


def convert(
    source_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    config: ConversionConfig,
    *,
    engine: tasks.Engine = tasks.LOCAL,
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Returns the summary of a conversion of the sequences below `source_dir` into `out_dir`/<split>.

    The summary maps each split to its counts (see `summarize`). Sequences that are done are not done again. The bytes
    written depend on the zips and `config`, not on `engine` or on interruptions. Where other processes have shares, the
    manifests are written by whichever finds that all sequences are done, or by several, alike; to one that finishes
    earlier this returns None.

    Raises:
      ValueError: no sequences to convert, or `out_dir` holds a conversion with another config.
    """
    sequences = egobody3m.find_sequences(source_dir)
    out_dir = pathlib.Path(out_dir)
    _claim(out_dir, config)
    share = engine.share(sequences)
    done: dict[tuple[str, str], SequenceReport] = {}

    def note(report: SequenceReport) -> None:
        done[report.split, report.sequence] = report
        if progress is not None:
            progress(len(done), len(share), report)

    todo = []
    for files in share:
        report = _read_report(out_dir, files)
        if report is None:
            todo.append(files)
        else:
            note(report)
    for report in engine.run(functools.partial(_Converter, out_dir, config), todo):
        note(report)

    for files in sequences:
        key = files.split, files.sequence
        report = done.get(key) or _read_report(out_dir, files)
        if report is None:
            return None
        done[key] = report
    return {
        split: _finish([done[split, files.sequence] for files in sequences if files.split == split], out_dir, config)
        for split in dict.fromkeys(files.split for files in sequences)
    }


def _finish(reports: list[SequenceReport], out_dir: pathlib.Path, config: ConversionConfig) -> dict[str, Any]:
    """The summary of a split of which all sequences are done, after writing its manifest."""
    split, summary = reports[0].split, summarize(reports)
    manifest = records.Manifest(
        split=split,
        image_size_hw=config.image_size_hw,
        num_views=egobody3m.NUM_VIEWS,
        shards=tuple(report.shard for report in reports if report.shard is not None),
        report={
            "config": config_lib.to_mapping(config),
            "summary": summary,
            "sequences": [config_lib.to_mapping(dataclasses.replace(r, shard=None)) for r in reports],
        },
    )
    with tasks.publishing(out_dir / split / records.MANIFEST_NAME) as path:
        records.write_manifest(path.parent, manifest)
    return summary


@dataclasses.dataclass(frozen=True)
class _Converter:
    """A worker for `core.engines`."""

    out_dir: pathlib.Path
    config: ConversionConfig

    def __call__(self, sequences: Iterable[egobody3m.SequenceFiles]) -> Iterator[SequenceReport]:
        return (convert_sequence(files, self.out_dir, self.config) for files in sequences)


def summarize(reports: list[SequenceReport]) -> dict[str, Any]:
    """Returns the counts of a split: sequences, frames found, kept and quarantined, views without an image."""
    levels = sorted({level for report in reports for level in report.levels}, key=int)
    return {
        "sequences": len(reports),
        "sequences_kept": sum(report.shard is not None for report in reports),
        "sequences_quarantined": sorted(report.sequence for report in reports if report.quarantined is not None),
        "frames": sum(report.num_frames for report in reports),
        "frames_kept": sum(report.num_kept for report in reports),
        "frames_quarantined": sum(len(report.quarantined_frames) for report in reports),
        "frames_by_level": {k: sum(report.levels.get(k, 0) for report in reports) for k in levels},
        "frames_kept_by_level": {k: sum(report.kept_levels.get(k, 0) for report in reports) for k in levels},
        "views_missing": sum(report.num_bad_views for report in reports),
        "records": sum(len(report.shard.records) for report in reports if report.shard is not None),
    }


def convert_sequence(
    files: egobody3m.SequenceFiles, out_dir: str | os.PathLike, config: ConversionConfig
) -> SequenceReport:
    """Returns the report of one sequence, after writing its shard and then the report below `out_dir`/<split>.

    A sequence that cannot be read at all is quarantined: its report says why and has no shard.
    """
    folder = pathlib.Path(out_dir) / files.split
    (folder / _REPORT_FOLDER).mkdir(parents=True, exist_ok=True)
    report = SequenceReport(sequence=files.sequence, split=files.split, source_bytes=_source_bytes(files))
    try:
        with egobody3m.SequenceReader(files) as reader:
            report = _convert(reader, report, folder, config)
    except ValueError as error:
        report = dataclasses.replace(report, quarantined=_reason(error, files))
    records.write_json(folder / _REPORT_FOLDER / f"{files.sequence}.json", config_lib.to_mapping(report))
    return report


def calibrate(reader: egobody3m.SequenceReader) -> list[calibration.CameraFit]:
    """Returns the fitted cameras of a sequence, from all its readable frames, in the stored image orientation.

    Raises:
      ValueError: no frame is readable.
    """
    frames, bad = read_metadata(reader)
    if not frames:
        raise ValueError(f"{reader.files.metadata}: none of {len(bad)} frames is readable; the first: {bad[0].reason}")
    return _fit(frames, reader.view_sizes_px())


def read_metadata(
    reader: egobody3m.SequenceReader,
) -> tuple[list[egobody3m.FrameMetadata], list[QuarantinedFrame]]:
    """Returns the readable frames of a sequence in order of time, and those that are not with the reason."""
    good, bad = [], []
    for frame in reader.frames:
        try:
            good.append(reader.metadata(frame))
        except ValueError as error:
            bad.append(QuarantinedFrame(frame=frame, reason=_reason(error, reader.files)))
    return good, bad


def split_runs(frame_index: np.ndarray, max_frames: int) -> list[slice]:
    """Returns slices of consecutive frames, cut at every gap of `frame_index` (n,) and after `max_frames`."""
    starts = [0, *(np.nonzero(np.diff(frame_index) != 1)[0] + 1).tolist(), len(frame_index)]
    return [
        slice(start, min(start + max_frames, stop))
        for first, stop in itertools.pairwise(starts)
        for start in range(first, stop, max_frames)
    ]


def _convert(
    reader: egobody3m.SequenceReader, report: SequenceReport, folder: pathlib.Path, config: ConversionConfig
) -> SequenceReport:
    good, quarantined_frames = read_metadata(reader)
    kept = [f for f in good if config.levels is None or f.annotation_level in config.levels]
    report = dataclasses.replace(
        report,
        num_frames=len(reader.frames),
        levels=_count_levels(good),
        quarantined_frames=tuple(quarantined_frames),
    )
    if not kept:
        found = ", ".join(report.levels) or "none"
        return dataclasses.replace(report, quarantined=f"no readable frame of the chosen levels; levels found: {found}")
    sizes = reader.view_sizes_px()
    if not any(sizes):
        return dataclasses.replace(report, quarantined=f"{reader.files.images.name}: no readable image in it")
    fits = _fit(good, sizes)
    report = dataclasses.replace(report, calibration=tuple(_camera_report(fit) for fit in fits))
    poor = [view for view, fit in enumerate(fits) if not fit.good]
    if poor and config.poor_calibration == "quarantine":
        reason = f"calibration of camera {poor[0]} is {fits[poor[0]].verdict}; poor_calibration = 'keep' would use it"
        return dataclasses.replace(report, quarantined=reason)
    rig = jax.tree.map(np.asarray, rig_lib.upright(calibration.to_rig(fits), config.image_size_hw))
    bad_views: list[BadView] = []
    runs = _runs(reader, kept, sizes, rig, config, bad_views)
    shard = records.write_shard(folder / f"{report.sequence}{records.SHARD_SUFFIX}", runs)
    return dataclasses.replace(
        report,
        num_kept=len(kept),
        kept_levels=_count_levels(kept),
        num_bad_views=len(bad_views),
        bad_views=tuple(bad_views[:_MAX_LISTED_VIEWS]),
        shard=shard,
    )


def _runs(
    reader: egobody3m.SequenceReader,
    kept: list[egobody3m.FrameMetadata],
    sizes: list[tuple[int, int] | None],
    rig: Rig,
    config: ConversionConfig,
    bad_views: list[BadView],
) -> Iterator[records.FrameRun]:
    """The records of a sequence, one at a time; appends to `bad_views`."""
    frame_index = np.array([f.frame_index for f in kept], np.int32)
    for part in split_runs(frame_index, config.record_frames):
        frames = kept[part]
        jpegs = []
        for frame in frames:
            views = []
            for view, size in enumerate(sizes):
                try:
                    views.append(_convert_image(reader.jpeg(frame.frame_index, view), size, config))
                except ValueError as error:
                    views.append(b"")
                    reason = _reason(error, reader.files)
                    bad_views.append(BadView(frame=frame.frame_index, view=view, reason=reason))
            jpegs.append(tuple(views))
        yield records.FrameRun(
            sequence=reader.files.sequence,
            split=reader.files.split,
            frame_index=frame_index[part],
            jpegs=tuple(jpegs),
            T_world_headset=np.stack([f.T_world_headset for f in frames]).astype(np.float32),
            joints_world_m=np.stack([f.joints_world_m for f in frames]).astype(np.float32),
            joint_valid=np.ones((len(frames), frames[0].joints_world_m.shape[0]), bool),
            view_valid=np.array([[bool(data) for data in views] for views in jpegs]),
            rig=rig,
        )


def _convert_image(stored: bytes, size_px: tuple[int, int] | None, config: ConversionConfig) -> bytes:
    height, width = images.jpeg_size_hw(stored)
    if (width, height) != size_px:
        raise ValueError(f"JPEG: {width}x{height} pixels, the other images of this camera have {size_px}")
    # The small image is the cheaper one to turn.
    image = images.upright(images.resize(images.decode_grey(stored), config.image_size_hw[::-1]))
    return images.encode_grey(image, config.jpeg_quality)


def _fit(frames: list[egobody3m.FrameMetadata], sizes: list[tuple[int, int] | None]) -> list[calibration.CameraFit]:
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


def _camera_report(fit: calibration.CameraFit) -> CameraReport:
    def finite(value: float) -> float | None:
        return float(f"{value:.6g}") if math.isfinite(value) else None

    low, high = (finite(math.degrees(angle)) for angle in fit.angle_range_rad)
    return CameraReport(
        verdict=fit.verdict,
        rms_px=finite(fit.rms_px),
        held_out_rms_px=finite(fit.held_out_rms_px),
        angle_range_deg=None if low is None or high is None else (low, high),
        num_points=fit.num_points,
    )


def _count_levels(frames: list[egobody3m.FrameMetadata]) -> dict[str, int]:
    levels, counts = np.unique([f.annotation_level for f in frames], return_counts=True)
    return {str(int(level)): int(count) for level, count in zip(levels, counts, strict=True)}


def _reason(error: ValueError, files: egobody3m.SequenceFiles) -> str:
    # The same data gives the same manifest wherever the zips lie.
    return str(error).replace(f"{files.metadata.parent}{os.sep}", "")


def _source_bytes(files: egobody3m.SequenceFiles) -> tuple[int, int]:
    return tuple(path.stat().st_size if path.is_file() else 0 for path in (files.images, files.metadata))


def _read_report(out_dir: pathlib.Path, files: egobody3m.SequenceFiles) -> SequenceReport | None:
    """The report of a sequence that is done and whose zips and shard are as it says, else None."""
    folder = out_dir / files.split
    path = folder / _REPORT_FOLDER / f"{files.sequence}.json"
    if not path.is_file():
        return None
    try:
        report = config_lib.from_mapping(SequenceReport, json.loads(path.read_text(encoding="utf-8")), os.fspath(path))
        if report.shard is not None:
            records.check_shard_size(folder, report.shard)
    except ValueError:
        return None
    return report if report.source_bytes == _source_bytes(files) else None


def _claim(out_dir: pathlib.Path, config: ConversionConfig) -> None:
    """Writes the config into a new `out_dir`, or raises if another one is there."""
    path = out_dir / _CONFIG_NAME
    wanted = config_lib.to_mapping(config)
    if not path.is_file():
        out_dir.mkdir(parents=True, exist_ok=True)
        with tasks.publishing(path) as own:
            records.write_json(own, wanted)
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != wanted:
        differences = ", ".join(f"{k}: {found[k]} there, {wanted[k]} asked" for k in wanted if found[k] != wanted[k])
        raise ValueError(
            f"{out_dir}: holds a conversion with another config ({differences}); choose another folder or delete this "
            "one"
        )
