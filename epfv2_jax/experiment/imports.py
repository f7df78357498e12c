"""Imports released weights: of an encoder, for a run to start from, or of a whole model, as the checkpoint of a run."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from epfv2_jax import checkpoints
from epfv2_jax.core import checks, exits, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.experiment.config import DatasetConfig, ExperimentConfig
from epfv2_jax.models import weights as model_weights
from epfv2_jax.models.encoders import weights as encoder_weights
from epfv2_jax.models.encoders.weights import reading
from epfv2_jax.training.step import StepConfig


def encoder(name: str, paths: Sequence[str], out: str) -> str:
    """Writes an encoder's weights from one safetensors file to the new directory `out`; returns what to tell the user.

    Raises:
      UsageError: no weights of such an encoder can be imported, or there is more than one file.
      ValueError: the file does not hold them, or `out` exists.
    """
    with exits.usage():
        checks.one_of(encoder_weights.encoder_names(), encoder=name)
        checks.equal("--file: number of files for an encoder", len(paths), 1)
    imported = encoder_weights.convert(reading.read(paths[0]), name)
    told = encoder_weights.confirm(paths[0], name)
    checkpoints.save_encoder(out, name, imported.variables, {**_origin(paths), "layout": imported.layout})
    counts = _counts(imported.used, imported.ignored, imported.variables)
    use = f'to use them, in a recipe: config.encoder_weights = "{out}"'
    return "\n".join([told, f"layout: {imported.layout}; {counts}", use])


def model(kind: str, paths: Sequence[str], out: str) -> str:
    """Writes a model with weights from safetensors files as a run to the new directory `out`; returns what to tell.

    Raises:
      UsageError: no weights of such a model can be imported.
      ValueError: the files do not hold them, or `out` exists.
    """
    with exits.usage():
        checks.one_of(model_weights.IMPORTERS, model=kind)
    imported = model_weights.IMPORTERS[kind]([reading.read(path) for path in paths])
    # The checkpoint of a run that trained for no steps.
    config = ExperimentConfig(
        output_dir=out,
        dataset=DatasetConfig(directory=""),
        data=DataConfig(clip_frames=1, batch_size=1),
        model=imported.config,
        step=StepConfig(steps=1),
    )
    about = checkpoints.About(
        experiment=config_lib.to_mapping(config),
        skeleton=imported.skeleton,
        layout=imported.layout,
        image_size_hw=imported.image_size_hw,
    )
    checkpoints.save_model(out, about, imported.variables, _origin(paths))
    use = f'a run can start from it: config.init_from = "{out}"; other commands take it as --checkpoint {out}'
    return "\n".join([_counts(imported.used, imported.ignored, imported.variables), use])


def _origin(paths: Sequence[str]) -> dict[str, str]:
    names = (pathlib.Path(path).name for path in paths)
    return {"file": " ".join(names), "sha256": " ".join(files.sha256(path) for path in paths)}


def _counts(used: int, ignored: Mapping[str, str], variables: Mapping[str, Any]) -> str:
    reasons = collections.Counter(ignored.values()).items()
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    lines = [f"tensors used: {used}; ignored: {len(ignored)}", *(f"  ignored {n}: {why}" for why, n in reasons)]
    return "\n".join([*lines, f"parameters: {size}"])
