"""How far a label pass is, and whether what it published is whole and right."""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import worker
from epfv2_jax.data import records
from epfv2_jax.data.labels import labels
from epfv2_jax.data.labels.labels import Status

# A worker that has published nothing for this long, and for three times its longest unit, does not count in the time
# left.
_ACTIVE_S = 900.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """What one worker process has published."""

    worker: str
    units: int
    frames: int
    frames_per_s: float
    idle_s: float  # since it last published
    longest_s: float  # that it took for a unit

    @property
    def active(self) -> bool:
        """Whether it may be expected to be at work."""
        return self.idle_s < max(_ACTIVE_S, 3 * self.longest_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassStatus:
    """How far a pass is."""

    units: int
    units_done: int
    frames: int
    frames_done: int
    counts: tuple[int, ...]  # rows done by Status
    workers: tuple[WorkerStatus, ...]
    seconds_left: float | None  # None: no worker has published lately


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What is in the published files, and everything that is wrong with them."""

    errors: tuple[str, ...]
    units: int
    frames: int  # read, of the units without an error
    counts: tuple[int, ...]  # rows by Status
    mean_m: np.ndarray  # (J, 3) of the joints in the headset frame; this and the following over the rows that are ok
    std_m: np.ndarray  # (J, 3)
    sigma_m: np.ndarray  # (J,) mean of the predicted sigma, sqrt(trace(covariance) / 3); NaN without uncertainty


def status(out_dir: str | os.PathLike) -> PassStatus:
    """Returns how far the pass in `out_dir` is.

    Frames done are those of published files; who did them, and bad rows, come from their lines of progress.
    """
    plan = plan_lib.read_plan(out_dir)
    done = sorted(labels.published_units(out_dir, plan.num_units))
    lines = _progress(out_dir, done)
    now = time.time()
    workers = []
    for name in sorted({line["worker"] for line in lines}):
        own = [line for line in lines if line["worker"] == name]
        frames, seconds = (sum(line[key] for line in own) for key in ("frames", "seconds"))
        idle_s = now - max(line["finished_unix_s"] for line in own)
        workers.append(
            WorkerStatus(
                worker=name,
                units=len(own),
                frames=frames,
                frames_per_s=frames / max(seconds, 1e-3),
                idle_s=idle_s,
                longest_s=max(line["seconds"] for line in own),
            )
        )
    total, frames_done = int(plan.units[:, 2].sum()), int(plan.units[done, 2].sum())
    rate = sum(w.frames_per_s for w in workers if w.active)
    return PassStatus(
        units=plan.num_units,
        units_done=len(done),
        frames=total,
        frames_done=frames_done,
        counts=_counts(lines),
        workers=tuple(workers),
        seconds_left=(total - frames_done) / rate if rate else None,
    )


def counts(out_dir: str | os.PathLike, units: Iterable[int]) -> tuple[int, ...]:
    """Returns the rows of published units by Status, as their lines of progress tell them; whoever published them."""
    return _counts(_progress(out_dir, units))


def _progress(out_dir: str | os.PathLike, units: Iterable[int]) -> list[dict[str, Any]]:
    """The lines of progress of published units; without those that were copied without theirs."""
    folder = epath.Path(out_dir) / worker.PROGRESS_FOLDER
    lines = []
    for unit in units:
        with contextlib.suppress(FileNotFoundError, ValueError):
            lines.append(json.loads((folder / f"{unit:08d}.json").read_text()))
    return lines


def _counts(lines: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(np.sum([[0] * len(Status), *(line["counts"] for line in lines)], axis=0, dtype=int).tolist())


def verify(
    out_dir: str | os.PathLike,
    records_dir: str | os.PathLike,
    parquet_dir: str | os.PathLike | None = None,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Returns the report on a pass: every planned frame exactly once, nothing extra, every checksum.

    Args:
      out_dir: of the pass.
      records_dir: that was labelled; only its manifest and the sizes of its shards are looked at.
      parquet_dir: where to write the labels as Parquet as well, one file a unit; needs pyarrow.
      progress: called with the number of units looked at.

    Raises:
      ValueError: there is no plan, the records are not those of the plan, or `parquet_dir` is not on a disk.
    """
    if parquet_dir is not None and plan_lib.is_remote(parquet_dir):
        raise ValueError(f"{parquet_dir}: Parquet files are written to a disk; copy them from there")
    plan = plan_lib.read_plan(out_dir)
    entries = worker.check_records(plan, records_dir)
    folder = epath.Path(out_dir) / labels.UNIT_FOLDER
    planned = {labels.unit_file(unit) for unit in range(plan.num_units)}
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    errors = [f"{folder / name}: not planned; remove it" for name in sorted(there - planned)]
    statistics = _Statistics()
    for unit in range(plan.num_units):
        first, stop, _ = plan.units[unit].tolist()
        path = folder / labels.unit_file(unit)
        if path.name not in there:
            errors.append(f"{path}: unit {unit} is missing; run the label pass again")
            continue
        try:
            with _local(path) as file, labels.UnitReader(file, stop - first) as reader:
                runs = [_checked(plan, entries[i], i, reader[i - first]) for i in range(first, stop)]
                _check_footer(plan, unit, reader, runs)
        except ValueError as error:
            errors.append(str(error))
            continue
        for run in runs:
            statistics.add(run)
        if parquet_dir is not None:
            pathlib.Path(parquet_dir).mkdir(parents=True, exist_ok=True)
            labels.export_parquet(pathlib.Path(parquet_dir) / f"{unit:08d}.parquet", runs)
        if progress is not None:
            progress(unit + 1)
    return statistics.report(tuple(errors), plan.num_units)


def _checked(plan: plan_lib.Plan, entry: records.RecordEntry, record: int, run: labels.LabelRun) -> labels.LabelRun:
    """`run`, if it is what was planned for this record."""
    expected = (plan.sha256, plan.teacher.sha256, record, entry.sequence, entry.first_frame, entry.num_frames)
    first = int(run.frame_index[0]) if run.num_frames else -1
    found = (run.plan_sha256, run.teacher_sha256, run.record, run.sequence, first, run.num_frames)
    if found != expected or np.any(np.diff(run.frame_index) != 1):
        raise ValueError(f"label record {record}: planned {expected}, found {found}; delete its file and run again")
    return run


def _check_footer(plan: plan_lib.Plan, unit: int, reader: labels.UnitReader, runs: list[labels.LabelRun]) -> None:
    footer = reader.footer
    counts = sum(np.bincount(run.status, minlength=len(Status)) for run in runs)
    found = (plan.sha256, unit, int(plan.units[unit, 2]), tuple(counts.tolist()), reader.sha256())
    if found != (footer.plan_sha256, footer.unit, footer.num_rows, footer.counts, footer.sha256):
        raise ValueError(f"{reader.path}: its content is not what its footer says; delete it and run again")


class _Statistics:
    """Sums over the rows that are ok, in float64."""

    def __init__(self):
        self._counts = np.zeros(len(Status), np.int64)
        self._sum = self._square = self._sigma = 0.0
        self._rows = self._with_sigma = 0

    def add(self, run: labels.LabelRun) -> None:
        self._counts += np.bincount(run.status, minlength=len(Status))
        joints_m = run.joints_headset_m[run.ok].astype(np.float64)
        self._sum = self._sum + joints_m.sum(axis=0)
        self._square = self._square + np.square(joints_m).sum(axis=0)
        self._rows += len(joints_m)
        if run.cholesky6_m is not None:
            # trace(L L^T) is the sum of the squares of the entries of L.
            trace = np.square(run.cholesky6_m[run.ok].astype(np.float64)).sum(axis=-1)
            self._sigma = self._sigma + np.sqrt(trace / 3).sum(axis=0)
            self._with_sigma += len(joints_m)

    def report(self, errors: tuple[str, ...], units: int) -> VerifyReport:
        mean_m = np.asarray(self._sum) / max(self._rows, 1)
        variance = np.maximum(np.asarray(self._square) / max(self._rows, 1) - np.square(mean_m), 0)
        sigma_m = self._sigma / self._with_sigma if self._with_sigma else np.full(np.shape(mean_m)[:-1], np.nan)
        return VerifyReport(
            errors=errors,
            units=units,
            frames=int(self._counts.sum()),
            counts=tuple(self._counts.tolist()),
            mean_m=mean_m,
            std_m=np.sqrt(variance),
            sigma_m=np.asarray(sigma_m),
        )


@contextlib.contextmanager
def _local(path: epath.Path) -> Iterator[pathlib.Path]:
    """A published file on a disk: itself, or a copy that goes away again."""
    if not plan_lib.is_remote(path):
        yield pathlib.Path(os.fspath(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy
