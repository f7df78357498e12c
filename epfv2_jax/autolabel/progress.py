"""The progress of a label pass, from the entries that its workers leave beside the units that they publish."""

import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel.plan import Plan
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import labels

_log = logging.getLogger(__name__)

# A worker that has published nothing for this long, and for three times its longest unit, does not count towards the
# time left.
_ACTIVE_S = 900.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """How one unit was labelled."""

    unit: int
    worker: str
    frames: int
    counts: tuple[int, ...]  # rows by Status
    seconds: float
    finished_unix_s: float

    def __post_init__(self):
        checks.equal("counts, number of entries", len(self.counts), len(labels.Status))
        checks.at_least(
            0, unit=self.unit, seconds=self.seconds, **{f"counts[{i}]": n for i, n in enumerate(self.counts)}
        )
        checks.equal("counts, sum", sum(self.counts), self.frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """What one worker process has published."""

    worker: str
    units: int
    frames: int
    frames_per_s: float
    idle_s: float  # since it last published
    longest_s: float  # for a unit

    @property
    def active(self) -> bool:
        """Whether it is presumably still at work."""
        return self.idle_s < max(_ACTIVE_S, 3 * self.longest_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassStatus:
    """How much of a pass is done."""

    units: int
    units_done: int
    frames: int
    frames_done: int
    counts: tuple[int, ...]  # rows done by Status
    workers: tuple[WorkerStatus, ...]
    seconds_left: float | None  # None: no worker has published lately


def write(out_dir: str | os.PathLike, entry: Entry) -> None:
    """Writes the entry of a unit; an earlier one is replaced."""
    config_lib.write(_path(out_dir, entry.unit), entry)


def read(out_dir: str | os.PathLike, units: Iterable[int]) -> list[Entry]:
    """Returns the entries of units.

    One that is absent is left out, for units may be copied without them; one that is damaged too, with a warning.
    """
    found = []
    for unit in units:
        path = _path(out_dir, unit)
        if not path.exists():
            continue
        try:
            entry = config_lib.read(Entry, path, "delete it: the labels do not depend on it")
            checks.equal(f"{path}: unit", entry.unit, unit)
        except ValueError as error:
            _log.warning("%s", error)
            continue
        found.append(entry)
    return found


def counts(out_dir: str | os.PathLike, plan: Plan, units: Sequence[int]) -> tuple[int, ...]:
    """Returns the rows of published units by Status, whichever worker published them.

    Raises:
      ValueError: the file of a unit without a sound entry, whose footer then counts, is damaged too.
    """
    return _counts(out_dir, plan, units, read(out_dir, units))


def status(out_dir: str | os.PathLike) -> PassStatus:
    """Returns how much of the pass in `out_dir` is done.

    Units and frames are counted by published files; workers come from the entries, and so do bad rows where there are
    entries.
    """
    plan = plan_lib.read_plan(out_dir)
    done = sorted(labels.published_units(out_dir, plan.num_units))
    entries = read(out_dir, done)
    names = sorted({entry.worker for entry in entries})
    workers = tuple(_worker_status([entry for entry in entries if entry.worker == name]) for name in names)
    frames, frames_done = int(plan.units[:, 2].sum()), int(plan.units[done, 2].sum())
    rate = sum(w.frames_per_s for w in workers if w.active)
    return PassStatus(
        units=plan.num_units,
        units_done=len(done),
        frames=frames,
        frames_done=frames_done,
        counts=_counts(out_dir, plan, done, entries),
        workers=workers,
        seconds_left=(frames - frames_done) / rate if rate else None,
    )


def _worker_status(entries: Sequence[Entry]) -> WorkerStatus:
    frames = sum(entry.frames for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    return WorkerStatus(
        worker=entries[0].worker,
        units=len(entries),
        frames=frames,
        frames_per_s=frames / max(seconds, 1e-3),
        idle_s=time.time() - max(entry.finished_unix_s for entry in entries),
        longest_s=max(entry.seconds for entry in entries),
    )


def _counts(out_dir: str | os.PathLike, plan: Plan, units: Sequence[int], entries: Sequence[Entry]) -> tuple[int, ...]:
    known = {entry.unit: entry.counts for entry in entries}
    rows = [[0] * len(labels.Status)]
    for unit in units:
        if unit not in known:
            first, stop, _ = plan.units[unit].tolist()
            path = files.locate(out_dir) / labels.UNIT_FOLDER / labels.unit_file(unit)
            with labels.published_unit(path, stop - first) as reader:
                known[unit] = reader.footer.counts
        rows.append(known[unit])
    return tuple(np.sum(rows, axis=0, dtype=int).tolist())


def _path(out_dir: str | os.PathLike, unit: int) -> epath.Path:
    return files.locate(out_dir) / labels.PROGRESS_FOLDER / f"{unit:08d}.json"
