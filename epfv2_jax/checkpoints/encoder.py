"""Imported encoder weights: a directory that training can start from."""

import os
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

import epfv2_jax
from epfv2_jax.checkpoints import storage
from epfv2_jax.core import checks, files


def save_encoder(
    directory: str | os.PathLike, name: str, variables: Mapping[str, Any], meta: Mapping[str, Any]
) -> None:
    """Writes an encoder's variables and `meta` (JSON-ready: where they came from) under its registered `name`.

    On disk everything is written next to `directory` and renamed at the end, so that `directory` is complete or absent.

    Raises:
      ValueError: `directory` exists.
    """
    root = files.resolve(directory)
    if root.exists():
        raise ValueError(f"{root}: exists, and nothing is overwritten; give a new directory, or remove this one")
    meta = {"encoder": name, "version": epfv2_jax.__version__, **meta}
    args = ocp.args.Composite(model=ocp.args.StandardSave(variables), meta=ocp.args.JsonSave(meta))
    root.parent.mkdir(parents=True, exist_ok=True)
    with files.publishing(root) as own:
        unfinished = files.resolve(own)
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
