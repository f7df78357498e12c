"""A trained model that all tests of packaged ones share."""

import pathlib

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, models
from epfv2_jax.checkpoints import About, Card, Trained
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.testing import fakes

SIZE_HW = (16, 16)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A model with random weights, of a run whose configuration names places of a machine and of a bucket."""
    config = EPFv2Config(encoder="tiny", width=16, heads=2, ffn_width=16, head_width=16, window=4)
    model = models.build(config, EGOBODY3M, layout.EGOBODY3M)
    experiment = {
        "model": config_lib.to_mapping(config),
        "output_dir": "/home/someone/runs/secret_name",
        "dataset": {"directory": "gs://private/records/", "source_directory": "~/zips"},
        "init_from": "runs/other",
        "encoder_weights": None,
        "seed": 3,
    }
    about = About(experiment=experiment, skeleton=EGOBODY3M, layout=layout.EGOBODY3M, image_size_hw=SIZE_HW)
    variables = fakes.random_variables(model, fakes.fake_batch(B=1, T=1, image_hw=SIZE_HW).frames)
    return Trained(model=model, variables=jax.tree.map(np.asarray, variables), about=about, step=7, kind="best")


@pytest.fixture
def packaged(trained):
    """Packages the model to a folder, and returns that."""

    def save(folder: pathlib.Path, card: Card | None = None) -> pathlib.Path:
        checkpoints.save_package(folder, trained, card or Card(), lambda hashes: f"# A model\n\n{hashes}\n")
        return folder

    return save
