"""The layout of a step on disk: items, commit markers, managers.

Each step holds three items: `state` (the whole training state), `model` (the variables that inference needs, averaged
if training keeps an average) and `meta` (JSON). A step counts once Orbax has committed it, which a marker file shows.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

LATEST = "latest"
BEST = "best"
DAMAGED = "damaged"
COMMIT_MARKER = "commit_success.txt"


def open_manager(directory: epath.Path, keep: int | None) -> ocp.CheckpointManager:
    """Returns a manager of the steps in `directory` that keeps the newest `keep` (None: all)."""
    logging.getLogger("absl").setLevel(logging.WARNING)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    return ocp.CheckpointManager(directory, options=options, item_names=("state", "model", "meta"))


def committed_steps(directory: epath.Path) -> set[int]:
    """Returns the steps in `directory` that were written completely."""
    # Orbax below 0.12 renames a finished step and writes no marker.
    steps = {int(p.name): (p / COMMIT_MARKER).exists() for p in directory.glob("*") if p.name.isdigit()}
    marked = {step for step, has_marker in steps.items() if has_marker}
    return marked or set(steps)


def read_meta(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Returns the item `meta` of a step."""
    return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]


def read_item(path: str | pathlib.Path, alone: bool = False) -> Any:
    """Returns one item of a committed step (`.../STEP/model` or `.../STEP/state`) as a tree of numpy arrays.

    With `alone` only this process reads; without it, all processes of the run must call this at the same time.
    """
    path = epath.Path(path).resolve()
    options = ocp.options.MultiprocessingOptions()
    if alone:
        index = jax.process_index()
        options = ocp.options.MultiprocessingOptions(
            primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"alone_{index}"
        )
    # The checkpointer's own `metadata` would warn that an item is not a complete checkpoint.
    saved = ocp.StandardCheckpointHandler(multiprocessing_options=options).metadata(path).tree
    with ocp.StandardCheckpointer(multiprocessing_options=options) as reader:
        return reader.restore(path, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved))
