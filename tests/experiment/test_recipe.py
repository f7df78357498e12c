"""Recipes from files: variants, modules beside them, flags, and errors of one line."""

import pathlib
import sys

import pytest

from epfv2_jax import train
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import exits
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import ExperimentConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = """
import shared
from ml_collections import ConfigDict


def get_config(variant="a"):
    if variant not in ("a", "b"):
        raise ValueError(f"variant {variant!r} is not one of a, b")
    return ConfigDict({"output_dir": variant, "dataset": {"directory": shared.NAME}, "data": {}, "step": {"steps": 3}})
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "some.py").write_text(RECIPE)
    (tmp_path / "shared.py").write_text(f"NAME = {str(tmp_path)!r}")
    return tmp_path


def test_variants_and_modules_beside_the_recipe(folder, tmp_path_factory):
    path = list(sys.path)
    assert recipe.load(ExperimentConfig, f"{folder}/some.py").output_dir == "a"
    other = tmp_path_factory.mktemp("other")
    (other / "some.py").write_text(RECIPE)
    (other / "shared.py").write_text("NAME = 'another'")
    assert recipe.load(ExperimentConfig, f"{other}/some.py:b").dataset.directory == "another"
    assert recipe.load(ExperimentConfig, f"{folder}/some.py").dataset.directory == str(folder), "its own module"
    assert sys.path == path and "shared" not in sys.modules


@pytest.mark.parametrize(
    "name, message",
    [
        ("some.py:c", "variant 'c' is not one of a, b"),
        ("soma.py", "no such file; did you mean .*some.py"),
        ("zzzzzzzzzzzzzzz.py", r"no such file; there are .*some\.py$"),
        ("shared.py", "it is no recipe, for it has no function get_config"),
        ("plain.py:b", "has no variants; leave out :b"),
    ],
)
def test_a_recipe_that_is_not_there(folder, name, message, monkeypatch, capsys):
    (folder / "plain.py").write_text("def get_config():\n    return {}")
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=message):
        recipe.read(f"{name}")
    assert train.main(["--config", name]) == exits.USAGE
    printed = capsys.readouterr().err
    assert printed.startswith("error: --config ") and printed.count("\n") == 1


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.step.stepz=5", "config.step.stepz: unknown key; did you mean config.step.steps?"),
        ("--config.step.steps=0", "config.step: steps: must be at least 1, got 0"),
        ("--config.model.encoder=resnet19", "config.model: encoder: 'resnet19' is not one of"),
    ],
)
def test_a_wrong_value_is_one_line(folder, flag, message, capsys):
    assert train.main(["--config", f"{folder}/some.py", flag]) == exits.USAGE
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}") and printed.count("\n") == 1


def test_print_config_shows_all_fields_and_starts_nothing(folder, capsys):
    arguments = ["--config", f"{folder}/some.py:b", "--config.optimizer.learning_rate=5e-4", "--print_config"]
    assert train.main(arguments) == exits.DONE
    import json

    printed = json.loads(capsys.readouterr().out)
    assert printed["optimizer"]["learning_rate"] == 5e-4 and printed["model"]["kind"] == "epfv2"
    expected = recipe.load(ExperimentConfig, f"{folder}/some.py:b", [("optimizer.learning_rate", "5e-4")])
    assert config_lib.from_mapping(ExperimentConfig, printed) == expected


def test_recipes_say_what_they_cost():
    for path in (ROOT / "configs").rglob("*.py"):
        text = path.read_text()
        if "def get_config(" in text:
            header = text.split('"""')[1]
            assert "\nCommand:" in header, path
            measured = all(f"\n{word}:" in header for word in ("Hardware", "Time", "Score"))
            assert measured or "\nHardware, time, score:  not yet run" in header, path
