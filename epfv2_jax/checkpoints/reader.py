"""Reads a trained model from a run's checkpoints."""

import dataclasses
import logging
import os
from typing import Any

from etils import epath

from epfv2_jax import models
from epfv2_jax.checkpoints import storage
from epfv2_jax.checkpoints.about import About, ForeignCheckpointError
from epfv2_jax.core import files
from epfv2_jax.models.base import PoseModel

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model from a checkpoint. No mesh, optimizer, data set or flag is needed to use it."""

    model: PoseModel
    variables: Any  # numpy arrays on the host
    about: About  # the run's configuration and the format of its records
    step: int
    kind: str  # "best" or "latest"


def load(directory: str | os.PathLike) -> Trained:
    """Returns the model of a run: from the best checkpoint if there is one, else from the latest.

    A step that has changed since it was written, or was not written completely, is left out with a warning that names
    it and the one that is used instead.

    Args:
      directory: of the run, or its folder `checkpoints`.

    Raises:
      ValueError: there is no whole checkpoint in `directory`, or it has another format.
    """
    root = files.resolve(directory)
    roots = (root, root / "checkpoints")
    damaged = []
    for place in (folder / kind for folder in roots for kind in (storage.BEST, storage.LATEST)):
        for step in storage.all_steps(place):
            folder = place / str(step)
            try:
                about = About.from_meta(storage.read_meta(folder), os.fspath(folder))
                storage.verify(folder, ("model", "meta"))
                variables = storage.read_item(folder / "model")
            except ForeignCheckpointError:
                raise
            except Exception as error:  # a damaged file may raise anything
                first_line = str(error).partition("\n")[0][:300]
                damaged.append(f"{folder}: {first_line or type(error).__name__}")
                continue
            for found in damaged:
                _log.warning("checkpoint %s; %s is used instead", found, folder)
            model = models.build(about.model_config, about.skeleton, about.layout)
            return Trained(model=model, variables=variables, about=about, step=step, kind=place.name)
    if damaged:
        raise ValueError(f"no checkpoint can be read; {'; '.join(damaged)}")
    raise ValueError(
        f"{root}: no checkpoint here (looked for steps in {storage.BEST}/ and {storage.LATEST}/, also below "
        "checkpoints/); give the directory of a run"
    )


def run_directory(directory: str | os.PathLike) -> epath.Path:
    """Returns the directory of the run that `load` finds in `directory`."""
    root = files.resolve(directory)
    return root.parent if any((root / kind).exists() for kind in (storage.BEST, storage.LATEST)) else root
