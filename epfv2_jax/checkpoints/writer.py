"""Writes the checkpoints of a run and restores them.

Saving is asynchronous. A step that is not whole is moved aside, and the one before it is used.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from epfv2_jax.checkpoints import storage
from epfv2_jax.checkpoints.about import About, ForeignCheckpointError
from epfv2_jax.core import files, multihost

_log = logging.getLogger(__name__)


class CheckpointWriter:
    """Keeps the latest checkpoints of a run, to resume from, and the best one by a metric.

    Every process of a run has a writer, and all call its methods at the same time.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        about: About,
        keep: int = 2,
        changeable: tuple[str, ...] = (),
    ):
        """Opens (and makes) `directory`.

        Args:
          directory: shared by all processes.
          about: the description of the run.
          keep: number of latest checkpoints to keep.
          changeable: dotted keys, or groups of keys, of the run's configuration that may differ from a checkpoint's.
        """
        self._directory = files.resolve(directory)
        self._about, self._keep, self._changeable = about, keep, changeable
        self._latest = storage.Steps(self._directory / storage.LATEST, keep)
        self._best = storage.Steps(self._directory / storage.BEST, 1)
        self._best_step, self._best_value = None, None
        for step in storage.all_steps(self._best.directory)[:1]:
            try:
                self._check_whole(self._best, step)
                self._best_value = float(storage.read_meta(self._best.directory / str(step))["best_value"])
                self._best_step = step
            except Exception as error:  # a damaged file may raise anything
                consequence = "there is no best checkpoint until the next evaluation"
                self._best = self._set_aside(self._best, 1, {step: error}, consequence)

    def latest_step(self) -> int | None:
        """Returns the newest whole step, or None before the first."""
        return next(iter(storage.sealed_steps(self._latest.directory)), None)

    def save(self, step: int, state: Any, variables: Any, position: Mapping[str, Any]) -> None:
        """Starts saving `state`, the inference `variables` and the data `position` (JSON-ready) under `step`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            model=ocp.args.StandardSave(variables),
            meta=ocp.args.JsonSave({**self._about.to_meta(), "position": dict(position)}),
        )
        self._latest.save(step, args)

    def save_if_best(self, step: int, variables: Any, value: float, metrics: Mapping[str, float]) -> bool:
        """Returns whether `value` (lower is better) beats every earlier one; if so keeps the variables as the best."""
        if not np.isfinite(value) or (self._best_value is not None and value >= self._best_value):
            return False
        if self._best_step is not None and step <= self._best_step:
            self._best.wait()
            self._best.delete(self._best_step)
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(variables),
            meta=ocp.args.JsonSave({**self._about.to_meta(), "best_value": float(value), "metrics": dict(metrics)}),
        )
        self._best.save(step, args)
        self._best_step, self._best_value = step, float(value)
        return True

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Returns (state, meta) of the newest readable step, laid out as `abstract_state` (shapes, dtypes, shardings).

        The shardings are those of the current run, not of the run that saved the step. Steps that are not whole or
        cannot be read are moved to `damaged` next to the others, with a warning, once an older step has been read.

        Raises:
          ValueError: the checkpoint was made with another configuration (the message lists the keys that differ), or
            none can be read.
        """
        damaged: dict[int, Exception] = {}
        for step in storage.all_steps(self._latest.directory):
            try:
                self._check_experiment(step)
                self._check_whole(self._latest, step)
                meta = storage.read_meta(self._latest.directory / str(step))
                state = self._latest.restore_state(step, abstract_state)
            except ForeignCheckpointError:
                raise
            except Exception as error:  # a damaged file may raise anything
                damaged[step] = error
                continue
            if damaged:
                self._latest = self._set_aside(self._latest, self._keep, damaged, f"going back to step {step}")
            return state, meta
        reasons = "; ".join(f"step {step}: {_first_line(error)}" for step, error in damaged.items())
        raise ValueError(f"{self._latest.directory}: no checkpoint can be read ({reasons})") from next(
            iter(damaged.values()), None
        )

    def wait(self) -> None:
        """Waits until all that was saved is committed."""
        for steps in (self._latest, self._best):
            steps.wait()

    def close(self) -> None:
        """Waits as `wait` does and releases what Orbax holds."""
        for steps in (self._latest, self._best):
            steps.close()

    def _check_experiment(self, step: int) -> None:
        meta = storage.read_meta(self._latest.directory / str(step))
        about = About.from_meta(meta, f"{self._directory}: step {step}")
        differing = [
            (key, old, new)
            for key, old, new in about.differences(self._about)
            if not any(key == name or key.startswith(f"{name}.") for name in self._changeable)
        ]
        if differing:
            shown = "; ".join(f"{key}: checkpoint {old!r}, now {new!r}" for key, old, new in differing[:5])
            raise ForeignCheckpointError(
                f"{self._directory}: the checkpoint at step {step} was made with another configuration ({shown}); give "
                "the run another output_dir, or restore the old values"
            )

    def _check_whole(self, steps: storage.Steps, step: int) -> None:
        """Raises ValueError in all processes if the first finds that a step is not as it was written."""
        failure = ""
        if multihost.is_first():
            try:
                storage.verify(steps.directory / str(step))
            except (ValueError, OSError) as error:
                failure = _first_line(error)
        if multihost_utils.broadcast_one_to_all(np.asarray(bool(failure))):
            raise ValueError(failure or "process 0 finds it damaged")

    def _set_aside(
        self, steps: storage.Steps, keep: int, damaged: Mapping[int, Exception], consequence: str
    ) -> storage.Steps:
        """Moves the damaged steps aside and returns the others."""
        steps.close()
        for step, error in damaged.items():
            path = steps.directory / str(step)
            aside = self._directory / storage.DAMAGED / f"{steps.directory.name}_{step}"
            if multihost.is_first():
                _log.warning(
                    "checkpoint %s cannot be read (%s): moved to %s; %s", path, _first_line(error), aside, consequence
                )
                files.move_folder(path, aside)
        multihost_utils.sync_global_devices(f"set aside {steps.directory.name}")
        return storage.Steps(steps.directory, keep)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
