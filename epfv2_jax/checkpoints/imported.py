"""Imported weights: of an encoder, or of a whole model. Training starts from either; the second is a checkpoint too."""

import os
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

import epfv2_jax
from epfv2_jax.checkpoints import storage
from epfv2_jax.checkpoints.about import About
from epfv2_jax.core import checks, files


def save_encoder(
    directory: str | os.PathLike, name: str, variables: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes an encoder's variables and `meta` (JSON-ready: where they came from) under its registered `name`.

    Raises:
      ValueError: `directory` exists.
    """
    _save(directory, "", variables, {"encoder": name, "version": epfv2_jax.__version__, **meta})


def save_model(
    directory: str | os.PathLike, about: About, variables: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes a model's variables and `meta` (JSON-ready: where they came from) as the checkpoint of a run.

    Raises:
      ValueError: `directory` exists.
    """
    _save(directory, f"checkpoints/{storage.BEST}/0", variables, {**about.to_meta(), **meta})


def _save(directory: str | os.PathLike, inner: str, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes the items `model` and `meta` to the folder `inner` of `directory`.

    On disk everything is written next to `directory` and renamed at the end, so that `directory` is complete or absent.
    """
    root = files.new_folder(directory)
    args = ocp.args.Composite(model=ocp.args.StandardSave(variables), meta=ocp.args.JsonSave(meta))
    with files.publishing(root) as own:
        unfinished = files.resolve(own) / inner
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
            writer.save(unfinished, args=args)
        storage.seal(unfinished, sorted(path.name for path in unfinished.iterdir()))


def load_encoder(directory: str | os.PathLike) -> tuple[str, Any, dict[str, Any]]:
    """Returns (name, variables as numpy arrays, meta) of an encoder that `save_encoder` wrote.

    Raises:
      ValueError: `directory` holds no imported encoder, or one that has changed since it was written.
    """
    root = files.resolve(directory)
    if not ((root / "model").exists() and (root / "meta").exists()):
        raise ValueError(f"{root}: no imported encoder here; give the directory that import_weights wrote")
    with checks.naming(os.fspath(root), remedy="import the weights again"):
        storage.verify(root)
    meta = storage.read_meta(root)
    return meta["encoder"], storage.read_item(root / "model"), meta
