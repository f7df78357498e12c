"""The training loop: feeds the compiled step, logs, evaluates, saves, and stops when numbers stop making sense."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from epfv2_jax import structs
from epfv2_jax.checkpoint import CheckpointWriter
from epfv2_jax.training import report, sharding
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
    step_fn: Callable[[TrainState, structs.Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[structs.Batch],
    key: jax.Array,
    mesh: Mesh,
    steps: int,
    config: LoopConfig,
    checkpoints: CheckpointWriter,
    evaluate: Callable[[Any], dict[str, float]],
    describe_clip: Callable[[int], str],
    directory: pathlib.Path,
) -> TrainState:
    """Returns the state after `steps` steps, starting from `state.step`; `batches` must start at that step.

    `evaluate` maps inference variables to metrics, of which `mpjpe_cm` chooses the best checkpoint. `describe_clip`
    names a clip of the data set by its `clip_id`.

    Raises:
      NonFiniteError: more than `max_skipped_in_a_row` steps in a row were not finite; the clips are in skipped.jsonl.
    """
    start = int(state.step)
    log = report.RunLog(directory, start, config.tensorboard)
    window, pending = _Window(), []

    def settle(keep: int) -> None:
        """Takes note of all but the newest `keep` steps; waits for them to be computed."""
        while len(pending) > keep:
            step, clip_ids, metrics, wait_s = pending.pop(0)
            metrics = jax.device_get(metrics)
            window.add(metrics, wait_s)
            if metrics["skipped_in_a_row"]:
                log.skipped(step, [describe_clip(int(i)) for i in np.asarray(clip_ids)])
                _check_skipped(int(metrics["skipped_in_a_row"]), step, config, directory)
            bar.update()

    with contextlib.closing(log), tqdm.tqdm(total=steps, initial=start, desc="train", unit="step") as bar:
        batch, wait_s = _next(batches)
        for step in range(start + 1, steps + 1):
            clip_ids = batch.clip_id
            state, metrics = step_fn(state, sharding.put_batch(batch, mesh), key)
            if step < steps:
                batch, wait_s = _next(batches)  # while the devices compute
            pending.append((step, clip_ids, metrics, wait_s))
            logs, evaluates, saves = (
                _due(step, every, steps) for every in (config.log_every, config.evaluate_every, config.checkpoint_every)
            )
            # One step stays unread, so that the devices have the next before the host looks at the last.
            settle(0 if logs or evaluates or saves else 1)
            if logs:
                values = window.summary()
                log.scalars(step, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}", wait=f"{values['data_wait_share']:.1%}")
                window = _Window()
            if evaluates:
                variables = inference_variables(state)
                result = evaluate(variables)
                log.scalars(step, {f"validation/{name}": value for name, value in result.items()})
                checkpoints.save_if_best(step, variables, result["mpjpe_cm"], result)
                bar.write(f"step {step}: validation MPJPE {result['mpjpe_cm']:.2f} cm")
                window.restart_clock()
            if saves:
                checkpoints.save(step, state, inference_variables(state), {"next_step": step})
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


def _next(batches: Iterator[structs.Batch]) -> tuple[structs.Batch, float]:
    clock = time.perf_counter()
    batch = next(batches)
    return batch, time.perf_counter() - clock


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _check_skipped(in_a_row: int, step: int, config: LoopConfig, directory: pathlib.Path) -> None:
    if in_a_row > config.max_skipped_in_a_row:
        raise NonFiniteError(
            f"step {step}: {in_a_row} steps in a row had a non-finite loss or gradient (loop.max_skipped_in_a_row = "
            f"{config.max_skipped_in_a_row}); their clips are listed in {directory / 'skipped.jsonl'}; look at those "
            "clips, or lower optimizer.learning_rate"
        )
