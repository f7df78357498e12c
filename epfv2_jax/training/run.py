"""A training run: `Run` holds all that it needs, `fit` goes through its steps. All processes go through it alike."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator
from concurrent import futures
from typing import Any

import jax
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from epfv2_jax import structs
from epfv2_jax.core import compiler, multihost, sharding
from epfv2_jax.profiling.goodput import Goodput
from epfv2_jax.training.hooks import Hook, LoopConfig, Meter, Moment
from epfv2_jax.training.log import RunLog
from epfv2_jax.training.state import TrainState


class NonFiniteError(FloatingPointError):
    """Training stopped because too many steps in a row had a non-finite loss or gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """The batches of a run."""

    batches: Generator[Any, None, None]  # numpy, this process's share; `label` makes a `structs.Batch` of each
    label: Callable[[Any], structs.Batch]  # on the devices, before the step: a teacher or a renderer, or nothing
    describe_clip: Callable[[int], str]  # names a clip by its `clip_id`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run, built once. Use it as a context manager: files and readers close at its end."""

    steps: int  # the step that it ends with
    state: TrainState  # that it starts from, fresh or restored
    step_fn: jax.stages.Wrapped  # the jitted train step
    key: jax.Array  # the root key
    mesh: Mesh
    stream: Stream  # from `state.step` on
    hooks: tuple[Hook, ...]
    log: RunLog
    bar: tqdm.tqdm
    goodput: Goodput
    stop_after: Callable[[int], bool]  # asked after each step; all processes get the same answer
    loop: LoopConfig
    resources: contextlib.ExitStack

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.resources.__exit__(*exception)


def fit(run: Run) -> TrainState:
    """Returns the state after the last step.

    Raises:
      Preempted: the run was told to stop; the state is saved.
      NonFiniteError: too many steps in a row were not finite; their clips are in skipped.jsonl.
    """
    state, start = run.state, int(run.state.step)
    pending, compiled = _Pending(run), {}
    # JAX runs in turn what one thread dispatches to a CPU. From another thread, batches are rendered there beside the
    # step. It is waited for, so all processes dispatch in the same order.
    beside = run.resources.enter_context(futures.ThreadPoolExecutor(1))
    arrays, wait_s = _next_batch(run, beside) if start < run.steps else (None, 0.0)
    run.goodput.begin()
    for step in range(start + 1, run.steps + 1):
        if (shape := tuple(leaf.shape for leaf in jax.tree.leaves(arrays))) not in compiled:
            compiled[shape] = _compile(run, state, arrays)
            pending.metrics.restart_clock()
        state, metrics = compiled[shape](state, arrays, run.key)
        pending.add(step, arrays.clip_id, metrics, wait_s)
        stopping = run.stop_after(step) and step < run.steps
        if step < run.steps and not stopping:
            arrays, wait_s = _next_batch(run, beside)  # while the devices compute

        moment = Moment(step=step, start=start, last=run.steps, stopping=stopping)
        due = [hook for hook in run.hooks if hook.due(moment)]
        # One step stays on the devices, so that they have the next before the host looks at the last.
        pending.fetch(keep=0 if due else 1)
        for hook in due:
            hook(moment, state, pending.metrics)
        if due or step == start + 1:
            run.goodput.close_window(step)
        if stopping:
            raise multihost.Preempted(f"told to stop: the state after step {step} of {run.steps} is saved")
    return state


class _Pending:
    """Steps whose metrics are still on the devices."""

    def __init__(self, run: Run):
        self.metrics = Meter()
        self._run, self._steps = run, []

    def add(self, step: int, clip_ids: jax.Array, metrics: dict[str, Any], wait_s: float) -> None:
        self._steps.append((step, clip_ids, metrics, wait_s))

    def fetch(self, keep: int) -> None:
        """Fetches the metrics of all but the newest `keep` steps; waits for them to be computed."""
        while len(self._steps) > keep:
            step, clip_ids, metrics, wait_s = self._steps.pop(0)
            metrics = jax.device_get(metrics)
            self.metrics.add(metrics, wait_s)
            if metrics["skipped_in_a_row"]:
                self._note_skipped(step, clip_ids, int(metrics["skipped_in_a_row"]))
            self._run.bar.update()

    def _note_skipped(self, step: int, clip_ids: jax.Array, in_a_row: int) -> None:
        run = self._run
        clip_ids = multihost_utils.process_allgather(clip_ids, tiled=True)
        run.log.skipped(step, [run.stream.describe_clip(int(i)) for i in clip_ids])
        if in_a_row > run.loop.max_skipped_in_a_row:
            raise NonFiniteError(
                f"step {step}: {in_a_row} steps in a row had a non-finite loss or gradient (loop.max_skipped_in_a_row "
                f"= {run.loop.max_skipped_in_a_row}); their clips are listed in {run.log.skipped_path}; look at those "
                "clips, or lower optimizer.learning_rate"
            )


def _next_batch(run: Run, beside: futures.Executor) -> tuple[structs.Batch, float]:
    """Returns the next batch, labelled from another thread, and the seconds that the host waited for its data."""
    clock = time.perf_counter()
    with run.goodput.time("data_wait"):
        batch = next(run.stream.batches)
    wait_s = time.perf_counter() - clock
    return beside.submit(run.stream.label, sharding.put_batch(batch, run.mesh)).result(), wait_s


def _compile(run: Run, state: TrainState, batch: structs.Batch) -> jax.stages.Compiled:
    with run.goodput.time("compile"):
        compiled = compiler.compile_step(run.step_fn.lower(state, batch, run.key), run.loop.compiler_options)
    run.goodput.compiled(compiled)
    return compiled
