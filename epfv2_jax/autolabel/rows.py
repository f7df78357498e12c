"""From the teacher's predictions to the label rows of a unit."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.autolabel.plan import Plan
from epfv2_jax.autolabel.source import Batch
from epfv2_jax.data import labels
from epfv2_jax.data.labels import BadRow, LabelRun, Status
from epfv2_jax.data.records import MAX_POSITION_M, RecordEntry
from epfv2_jax.geometry import rotations
from epfv2_jax.structs import Predictions


def as_rows(predictions: Predictions) -> dict[str, jax.Array]:
    """Returns predictions as float32 arrays (B, T, ...) by their names in `LabelRun`."""
    rows = {"joints_headset_m": predictions.joints_headset_m}
    if predictions.distribution is not None:
        lower = np.tril_indices(3)
        rows["cholesky6_m"] = predictions.distribution.cholesky_m[..., lower[0], lower[1]]
    if predictions.body is not None:
        body = predictions.body
        rows |= {
            "root_rotation6": rotations.matrix_to_rot6d(body.root_rotation),
            "root_position_m": body.root_position_m,
            "joint_rotations6": rotations.matrix_to_rot6d(body.joint_rotations),
            "bone_scales": body.bone_scales,
        }
    return jax.tree.map(lambda x: x.astype(jnp.float32), rows)


class UnitRows:
    """Collects the rows of one unit, batch by batch."""

    def __init__(self, plan: Plan, unit: int, entries: Sequence[RecordEntry]):
        """Starts a unit of a plan without rows; `entries` are those of all records."""
        about = plan.unit(unit)
        self._plan, self._first_record = plan, about.first_record
        self._entries = entries[about.first_record : about.stop_record]
        self._starts = np.cumsum([0, *(e.num_frames for e in self._entries)])
        self._arrays: dict[str, np.ndarray] = {}
        self._status = np.full(about.num_frames, Status.OK, np.uint8)
        self._filled = np.zeros(about.num_frames, np.int64)
        self._problems: list[BadRow] = []

    def add(self, batch: Batch, outputs: dict[str, np.ndarray]) -> None:
        """Adds the outputs (B, T, ...) of `as_rows` for a batch."""
        if not self._arrays:
            shapes = labels.row_shapes(self._plan.skeleton.num_joints, len(self._status))
            self._arrays = {name: np.zeros(shapes[name], np.float32) for name in outputs}
        for problem in batch.problems:
            self._quarantine(problem)
        for b, (chunk, rows) in enumerate(zip(batch.chunks, batch.places, strict=True)):
            if chunk is None or not chunk.publish:
                continue
            entry = self._entries[chunk.record - self._first_record]
            start = self._starts[chunk.record - self._first_record]
            self._filled[start + chunk.start : start + chunk.stop] += 1
            n = len(rows)
            usable = np.ones(n, bool)
            for array in outputs.values():  # NaN is not below anything
                usable &= (np.abs(array[b, :n]) <= MAX_POSITION_M).all(axis=tuple(range(1, array.ndim - 1)))
            for name, array in outputs.items():
                self._arrays[name][start + rows[usable]] = array[b, :n][usable]
            for row in rows[~usable]:
                self._quarantine(
                    BadRow(
                        record=chunk.record,
                        frame=entry.first_frame + int(row),
                        status=Status.NON_FINITE.name.lower(),
                        reason=f"the teacher's prediction is not finite, or beyond {MAX_POSITION_M:g} m",
                    )
                )

    @property
    def bad_rows(self) -> list[BadRow]:
        """What is wrong, in the order of the rows."""
        return sorted(self._problems, key=lambda p: (p.record, p.frame, p.reason))

    def runs(self) -> Iterator[LabelRun]:
        """Returns the label records of the unit."""
        assert np.all(self._filled == 1), "a frame was not labelled exactly once"
        for i, entry in enumerate(self._entries):
            part = slice(self._starts[i], self._starts[i + 1])
            arrays = dict.fromkeys(labels.ROW_ARRAYS) | {k: v[part] for k, v in self._arrays.items()}
            yield LabelRun(
                plan_sha256=self._plan.sha256,
                teacher_sha256=self._plan.teacher.sha256,
                record=self._first_record + i,
                sequence=entry.sequence,
                split=self._plan.records.split,
                frame_index=np.arange(entry.first_frame, entry.first_frame + entry.num_frames, dtype=np.int32),
                status=self._status[part],
                **arrays,
            )

    def _quarantine(self, problem: BadRow) -> None:
        self._problems.append(problem)
        i = problem.record - self._first_record
        row = self._starts[i] + problem.frame - self._entries[i].first_frame
        self._status[row] = max(self._status[row], Status[problem.status.upper()])
