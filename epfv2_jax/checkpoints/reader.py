"""Reads a trained model from a run's checkpoints."""

import dataclasses
import pathlib
from typing import Any

from etils import epath

from epfv2_jax import models
from epfv2_jax.checkpoints import storage
from epfv2_jax.checkpoints.about import About
from epfv2_jax.models.base import PoseModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model from a checkpoint. No mesh, optimizer, data set or flag is needed to use it."""

    model: PoseModel
    variables: Any  # numpy arrays on the host
    about: About  # the run's configuration and the format of its records
    step: int
    kind: str  # "best" or "latest"


def load(directory: str | pathlib.Path) -> Trained:
    """Returns the model of a run: from the best checkpoint if there is one, else from the latest.

    Args:
      directory: of the run, or its folder `checkpoints`.

    Raises:
      ValueError: there is no committed checkpoint in `directory`, or it has another format.
    """
    root = epath.Path(directory).resolve()
    roots = (root, root / "checkpoints")
    for place in (folder / kind for folder in roots for kind in (storage.BEST, storage.LATEST)):
        step = max(storage.committed_steps(place), default=None) if place.exists() else None
        if step is None:
            continue
        with storage.open_manager(place, None) as manager:
            about = About.from_meta(storage.read_meta(manager, step), f"{place / str(step)}")
        model = models.build(about.model_config, about.skeleton, about.layout)
        variables = storage.read_item(place / str(step) / "model")
        return Trained(model=model, variables=variables, about=about, step=step, kind=place.name)
    raise ValueError(
        f"{root}: no checkpoint here (looked for committed steps in {storage.BEST}/ and {storage.LATEST}/, also below "
        "checkpoints/); give the directory of a run"
    )


def run_directory(directory: str | pathlib.Path) -> pathlib.Path:
    """Returns the directory of the run that `load` finds in `directory`."""
    root = pathlib.Path(directory).resolve()
    return root.parent if any((root / kind).exists() for kind in (storage.BEST, storage.LATEST)) else root
