"""What became of each sequence of a conversion, and of a split."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import zlib
from typing import Any

from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records
from epfv2_jax.data.readers.base import BadView, CameraReport, QuarantinedFrame, ReadReport, SourceSequence

_MAX_LISTED_VIEWS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that a sequence was read from, or the files of a folder together; zeros where it was missing."""

    num_bytes: int
    crc32: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceReport:
    """What became of one sequence."""

    sequence: str
    split: str
    source: tuple[SourceFile, ...]  # another content: converted again
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


def read(path: str | os.PathLike, source: SourceSequence) -> SequenceReport:
    """Returns the report of a sequence.

    The file's own time of change is that of its source (see `write`). A source that has changed since, or was copied,
    is compared by its checksum.

    Raises:
      ValueError: there is none, it is not as it was written, or the source is another; the message names the file and
        the field.
    """
    report = config_lib.read(SequenceReport, path, "delete it and run the conversion again")
    sizes = tuple(file.num_bytes for file in report.source)
    checks.equal(f"{path}: sizes of the source's files", sizes, tuple(map(_num_bytes, source.paths)))
    changed_ns = last_change_ns(source)
    if os.stat(path).st_mtime_ns < changed_ns:
        checks.equal(f"{path}: content of the source's files", report.source, source_files(source))
        with contextlib.suppress(OSError):  # of another user: compared again next time
            os.utime(path, ns=(changed_ns, changed_ns))
    return report


def write(path: str | os.PathLike, report: SequenceReport, changed_ns: int) -> None:
    """Writes a report with its checksum; `changed_ns`: `last_change_ns` before the source was read."""
    config_lib.write(path, report)
    os.utime(path, ns=(changed_ns, changed_ns))


def source_files(source: SourceSequence) -> tuple[SourceFile, ...]:
    """Returns the files of a sequence; reads them to the end."""
    return tuple(SourceFile(num_bytes=_num_bytes(path), crc32=_crc32(path)) for path in source.paths)


def last_change_ns(source: SourceSequence) -> int:
    """Returns when the content, the name or the rights of one of a sequence's files last changed; 0 without files."""
    folders = (path for path in source.paths if path.is_dir())
    found = (path.stat() for path in (*folders, *itertools.chain.from_iterable(map(_files, source.paths))))
    return max((max(status.st_mtime_ns, status.st_ctime_ns) for status in found), default=0)


def sequence_report(
    source: SourceSequence, files_read: tuple[SourceFile, ...], read: ReadReport, outcome: records.Shard | ValueError
) -> SequenceReport:
    """Returns the report of a sequence that was read, and written to a shard unless an error quarantined it."""

    def shortened(note: QuarantinedFrame | BadView) -> QuarantinedFrame | BadView:
        return dataclasses.replace(note, reason=_without_folders(note.reason, source))

    shard = outcome if isinstance(outcome, records.Shard) else None
    return SequenceReport(
        sequence=source.sequence,
        split=source.split,
        source=files_read,
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


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the file, or the files right in the folder; none where there is neither."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return [path] if path.is_file() else []


def _num_bytes(path: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _crc32(path: pathlib.Path) -> int:
    """Returns the CRC-32 of a file, or of the names and CRC-32s of the files in a folder; 0 without files."""
    if path.is_file():
        return files.crc32(path)
    return zlib.crc32("".join(f"{file.name} {files.crc32(file)}\n" for file in _files(path)).encode())


def _without_folders(reason: str, source: SourceSequence) -> str:
    """Returns a reason without the folders of the source: the same data gives the same manifest wherever it lies."""
    for path in source.paths:
        reason = reason.replace(f"{path.parent}{os.sep}", "")
    return reason
