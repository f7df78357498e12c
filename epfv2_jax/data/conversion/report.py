"""What became of each sequence of a conversion, and of a split."""

import dataclasses
import os
from typing import Any

from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records
from epfv2_jax.data.readers.base import BadView, CameraReport, QuarantinedFrame, ReadReport, SourceSequence

_MAX_LISTED_VIEWS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceReport:
    """What became of one sequence."""

    sequence: str
    split: str
    source_bytes: tuple[int, ...]  # sizes of the files it was read from; other sizes: converted again
    quarantined: str | None = None  # why the whole sequence is left out
    num_frames: int = 0  # frames in the source
    num_kept: int = 0  # frames in the records
    levels: dict[str, int] = dataclasses.field(default_factory=dict)  # annotation level -> readable frames
    kept_levels: dict[str, int] = dataclasses.field(default_factory=dict)  # annotation level -> frames in the records
    quarantined_frames: tuple[QuarantinedFrame, ...] = ()
    num_bad_views: int = 0
    bad_views: tuple[BadView, ...] = ()  # the first of them
    calibration: tuple[CameraReport, ...] = ()
    shard: records.Shard | None = None

    def __post_init__(self):
        checks.at_least(0, num_frames=self.num_frames, num_kept=self.num_kept, num_bad_views=self.num_bad_views)


def read(path: str | os.PathLike) -> SequenceReport:
    """Returns the report in a file.

    Raises:
      ValueError: there is none, or it is not as it was written; the message names the file and the field.
    """
    return config_lib.read(SequenceReport, path, "delete it and run the conversion again")


def write(path: str | os.PathLike, report: SequenceReport) -> None:
    """Writes a report with its checksum."""
    config_lib.write(path, report)


def sequence_report(source: SourceSequence, read: ReadReport, outcome: records.Shard | ValueError) -> SequenceReport:
    """Returns the report of a sequence that was read, and written to a shard unless an error quarantined it."""

    def shortened(note: QuarantinedFrame | BadView) -> QuarantinedFrame | BadView:
        return dataclasses.replace(note, reason=_without_folders(note.reason, source))

    shard = outcome if isinstance(outcome, records.Shard) else None
    return SequenceReport(
        sequence=source.sequence,
        split=source.split,
        source_bytes=source_bytes(source),
        quarantined=None if shard else _without_folders(str(outcome), source),
        num_frames=read.num_frames,
        num_kept=sum(entry.num_frames for entry in shard.records) if shard else 0,
        levels=read.levels,
        kept_levels=read.kept_levels if shard else {},
        quarantined_frames=tuple(map(shortened, read.quarantined_frames)),
        num_bad_views=len(read.bad_views) if shard else 0,
        bad_views=tuple(map(shortened, read.bad_views[:_MAX_LISTED_VIEWS])) if shard else (),
        calibration=tuple(read.calibration),
        shard=shard,
    )


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


def source_bytes(source: SourceSequence) -> tuple[int, ...]:
    """Returns the sizes of the files of a sequence, 0 for one that is missing."""
    return tuple(path.stat().st_size if path.is_file() else 0 for path in source.paths)


def _without_folders(reason: str, source: SourceSequence) -> str:
    """Returns a reason without the folders of the source: the same data gives the same manifest wherever it lies."""
    for path in source.paths:
        reason = reason.replace(f"{path.parent}{os.sep}", "")
    return reason
