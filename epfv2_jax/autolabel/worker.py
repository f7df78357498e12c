"""The worker of a label pass: units in, published files out.

The labels of a unit depend on the plan alone: `cutting.schedule` decides which frames share a batch, every stream
starts from an empty state, padding is masked, and all batches of a pass have one shape, so there is one compilation.
Labelled again, also by another process, a unit has the same bytes (on devices of the same number and kind, with the
same libraries).

Reading, decoding and writing run beside the computation, in three stages: read records and decode images (in a pool of
threads); run the teacher (batches are dispatched ahead of their results); collect rows, write and publish. The stages
do not wait for one another at the end of a unit.
"""

import concurrent.futures
import functools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import rows as rows_lib
from epfv2_jax.autolabel import source, stages
from epfv2_jax.autolabel.publish import Publisher, UnitReport
from epfv2_jax.autolabel.reader import ShardFiles
from epfv2_jax.core import checks
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel
from epfv2_jax.structs import Frames

_AHEAD = 2  # batches between two stages

# A batch, and its rows on the devices; None where another process has published the unit.
_Result = tuple[source.Batch, dict[str, jax.Array] | None]


def slot_shardings(devices: Sequence[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings of arrays with a slot axis, split over the devices, and of the variables, replicated."""
    mesh = jax.make_mesh((len(devices),), ("slots",), axis_types=(AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec("slots")), NamedSharding(mesh, PartitionSpec())


def compile_step(model: PoseModel) -> jax.stages.Wrapped:
    """Returns step(variables, frames, state, restart (B,) bool) -> (rows by name, state). It donates `state`."""
    return jax.jit(functools.partial(_step, model), donate_argnums=2)


class Labeller:
    """Labels and publishes units with the compiled teacher: a worker for `core.tasks`.

    Attributes:
      plan: of the pass.
      model, variables: the teacher, its variables on the devices.
      step: see `compile_step`.
      inputs: where records are read.
      publisher: where units are written.
    """

    def __init__(self, out_dir: str | os.PathLike, records_dir: str | os.PathLike, teacher_dir: str | os.PathLike):
        """Opens the pass in `out_dir` after comparing records and teacher with its plan.

        Raises:
          ValueError: they differ from the plan, or the number of devices does not divide that of the slots.
        """
        self.plan = plan_lib.read_plan(out_dir)
        entries, teacher = plan_lib.check_inputs(self.plan, records_dir, teacher_dir)
        shards = ShardFiles(records_dir, self.plan.records.shards)
        self.inputs = source.Inputs(plan=self.plan, entries=entries, shards=shards)
        self.publisher = Publisher(out_dir)

        devices = jax.local_devices()
        slots = self.plan.config.slots
        name = f"slots of the plan, which this process's {len(devices)} devices share"
        checks.multiple_of(len(devices), name, slots, "plan with a multiple, or show it fewer devices")
        self._by_slot, replicated = slot_shardings(devices)
        self.model = teacher.model
        self.variables = jax.device_put(teacher.variables, replicated)
        self.step = compile_step(self.model)

    def __call__(self, units: Iterable[int]) -> Iterator[UnitReport]:
        """Returns reports of the units as they are published.

        Raises:
          ValueError: a shard is not the planned one.
          OSError: a file could not be written; nothing of its unit is published.
        """
        with concurrent.futures.ThreadPoolExecutor(_num_cores()) as pool:
            batches = stages.run_ahead(self._batches(units, pool), _AHEAD)
            results = stages.run_ahead(self._results(batches), _AHEAD)
            try:
                yield from self._reports(results)
            finally:
                results.close()

    def batches(self, units: Iterable[int]) -> Iterator[tuple[Frames, np.ndarray]]:
        """Returns the teacher's inputs for the units, (frames, restart) as numpy arrays, for measurements."""
        with concurrent.futures.ThreadPoolExecutor(_num_cores()) as pool:
            for batch in self._batches(units, pool):
                batch.wait()
                yield batch.frames, batch.restart

    def initial_state(self) -> Any:
        """Returns the state of streams that have seen nothing, on the devices."""
        state = self.model.initial_state(self.plan.config.slots)
        # Leaves may share an array, which cannot be donated twice.
        return self.put(jax.tree.map(jnp.copy, state))

    def put(self, arrays: Any) -> Any:
        """Returns the arrays of a batch on the devices, split by slots."""
        return jax.device_put(arrays, self._by_slot)

    def _batches(self, units: Iterable[int], pool: concurrent.futures.Executor) -> Iterator[source.Batch]:
        for unit in units:
            if self.publisher.path(unit).exists():
                yield source.Batch(unit=unit)
            else:
                yield from source.unit_batches(self.inputs, unit, pool)

    def _results(self, batches: Iterator[source.Batch]) -> Iterator[_Result]:
        state = self.initial_state()
        try:
            for batch in batches:
                if batch.frames is None:
                    yield batch, None
                    continue
                batch.wait()
                rows, state = self.step(self.variables, self.put(batch.frames), state, self.put(batch.restart))
                batch.frames = None  # frees the images
                yield batch, rows
        finally:
            batches.close()

    def _reports(self, results: Iterator[_Result]) -> Iterator[UnitReport]:
        rows, since = None, time.monotonic()
        for batch, outputs in results:
            if outputs is None:
                yield UnitReport(unit=batch.unit, num_frames=int(self.plan.units[batch.unit, 2]), published=False)
                continue
            if rows is None:
                rows = rows_lib.UnitRows(self.plan, batch.unit, self.inputs.entries)
            rows.add(batch, jax.device_get(outputs))
            if batch.last:
                report = self.publisher.publish(batch.unit, rows, time.monotonic() - since)
                rows, since = None, time.monotonic()
                yield report


def _step(
    model: PoseModel, variables: Any, frames: Frames, state: Any, restart: jax.Array
) -> tuple[dict[str, jax.Array], Any]:
    """Returns the rows (B, T, ...) of a batch by their names in LabelRun, and the next state."""
    state = base.reset(model, state, restart)
    predictions, state = model.apply(variables, frames, state, method="step")
    return rows_lib.as_rows(predictions), state


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
