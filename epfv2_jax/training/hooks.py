"""What a run does beside its steps: log, evaluate, save, profile. Each hook is called after steps at which it is due.

Metrics stay on the devices until they are fetched, one step late, so that the devices never wait for the host.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
import tqdm

from epfv2_jax.checkpoints import CheckpointWriter
from epfv2_jax.core import checks, files
from epfv2_jax.profiling.goodput import Goodput
from epfv2_jax.training.log import RunLog
from epfv2_jax.training.state import TrainState, inference_variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Cadences, in steps; 0 switches a thing off (the last step is always saved and evaluated). And how to compile."""

    log_every: int = 20  # a line of metrics.jsonl
    evaluate_every: int = 500  # a score on the validation split
    checkpoint_every: int = 500  # the state to resume from
    max_skipped_in_a_row: int = 10  # non-finite steps in a row after which the run stops
    tensorboard: bool = False  # write metrics for TensorBoard too; the extra of that name
    compiler_options: tuple[str, ...] = ()  # of XLA for the train step: NAME=VALUE, as in XLA_FLAGS without the dashes

    def __post_init__(self):
        checks.at_least(0, evaluate_every=self.evaluate_every, checkpoint_every=self.checkpoint_every)
        checks.at_least(1, log_every=self.log_every, max_skipped_in_a_row=self.max_skipped_in_a_row)
        for option in self.compiler_options:
            if "=" not in option or option.startswith("-"):
                raise ValueError(
                    f"compiler_options: {option!r} is not NAME=VALUE; write it like xla_cpu_use_onednn=true"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """A step that has just been dispatched, and its place in the run."""

    step: int
    start: int  # the step that the run resumed after
    last: int  # the step that the run ends with
    stopping: bool  # the run was told to stop after this step

    def every(self, steps: int) -> bool:
        """Returns whether something is due that happens every so many steps (0: never) and after the last one."""
        return self.step == self.last or (steps > 0 and self.step % steps == 0)


class Hook(Protocol):
    """Something that a run does after some of its steps."""

    def due(self, moment: Moment) -> bool:
        """Returns whether `__call__` is wanted now. All processes of a run must say the same."""

    def __call__(self, moment: Moment, state: TrainState, metrics: "Meter") -> None:
        """Acts after a step. All earlier metrics have been fetched."""


class Meter:
    """Collects the metrics of the steps since the last log line."""

    def __init__(self):
        self._values: list[dict[str, Any]] = []
        self._wait_s = self._seconds = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the time per step."""
        self._clock = time.perf_counter()

    def add(self, metrics: dict[str, Any], wait_s: float) -> None:
        """Adds the fetched metrics of a step, before which the loop waited `wait_s` for its batch."""
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self._wait_s += wait_s
        self._values.append(metrics)

    def counted(self) -> bool:
        """Returns whether any term of any step counted something; True where no step has terms."""
        counts = [value[1] for m in self._values for value in m.values() if isinstance(value, tuple)]
        return not counts or any(counts)

    def take(self) -> dict[str, float]:
        """Returns the means of the finite steps (terms as sum / count), seconds a step and the share spent waiting.

        Starts a new window.
        """
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
        self.__init__()
        return result


@dataclasses.dataclass(frozen=True)
class Log:
    """Writes the means since the last line, and the learning rate of the last update, to the log and beside the bar."""

    every: int
    log: RunLog
    bar: tqdm.tqdm
    learning_rate: Callable[[int], Any]  # of an update, by the number of updates before it

    def due(self, moment: Moment) -> bool:
        return moment.every(self.every)

    def __call__(self, moment: Moment, state: TrainState, metrics: Meter) -> None:
        if not metrics.counted():
            raise ValueError(
                f"no joint of the {self.every} batches before step {moment.step} has a true position, so there is "
                "nothing to learn; check joint_valid in the training split's records"
            )
        values = metrics.take()
        updates = moment.step - values["skipped"]  # a skipped step does not advance the schedule
        values["learning_rate"] = float(self.learning_rate(max(updates - 1, 0)))
        self.log.scalars(moment.step, values)
        self.bar.set_postfix(loss=f"{values['loss']:.3f}", wait=f"{values['data_wait_share']:.1%}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Scores the averaged weights on the validation split and keeps them where they are the best so far."""

    every: int
    evaluate: Callable[[Any], dict[str, float]]  # inference variables -> metrics, of which mpjpe_cm chooses the best
    checkpoints: CheckpointWriter
    log: RunLog
    bar: tqdm.tqdm
    goodput: Goodput

    def due(self, moment: Moment) -> bool:
        return moment.every(self.every) and not moment.stopping

    def __call__(self, moment: Moment, state: TrainState, metrics: Meter) -> None:
        with self.goodput.time("evaluation"):
            variables = inference_variables(state)
            found = self.evaluate(variables)
        self.log.scalars(moment.step, {f"validation/{name}": value for name, value in found.items()})
        with self.goodput.time("checkpoint"):
            self.checkpoints.save_if_best(moment.step, variables, found["mpjpe_cm"], found)
        self.bar.write(f"step {moment.step}: validation MPJPE {found['mpjpe_cm']:.2f} cm")
        metrics.restart_clock()


@dataclasses.dataclass(frozen=True)
class Save:
    """Saves the whole state, to resume from."""

    every: int
    checkpoints: CheckpointWriter
    goodput: Goodput

    def due(self, moment: Moment) -> bool:
        return moment.every(self.every) or moment.stopping

    def __call__(self, moment: Moment, state: TrainState, metrics: Meter) -> None:
        with self.goodput.time("checkpoint"):
            self.checkpoints.save(moment.step, state, inference_variables(state), {"next_step": moment.step})
            if moment.step == moment.last or moment.stopping:
                self.checkpoints.wait()


class Profile:
    """Writes a trace of `steps` steps, from the third after the start of the run. Close it: a run may end before."""

    def __init__(self, steps: int, directory: os.PathLike):
        self._steps, self._directory = steps, directory
        self._trace = contextlib.ExitStack()

    def due(self, moment: Moment) -> bool:
        return self._steps > 0 and moment.step in (moment.start + 2, moment.start + 2 + self._steps)

    def __call__(self, moment: Moment, state: TrainState, metrics: Meter) -> None:
        if moment.step == moment.start + 2:
            own = self._trace.enter_context(files.filling(self._directory))
            self._trace.enter_context(jax.profiler.trace(os.fspath(own)))
            return
        jax.block_until_ready(state)
        self.close()

    def close(self) -> None:
        """Ends the trace, if one is being written."""
        self._trace.close()
