"""Saving and restoring: the only module that knows Orbax.

A checkpoint is self-sufficient. Each step holds three items: `state` (the whole training state), `model` (just the
variables that inference needs, with averaged weights where training keeps an average) and `meta` (JSON: configuration,
package version, position in the data, metrics). Saving is asynchronous; a step counts only once Orbax has committed it,
which a marker in its directory shows. What cannot be read for all that is set aside, and the one before it used.
"""

import logging
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

import epfv2_jax
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import multihost
from epfv2_jax.models.epfv2 import model as epfv2

LATEST = "latest"
BEST = "best"
DAMAGED = "damaged"
_COMMIT_MARKER = "commit_success.txt"

_log = logging.getLogger(__name__)


class CheckpointWriter:
    """Keeps the latest checkpoints of a run for resuming, and the best one by a metric for use.

    All processes of a run have one and call its methods at the same time.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        experiment: Mapping[str, Any],
        keep: int = 2,
        changeable: tuple[str, ...] = (),
    ):
        """Opens (and makes) `directory`.

        Args:
          directory: that all processes reach.
          experiment: the resolved configuration as a JSON-ready mapping.
          keep: number of the latest checkpoints that are kept.
          changeable: dotted keys, or groups of keys, of `experiment` that may differ from a checkpoint's.
        """
        self._directory = epath.Path(directory).resolve()
        self._experiment, self._keep, self._changeable = dict(experiment), keep, changeable
        self._latest = _manager(self._directory / LATEST, keep)
        self._best = _manager(self._directory / BEST, 1)
        self._best_value = None
        try:
            if (step := self._best.latest_step()) is not None:
                self._best_value = _read_meta(self._best, step)["best_value"]
        except Exception as error:  # whatever a damaged file makes of it
            consequence = "there is no best one until the next evaluation"
            self._best = self._set_aside(self._best, BEST, {step: error}, consequence)

    def latest_step(self) -> int | None:
        """Returns the newest committed step, or None before the first."""
        return max(_committed_steps(self._directory / LATEST), default=None)

    def save(self, step: int, state: Any, variables: Any, position: Mapping[str, Any]) -> None:
        """Starts saving `state`, the inference `variables` and the data `position` (JSON-ready) under `step`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            model=ocp.args.StandardSave(variables),
            meta=ocp.args.JsonSave(self._meta(position=dict(position))),
        )
        self._latest.save(step, args=args, force=True)

    def save_if_best(self, step: int, variables: Any, value: float, metrics: Mapping[str, float]) -> bool:
        """Returns whether `value` (lower is better) beats every earlier one; if so keeps the variables as the best."""
        if not np.isfinite(value) or (self._best_value is not None and value >= self._best_value):
            return False
        if self._best.latest_step() is not None and step <= self._best.latest_step():
            self._best.delete(self._best.latest_step())
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(variables),
            meta=ocp.args.JsonSave(self._meta(best_value=float(value), metrics=dict(metrics))),
        )
        self._best.save(step, args=args, force=True)
        self._best_value = float(value)
        return True

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Returns (state, meta) of the newest whole step, laid out as `abstract_state` (shapes, dtypes, shardings).

        The shardings are today's: the processes and devices that saved it do not matter. Steps that were not committed
        or cannot be read are moved to `damaged` beside the others, with a warning, once an older one has been read.

        Raises:
          ValueError: the checkpoint was made with another configuration (the message lists the keys that differ), or
            none can be read.
        """
        committed = _committed_steps(self._directory / LATEST)
        damaged: dict[int, Exception] = {}
        for step in sorted(self._latest.all_steps(), reverse=True):
            try:
                if step not in committed:
                    raise ValueError(f"{_COMMIT_MARKER} is missing: it was not written to its end")
                meta = _read_meta(self._latest, step)
                self._check_experiment(step, meta)
                _try_reading(self._directory / LATEST / str(step) / "state")
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
                state = self._latest.restore(step, args=args)["state"]
            except _OtherExperimentError:
                raise
            except Exception as error:  # whatever a damaged file makes of it
                damaged[step] = error
                continue
            if damaged:
                self._latest = self._set_aside(self._latest, LATEST, damaged, f"going back to step {step}")
            return state, meta
        reasons = "; ".join(f"step {step}: {_first_line(error)}" for step, error in damaged.items())
        raise ValueError(f"{self._directory / LATEST}: no checkpoint can be read ({reasons})") from next(
            iter(damaged.values()), None
        )

    def wait(self) -> None:
        """Waits until all that was saved is committed."""
        for manager in (self._latest, self._best):
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits for pending saves and releases the managers."""
        self.wait()
        for manager in (self._latest, self._best):
            manager.close()

    def _check_experiment(self, step: int, meta: Mapping[str, Any]) -> None:
        differing = [
            (key, old, new)
            for key, old, new in differing_keys(meta["experiment"], self._experiment)
            if not any(key == name or key.startswith(f"{name}.") for name in self._changeable)
        ]
        if differing:
            shown = "; ".join(f"{key}: checkpoint {old!r}, now {new!r}" for key, old, new in differing[:5])
            raise _OtherExperimentError(
                f"{self._directory}: the checkpoint at step {step} was made with another configuration ({shown}); give "
                "the run another output_dir, or restore the old values"
            )

    def _set_aside(
        self, manager: ocp.CheckpointManager, name: str, damaged: Mapping[int, Exception], consequence: str
    ) -> ocp.CheckpointManager:
        """Moves the damaged steps out of the way and returns a manager that has not seen them."""
        manager.close()
        for step, error in damaged.items():
            path = self._directory / name / str(step)
            aside = self._directory / DAMAGED / f"{name}_{step}"
            if multihost.is_first():
                _log.warning(
                    "checkpoint %s cannot be read (%s): moved to %s; %s", path, _first_line(error), aside, consequence
                )
                aside.parent.mkdir(exist_ok=True)
                if aside.exists():
                    aside.rmtree()
                path.rename(aside)
        multihost_utils.sync_global_devices(f"set aside {name}")
        return _manager(self._directory / name, self._keep if name == LATEST else 1)

    def _meta(self, **extra: Any) -> dict[str, Any]:
        return {"experiment": self._experiment, "version": epfv2_jax.__version__, **extra}


class _OtherExperimentError(ValueError):
    """The checkpoint is fine, but not this run's."""


def load_model(directory: str | pathlib.Path) -> tuple[epfv2.EPFv2, Any, dict[str, Any]]:
    """Returns (model, variables, meta) from a run's directory, on the host as numpy arrays.

    The best checkpoint is used where there is one, else the latest. No mesh, optimizer, data set or flag is needed.

    Raises:
      ValueError: there is no committed checkpoint in `directory`.
    """
    root = epath.Path(directory).resolve()
    for name in (BEST, LATEST):
        if not (root / name).exists():
            continue
        step = max(_committed_steps(root / name), default=None)
        if step is None:
            continue
        with _manager(root / name, None) as manager:
            meta = _read_meta(manager, step)
        variables = read_item(root / name / str(step) / "model")
        model_config = config_lib.from_mapping(epfv2.ModelConfig, meta["experiment"]["model"], "model")
        return epfv2.EPFv2(model_config), variables, {**meta, "step": step, "kind": name}
    raise ValueError(
        f"{root}: no checkpoint here (looked for committed steps in {BEST}/ and {LATEST}/); give the directory that "
        "training wrote its checkpoints to"
    )


def save_encoder(
    directory: str | pathlib.Path, name: str, variables: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes an encoder's variables and `meta` (JSON-ready: where they came from) under its registered `name`.

    All is written beside `directory` and renamed at the end, so that `directory` is whole or absent.

    Raises:
      ValueError: `directory` exists.
    """
    root = epath.Path(directory).resolve()
    if root.exists():
        raise ValueError(f"{root}: exists, and nothing is overwritten; give a new directory, or remove this one")
    meta = {"encoder": name, "version": epfv2_jax.__version__, **meta}
    args = ocp.args.Composite(model=ocp.args.StandardSave(variables), meta=ocp.args.JsonSave(meta))
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        unfinished = epath.Path(scratch) / root.name
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(unfinished, args=args)
        unfinished.rename(root)


def load_encoder(directory: str | pathlib.Path) -> tuple[str, Any, dict[str, Any]]:
    """Returns (name, variables as numpy arrays, meta) of an encoder that `save_encoder` wrote.

    Raises:
      ValueError: there is none in `directory`.
    """
    root = epath.Path(directory).resolve()
    if not ((root / "model").exists() and (root / "meta").exists()):
        raise ValueError(f"{root}: no imported encoder here; give the directory that import_weights wrote")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        meta = reader.restore(root, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    return meta["encoder"], read_item(root / "model"), meta


def read_item(path: str | pathlib.Path, alone: bool = False) -> Any:
    """Returns one item of a committed step (`.../STEP/model` or `.../STEP/state`) as a tree of numpy arrays.

    With `alone` this process reads and no other; without it, all processes of a run do so at the same time.
    """
    path = epath.Path(path).resolve()
    options = ocp.options.MultiprocessingOptions()
    if alone:
        index = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"alone_{index}"
        )
    # Asked through the checkpointer, the metadata come with a warning that an item is not a checkpoint of its own.
    saved = ocp.StandardCheckpointHandler(multiprocessing_options=options).metadata(path).tree
    with ocp.StandardCheckpointer(multiprocessing_options=options) as reader:
        return reader.restore(path, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved))


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) of every leaf in which two nested mappings differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differing_keys(a, b, f"{path}{key}.")
        elif a != b:
            found.append((f"{path}{key}", a, b))
    return found


def _manager(directory: epath.Path, keep: int | None) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.WARNING)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    return ocp.CheckpointManager(directory, options=options, item_names=("state", "model", "meta"))


def _committed_steps(directory: epath.Path) -> set[int]:
    """The steps in `directory` that were written to their end; Orbax below 0.12 renames them then and marks none."""
    steps = {int(p.name): (p / _COMMIT_MARKER).exists() for p in directory.glob("*") if p.name.isdigit()}
    marked = {step for step, has_marker in steps.items() if has_marker}
    return marked or set(steps)


def _try_reading(item: epath.Path) -> None:
    """Raises in all processes if the first cannot read `item`: one that fails alone would leave the others waiting."""
    if jax.process_count() == 1:
        return  # restoring itself tells
    failure = ""
    if multihost.is_first():
        try:
            read_item(item, alone=True)
        except Exception as error:  # whatever a damaged file makes of it
            failure = _first_line(error) or type(error).__name__
    if multihost_utils.broadcast_one_to_all(np.asarray(bool(failure))):
        raise ValueError(failure or "process 0 cannot read it")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def _read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
