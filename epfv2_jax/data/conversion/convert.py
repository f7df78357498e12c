"""Conversion of raw data to records: a shard for each sequence, a manifest for each split.

A sequence is the unit of work: its shard and its report appear whole or not at all, so a conversion that was killed
goes on with the sequences that have none, and ends with the same bytes. Any number of processes and machines may share
the work. Nothing that is wrong with one frame, view or sequence ends the pass: it is left out, counted and named in the
manifest.
"""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from epfv2_jax.core import checks, files, tasks
from epfv2_jax.core import config as config_lib
from epfv2_jax.core.findings import raise_first
from epfv2_jax.data import records, validation
from epfv2_jax.data.conversion import report as report_lib
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.conversion.report import SequenceReport, sequence_report, summarize
from epfv2_jax.data.readers import READERS
from epfv2_jax.data.readers.base import Reader, ReadReport, SourceSequence

_CONFIG_NAME = "conversion.json"
_REPORT_FOLDER = "sequences"

_log = logging.getLogger(__name__)

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

    The summary maps each split to its counts (see `report.summarize`). Sequences that are done are not done again. The
    bytes written depend on the source and `config`, not on `engine` or on interruptions. Where other processes have
    shares, the manifests are written by whichever finds that all sequences are done, or by several, alike; to one that
    finishes earlier this returns None.

    Raises:
      ValueError: there is no such reader, it finds no sequences, or `out_dir` holds a conversion with another config.
    """
    checks.one_of(READERS, reader=config.reader)
    reader = READERS[config.reader](source_dir)
    out_dir = files.on_disk(out_dir, "convert there, then copy the records to the store")
    sequences = reader.find_sequences()
    spec = record_spec(reader, sequences, config)
    claim(out_dir, config)
    share = engine.share(sequences)
    done: dict[tuple[str, str], SequenceReport] = {}

    def note(report: SequenceReport) -> None:
        done[report.split, report.sequence] = report
        if progress is not None:
            progress(len(done), len(share), report)

    todo = []
    for source in share:
        report = _read_report(out_dir, source)
        if report is None:
            todo.append(source)
        else:
            note(report)
    for report in engine.run(functools.partial(_Converter, reader, spec, out_dir, config), todo):
        note(report)

    reports: dict[str, list[SequenceReport]] = {}
    for source in sequences:
        report = done.get((source.split, source.sequence)) or _read_report(out_dir, source)
        if report is None:
            return None
        reports.setdefault(source.split, []).append(report)
    return {split: _finish(spec, of_split, out_dir / split, config) for split, of_split in reports.items()}


def convert_sequence(
    reader: Reader,
    source: SourceSequence,
    spec: records.RecordSpec,
    out_dir: str | os.PathLike,
    config: ConversionConfig,
) -> SequenceReport:
    """Returns the report of one sequence, after writing its shard and then the report below `out_dir`/<split>.

    A sequence that cannot be read at all is quarantined: its report says why and has no shard.
    """
    folder = pathlib.Path(out_dir) / source.split
    (folder / _REPORT_FOLDER).mkdir(parents=True, exist_ok=True)
    changed_ns, files_read, read = report_lib.last_change_ns(source), report_lib.source_files(source), ReadReport()
    try:
        runs = _checked(reader, source, spec, config, read)
        outcome = records.write_shard(folder / f"{source.sequence}{records.SHARD_SUFFIX}", runs)
    except ValueError as error:
        outcome = error
    report = sequence_report(source, files_read, read, outcome)
    report_lib.write(_report_path(out_dir, source), report, changed_ns)
    return report


@dataclasses.dataclass(frozen=True)
class _Converter:
    """A worker for `core.tasks`."""

    reader: Reader
    spec: records.RecordSpec
    out_dir: pathlib.Path
    config: ConversionConfig

    def __call__(self, sequences: Iterable[SourceSequence]) -> Iterator[SequenceReport]:
        return (convert_sequence(self.reader, source, self.spec, self.out_dir, self.config) for source in sequences)


def record_spec(reader: Reader, sequences: Sequence[SourceSequence], config: ConversionConfig) -> records.RecordSpec:
    """Returns what the records of all these sequences have in common."""
    return records.RecordSpec(
        image_size_hw=config.image_size_hw,
        camera_model=reader.camera_model,
        frame_s=reader.frame_s(sequences),
        skeleton=reader.skeleton,
        layout=reader.layout,
    )


def _checked(
    reader: Reader, source: SourceSequence, spec: records.RecordSpec, config: ConversionConfig, read: ReadReport
) -> Iterator[records.FrameRun]:
    """Yields the runs of a sequence, of which there must be one, after comparing each with what the reader declares.

    Raises:
      ValueError: a run is not what the reader declares; or, after the last, the sequence cannot be true.
    """
    motions = []
    for run in reader.read(source, config, read):
        if difference := spec.difference(run):
            raise ValueError(f"frame {run.frame_index[0]}: {difference} as the reader {config.reader!r} declares")
        run.check_motion()
        yield run
        motions.append(validation.Motion.of(run))
    checks.at_least(1, **{"usable runs of frames": len(motions)})
    if config.doubtful == "quarantine":
        with checks.naming("implausible", remedy="doubtful = 'keep' would use it"):
            raise_first(validation.findings(motions, run.rig, spec.skeleton, spec.layout))


def _finish(
    spec: records.RecordSpec, reports: list[SequenceReport], folder: pathlib.Path, config: ConversionConfig
) -> dict[str, Any]:
    """Returns the summary of a split of which all sequences are done, after writing its manifest."""
    summary = summarize(reports)
    manifest = records.Manifest(
        split=folder.name,
        spec=spec,
        shards=tuple(report.shard for report in reports if report.shard is not None),
        report={
            "config": config_lib.to_mapping(config),
            "summary": summary,
            "sequences": [config_lib.to_mapping(dataclasses.replace(r, shard=None)) for r in reports],
        },
    )
    records.write_manifest(folder, manifest)
    return summary


def _report_path(out_dir: str | os.PathLike, source: SourceSequence) -> pathlib.Path:
    return pathlib.Path(out_dir) / source.split / _REPORT_FOLDER / f"{source.sequence}.json"


def _read_report(out_dir: pathlib.Path, source: SourceSequence) -> SequenceReport | None:
    """Returns the report of a sequence that is done and whose source and shard are as it says, else None."""
    path = _report_path(out_dir, source)
    if not path.is_file():
        return None
    try:
        report = report_lib.read(path, source)
        if report.shard is not None:
            records.check_shard_size(out_dir / source.split, report.shard)
    except ValueError as error:
        _log.warning("%s/%s is converted again: %s", source.split, source.sequence, error)
        return None
    return report


def claim(out_dir: pathlib.Path, config: ConversionConfig) -> None:
    """Writes the config into a new `out_dir`, or raises if a conversion with another one is there.

    The version of the records counts as a part of the config: shards of an older one are not done.
    """
    path, remedy = out_dir / _CONFIG_NAME, "choose another folder or delete this one"
    wanted = {"record_version": records.RECORD_VERSION, **config_lib.to_mapping(config)}
    if not path.is_file():
        out_dir.mkdir(parents=True, exist_ok=True)
        files.write_json(path, wanted)
    stored = files.read_json(path, remedy)
    with checks.naming(os.fspath(path), remedy=remedy):
        checks.instance("content", stored, dict, "a JSON object")
        version = {"record_version": stored.pop("record_version", 1)}
        found = version | config_lib.to_mapping(config_lib.from_mapping(ConversionConfig, stored, ""))
        differences = [f"{k}: {found[k]!r} there, {wanted[k]!r} asked" for k in wanted if found[k] != wanted[k]]
        if differences:
            raise ValueError(f"the folder holds a conversion with another config ({', '.join(differences)})")
