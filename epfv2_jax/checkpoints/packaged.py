"""A packaged model: a folder to share, which says what it holds and shows whether it is whole.

    model.safetensors  the variables, a tensor for each array, named by its path: params/encoder/conv1/kernel
    config.json        what a checkpoint says of itself (`About`) and the `Card`, with the SHA-256 of the tensors and
                       of the rest of its own content
    README.md          the model card, for people: no code reads it

Our own format; these names are those that the Hugging Face Hub expects.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util

from epfv2_jax import models
from epfv2_jax.checkpoints.about import About
from epfv2_jax.checkpoints.trained import Card, Trained
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.models.encoders.weights import reading

WEIGHTS, CONFIG, README = FILES = ("model.safetensors", "config.json", "README.md")
_REMEDY = "get the packaged model again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    """What `config.json` holds beside `About`."""

    step: int
    kind: str
    card: Card
    weights_sha256: str


def is_package(root: epath.Path) -> bool:
    """Returns whether a folder holds a packaged model, damaged or not."""
    return (root / WEIGHTS).exists()


def save_package(
    directory: str | os.PathLike, trained: Trained, card: Card, describe: Callable[[Mapping[str, str]], str]
) -> None:
    """Writes a trained model as a packaged one to the new folder `directory`, which is complete or absent.

    Paths that point to places of this machine or to buckets, in the run's configuration, keep their last name alone.

    Args:
      directory: on disk or in an object store.
      trained: the model.
      card: what its users must know.
      describe: returns the text of README.md, given the SHA-256 of each other file by name.

    Raises:
      ValueError: `directory` exists.
    """
    root = files.new_folder(directory)
    with files.publishing(root) as own:
        own.mkdir()
        flat = traverse_util.flatten_dict(trained.variables, sep="/")
        tensors = {key: np.asarray(leaf, order="C") for key, leaf in flat.items()}
        (own / WEIGHTS).write_bytes(safetensors.numpy.save(tensors))  # save_file would keep others from reading it
        config = _Config(step=trained.step, kind=trained.kind, card=card, weights_sha256=files.sha256(own / WEIGHTS))
        about = dataclasses.replace(trained.about, experiment=_without_places(trained.about.experiment))
        content = {**about.to_meta(), **config_lib.to_mapping(config)}
        files.write_json(own / CONFIG, files.signed(content))
        hashes = {name: files.sha256(own / name) for name in (WEIGHTS, CONFIG)}
        (own / README).write_text(describe(hashes), encoding="utf-8")


def read_package(root: epath.Path) -> Trained:
    """Returns the model in a folder that `save_package` wrote. Writes nothing, and reads all before it is trusted.

    Raises:
      ForeignCheckpointError: it is of another version of the format.
      ValueError: a file is missing, or a byte has changed since it was written; the message names the file.
    """
    path, weights = root / CONFIG, root / WEIGHTS
    content = files.read_json(path, _REMEDY)
    with checks.naming(os.fspath(path), remedy=_REMEDY):
        checks.instance("content", content, dict, "a mapping")
        checks.instance(files.CHECKSUM, content.get(files.CHECKSUM), str, "the checksum of the rest of the content")
        files.check_signature(content)
    about = About.from_meta(content, os.fspath(path))
    with checks.naming(os.fspath(path), remedy=_REMEDY):
        names = {field.name for field in dataclasses.fields(_Config)}
        config = config_lib.from_mapping(_Config, {key: content[key] for key in names & content.keys()}, "")
    with files.local_copy(weights) as copy:
        file = reading.read(copy)  # first: it tells what else may lie there, such as a pointer of Git LFS
        remedy = f"the file has changed since it was written; {_REMEDY}"
        checks.equal(f"{weights}: sha256", files.sha256(copy), config.weights_sha256, remedy)
        tensors = {key: file.load(key) for key in file.shapes}
    return Trained(
        model=models.build(about.model_config, about.skeleton, about.layout),
        variables=traverse_util.unflatten_dict(tensors, sep="/"),
        about=about,
        step=config.step,
        kind=config.kind,
        card=config.card,
    )


def _without_places(value: Any) -> Any:
    """Returns a JSON-ready value in which absolute paths and those of buckets are cut to their last name."""

    def cut(leaf: Any) -> Any:
        place = isinstance(leaf, str) and (os.path.isabs(leaf) or leaf.startswith("~") or files.is_remote(leaf))
        return os.path.basename(leaf.rstrip("/")) if place else leaf

    return jax.tree.map(cut, value)
