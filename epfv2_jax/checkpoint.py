"""Saving and restoring: the only module that knows Orbax.

A checkpoint is self-sufficient. Each step holds three items: `state` (the whole training state), `model` (just the
variables that inference needs, with averaged weights where training keeps an average) and `meta` (JSON: configuration,
package version, position in the data, metrics). Saving is asynchronous; a step counts only once Orbax has committed it.
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

import epfv2_jax
from epfv2_jax.core import config as config_lib
from epfv2_jax.models import epfv2

LATEST = "latest"
BEST = "best"


class CheckpointWriter:
    """Keeps the latest checkpoints of a run for resuming, and the best one by a metric for use."""

    def __init__(self, directory: str | pathlib.Path, experiment: Mapping[str, Any], keep: int = 2):
        """Opens (and makes) `directory`; `experiment` is the resolved configuration as a JSON-ready mapping."""
        self._directory = epath.Path(directory).resolve()
        self._experiment = dict(experiment)
        self._latest = _manager(self._directory / LATEST, keep)
        self._best = _manager(self._directory / BEST, 1)
        best_step = self._best.latest_step()
        self._best_value = None if best_step is None else _read_meta(self._best, best_step)["best_value"]

    def latest_step(self) -> int | None:
        """Returns the newest committed step, or None before the first."""
        return self._latest.latest_step()

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
        """Returns (state, meta) of the newest step, laid out as `abstract_state` (shapes, dtypes, today's shardings).

        Raises:
          ValueError: the checkpoint was made with another configuration; the message lists the keys that differ.
        """
        step = self._latest.latest_step()
        meta = _read_meta(self._latest, step)
        differing = differing_keys(meta["experiment"], self._experiment)
        if differing:
            shown = "; ".join(f"{key}: checkpoint {old!r}, now {new!r}" for key, old, new in differing[:5])
            raise ValueError(
                f"{self._directory}: the checkpoint at step {step} was made with another configuration ({shown}); give "
                "the run another output_dir, or restore the old values"
            )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._latest.restore(step, args=args)["state"], meta

    def close(self) -> None:
        """Waits for pending saves and releases the managers."""
        for manager in (self._latest, self._best):
            manager.wait_until_finished()
            manager.close()

    def _meta(self, **extra: Any) -> dict[str, Any]:
        return {"experiment": self._experiment, "version": epfv2_jax.__version__, **extra}


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
        with _manager(root / name, None) as manager:
            step = manager.latest_step()
            if step is None:
                continue
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


def read_item(path: str | pathlib.Path) -> Any:
    """Returns one item of a committed step (`.../STEP/model` or `.../STEP/state`) as a tree of numpy arrays."""
    path = epath.Path(path).resolve()
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(path).item_metadata.tree
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


def _read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
