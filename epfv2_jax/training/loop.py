"""The training loop: feeds the compiled step, logs, evaluates, saves, and stops when it is told to.

All processes of a run go through it alike; only the first writes logs.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from epfv2_jax import structs
from epfv2_jax.checkpoints.checkpoint import CheckpointWriter
from epfv2_jax.core import multihost
from epfv2_jax.profiling.goodput import Ledger
from epfv2_jax.training import log as report
from epfv2_jax.training import sharding
from epfv2_jax.training.state import TrainState, inference_variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Cadences, in steps; 0 switches a thing off (the last step is always saved and evaluated)."""

    log_every: int = 20
    evaluate_every: int = 500
    checkpoint_every: int = 500
    max_skipped_in_a_row: int = 10  # non-finite steps in a row after which the run stops
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("log_every", "max_skipped_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class NonFiniteError(RuntimeError):
    """Training stopped because too many steps in a row had a non-finite loss or gradient."""


def run(
    *,
    state: TrainState,
    step_fn: jax.stages.Wrapped,
    batches: Iterator[structs.Batch],
    label: Callable[[structs.Batch], structs.Batch],
    key: jax.Array,
    mesh: Mesh,
    steps: int,
    config: LoopConfig,
    checkpoints: CheckpointWriter,
    evaluate: Callable[[Any], dict[str, float]],
    describe_clip: Callable[[int], str],
    directory: pathlib.Path,
    ledger: Ledger,
    stop_after: Callable[[int], bool],
    profile_steps: int = 0,
) -> TrainState:
    """Returns the state after `steps` steps, starting from `state.step`; `batches` must start at that step.

    `step_fn` is the jitted train step, `label` what happens to a batch on the devices before it. `evaluate` maps
    inference variables to metrics, of which `mpjpe_cm` chooses the best checkpoint. `describe_clip` names a clip of the
    data set by its `clip_id`. `stop_after` is asked after each step and must say the same in all processes. A trace of
    the third to the (2 + `profile_steps`)-th step is written below `directory`/profile.

    Raises:
      Preempted: `stop_after` said so; the state is saved.
      NonFiniteError: more than `max_skipped_in_a_row` steps in a row were not finite; the clips are in skipped.jsonl.
    """
    start = int(state.step)
    main = multihost.is_first()
    log = report.RunLog(directory, start, config.tensorboard and main, active=main)
    window, pending = _Window(), []

    def settle(keep: int) -> None:
        """Takes note of all but the newest `keep` steps; waits for them to be computed."""
        while len(pending) > keep:
            step, clip_ids, metrics, wait_s = pending.pop(0)
            metrics = jax.device_get(metrics)
            window.add(metrics, wait_s)
            if metrics["skipped_in_a_row"]:
                clip_ids = multihost_utils.process_allgather(clip_ids, tiled=True)
                log.skipped(step, [describe_clip(int(i)) for i in clip_ids])
                _check_skipped(int(metrics["skipped_in_a_row"]), step, config, directory)
            bar.update()

    def next_batch() -> tuple[structs.Batch, float]:
        clock = time.perf_counter()
        with ledger.time("data_wait"):
            batch = next(batches)
        return batch, time.perf_counter() - clock

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(log))
        bar = stack.enter_context(tqdm.tqdm(total=steps, initial=start, desc="train", unit="step", disable=not main))
        profile = stack.enter_context(contextlib.ExitStack())
        batch, wait_s = next_batch() if start < steps else (None, 0.0)
        compiled = None
        ledger.begin()
        for step in range(start + 1, steps + 1):
            arrays = label(sharding.put_batch(batch, mesh))
            if compiled is None:
                with ledger.time("compile"):
                    compiled = step_fn.lower(state, arrays, key).compile()
                ledger.compiled(compiled)
                window.restart_clock()
            if profile_steps and step == start + 3:
                profile.enter_context(jax.profiler.trace(str(directory / "profile")))
            state, metrics = compiled(state, arrays, key)
            pending.append((step, arrays.clip_id, metrics, wait_s))
            if step < steps:
                batch, wait_s = next_batch()  # while the devices compute
            told_to_stop = stop_after(step) and step < steps
            logs, evaluates, saves = (
                _due(step, every, steps) for every in (config.log_every, config.evaluate_every, config.checkpoint_every)
            )
            # One step stays unread, so that the devices have the next before the host looks at the last.
            settle(0 if logs or evaluates or saves or told_to_stop else 1)
            if logs:
                values = window.summary()
                log.scalars(step, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}", wait=f"{values['data_wait_share']:.1%}")
                window = _Window()
            if evaluates and not told_to_stop:
                with ledger.time("evaluation"):
                    variables = inference_variables(state)
                    result = evaluate(variables)
                log.scalars(step, {f"validation/{name}": value for name, value in result.items()})
                with ledger.time("checkpoint"):
                    checkpoints.save_if_best(step, variables, result["mpjpe_cm"], result)
                bar.write(f"step {step}: validation MPJPE {result['mpjpe_cm']:.2f} cm")
                window.restart_clock()
            if saves or told_to_stop:
                with ledger.time("checkpoint"):
                    checkpoints.save(step, state, inference_variables(state), {"next_step": step})
                    if step == steps or told_to_stop:
                        checkpoints.wait()
            if logs or evaluates or saves or told_to_stop or step == start + 1:
                ledger.close_window(step)
            if told_to_stop:
                raise multihost.Preempted(f"told to stop: the state after step {step} of {steps} is saved")
            if profile_steps and step == start + 2 + profile_steps:
                jax.block_until_ready(state)
                profile.close()
    return state


class _Window:
    """Means of the steps since the last log line."""

    def __init__(self):
        self._values, self._wait_s, self._seconds = [], 0.0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()

    def add(self, metrics: dict[str, Any], wait_s: float) -> None:
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self._wait_s += wait_s
        self._values.append(metrics)

    def summary(self) -> dict[str, float]:
        """Returns terms as sum / count over the finite steps, seconds a step and the share spent waiting for data."""
        finite = [m for m in self._values if not m["skipped_in_a_row"]]
        result = {"skipped": int(self._values[-1]["skipped"])}
        for name in self._values[0]:
            if name in ("skipped", "skipped_in_a_row"):
                continue
            values = [m[name] for m in finite]
            if isinstance(self._values[0][name], tuple):
                total, count = (float(np.sum([v[i] for v in values])) for i in (0, 1))
                result[name] = total / count if count else float("nan")
            else:
                result[name] = float(np.mean(values)) if values else float("nan")
        result["step_s"] = self._seconds / len(self._values)
        result["data_wait_share"] = self._wait_s / max(self._seconds, 1e-9)
        return result


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _check_skipped(in_a_row: int, step: int, config: LoopConfig, directory: pathlib.Path) -> None:
    if in_a_row > config.max_skipped_in_a_row:
        raise NonFiniteError(
            f"step {step}: {in_a_row} steps in a row had a non-finite loss or gradient (loop.max_skipped_in_a_row = "
            f"{config.max_skipped_in_a_row}); their clips are listed in {directory / 'skipped.jsonl'}; look at those "
            "clips, or lower optimizer.learning_rate"
        )
