"""Reads a trained model from a run's checkpoints."""

import logging
import os

from etils import epath

from epfv2_jax import models
from epfv2_jax.checkpoints import hub, packaged, storage
from epfv2_jax.checkpoints.about import About, ForeignCheckpointError
from epfv2_jax.checkpoints.trained import Trained
from epfv2_jax.core import files

_log = logging.getLogger(__name__)


def load(directory: str | os.PathLike) -> Trained:
    """Returns a packaged model, or that of a run: from the best checkpoint if there is one, else from the latest.

    A step that has changed since it was written, or was not written completely, is left out with a warning that names
    it and the one that is used instead.

    Args:
      directory: of the run, or its folder `checkpoints`; or of a packaged model, also hf://ORGANISATION/NAME[@REVISION].

    Raises:
      ValueError: there is no whole checkpoint or packaged model in `directory`, or it has another format.
    """
    root = files.resolve(hub.fetch(directory) if hub.is_on_hub(directory) else directory)
    if packaged.is_package(root):
        return packaged.read_package(root)
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
        f"checkpoints/, and for {packaged.WEIGHTS}); give the directory of a run or of a packaged model"
    )


def run_directory(directory: str | os.PathLike) -> epath.Path:
    """Returns the directory of the run that `load` finds in `directory`.

    Raises:
      ValueError: it is that of a packaged model.
    """
    if hub.is_on_hub(directory) or packaged.is_package(files.resolve(directory)):
        raise ValueError(f"{directory}: a packaged model, to which nothing is written; give --out")
    root = files.resolve(directory)
    return root.parent if any((root / kind).exists() for kind in (storage.BEST, storage.LATEST)) else root
