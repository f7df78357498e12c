"""Checks that the published labels of a pass are complete and correct."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from epfv2_jax.autolabel import identity
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel.plan import Plan
from epfv2_jax.core import files
from epfv2_jax.data import labels
from epfv2_jax.data.labels import LabelRun, Status
from epfv2_jax.data.records import RecordEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The content of the published files, and every error in them."""

    errors: tuple[str, ...]
    units: int
    frames: int  # read, of the units without an error
    counts: tuple[int, ...]  # rows by Status
    joint_names: tuple[str, ...]  # J
    # Of the joints in the headset frame, over the rows that are OK; zero without such rows.
    mean_m: np.ndarray  # (J, 3)
    std_m: np.ndarray  # (J, 3)
    sigma_m: np.ndarray  # (J,) mean of sqrt(trace(scale matrix) / 3); NaN without uncertainty


def verify(
    out_dir: str | os.PathLike,
    records_dir: str | os.PathLike,
    parquet_dir: str | os.PathLike | None = None,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Returns the report on a pass: every planned frame exactly once, nothing extra, every checksum.

    Args:
      out_dir: of the pass.
      records_dir: of the records that were labelled; only the manifest and the sizes of the shards are read.
      parquet_dir: where to write the labels as Parquet too, one file for each unit; needs pyarrow.
      progress: called with the number of units that were looked at.

    Raises:
      ValueError: there is no plan, the records are not the planned ones, or `parquet_dir` is not on a disk.
    """
    if parquet_dir is not None:
        parquet_dir = files.on_disk(parquet_dir, "copy the Parquet files from there")
    plan = plan_lib.read_plan(out_dir)
    entries = identity.check_records(plan.records, records_dir)
    folder = files.locate(out_dir) / labels.UNIT_FOLDER
    planned = {labels.unit_file(unit) for unit in range(plan.num_units)}
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    errors = [f"{folder / name}: not planned; remove it" for name in sorted(found - planned)]
    statistics = _Statistics(plan.skeleton.num_joints)
    for unit in range(plan.num_units):
        path = folder / labels.unit_file(unit)
        if path.name not in found:
            errors.append(f"{path}: unit {unit} is missing; run the label pass again")
            continue
        try:
            runs = _checked_unit(plan, unit, path, entries)
        except ValueError as error:
            errors.append(str(error))
            continue
        for run in runs:
            statistics.add(run)
        if parquet_dir is not None:
            parquet_dir.mkdir(parents=True, exist_ok=True)
            labels.export_parquet(parquet_dir / f"{unit:08d}.parquet", runs)
        if progress is not None:
            progress(unit + 1)
    return statistics.report(tuple(errors), plan)


def _checked_unit(plan: Plan, unit: int, path: epath.Path, entries: Sequence[RecordEntry]) -> list[LabelRun]:
    """Returns the label records of a unit.

    Raises:
      ValueError: the file is damaged, or its content is not what was planned or not what its footer says.
    """
    first, stop, num_frames = plan.units[unit].tolist()
    with labels.published_unit(path, stop - first) as reader:
        runs = [reader[i - first] for i in range(first, stop)]
        for record, run in enumerate(runs, first):
            _check_run(plan, entries[record], record, run)
        footer = reader.footer
        counts = sum(np.bincount(run.status, minlength=len(Status)) for run in runs)
        found = (plan.sha256, unit, num_frames, tuple(counts.tolist()), reader.sha256())
        if found != (footer.plan_sha256, footer.unit, footer.num_rows, footer.counts, footer.sha256):
            raise ValueError(f"{reader.path}: its content is not what its footer says; delete it and run again")
    return runs


def _check_run(plan: Plan, entry: RecordEntry, record: int, run: LabelRun) -> None:
    J = plan.skeleton.num_joints
    planned = (plan.sha256, plan.teacher.sha256, record, entry.sequence, entry.first_frame, entry.num_frames, J)
    first = int(run.frame_index[0]) if run.num_frames else -1
    J = run.joints_headset_m.shape[1]
    found = (run.plan_sha256, run.teacher_sha256, run.record, run.sequence, first, run.num_frames, J)
    if found != planned or np.any(np.diff(run.frame_index) != 1):
        raise ValueError(f"label record {record}: planned {planned}, found {found}; delete its file and run again")


class _Statistics:
    """Sums over the rows that are OK, in float64."""

    def __init__(self, num_joints: int):
        self._counts = np.zeros(len(Status), np.int64)
        self._sum, self._square = np.zeros((2, num_joints, 3))
        self._sigma = np.zeros(num_joints)
        self._rows = self._with_sigma = 0

    def add(self, run: LabelRun) -> None:
        self._counts += np.bincount(run.status, minlength=len(Status))
        joints_m = run.joints_headset_m[run.ok].astype(np.float64)
        self._sum += joints_m.sum(axis=0)
        self._square += np.square(joints_m).sum(axis=0)
        self._rows += len(joints_m)
        if run.cholesky6_m is not None:
            # trace(L L^T) is the sum of the squares of the entries of L.
            trace = np.square(run.cholesky6_m[run.ok].astype(np.float64)).sum(axis=-1)
            self._sigma += np.sqrt(trace / 3).sum(axis=0)
            self._with_sigma += len(joints_m)

    def report(self, errors: tuple[str, ...], plan: Plan) -> VerifyReport:
        mean_m = self._sum / max(self._rows, 1)
        variance = np.maximum(self._square / max(self._rows, 1) - np.square(mean_m), 0)
        return VerifyReport(
            errors=errors,
            units=plan.num_units,
            frames=int(self._counts.sum()),
            counts=tuple(self._counts.tolist()),
            joint_names=plan.skeleton.joint_names,
            mean_m=mean_m,
            std_m=np.sqrt(variance),
            sigma_m=self._sigma / self._with_sigma if self._with_sigma else np.full_like(self._sigma, np.nan),
        )
