"""Recipes: every shipped one is valid, a wrong one is refused by name, and one runs from nothing to pictures."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from pose_fakes import fake_batch

from epfv2_jax import experiment
from epfv2_jax.training import sharding

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def recipe(name, *args) -> dict:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*args).to_dict()


SHIPPED = [
    ("quickstart",),
    ("egobody3m_resnet18",),
    ("mocap", "full"),
    ("mocap", "no_temporal"),
    ("mocap", "no_projection"),
]


def test_every_shipped_recipe_is_in_the_list():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {name for name, *_ in SHIPPED}


@pytest.mark.parametrize("args", SHIPPED, ids=":".join)
def test_shipped_recipes_are_valid(args):
    config = experiment.parse(recipe(*args))
    assert config.dataset.conversion.record_frames >= config.evaluation.clip_frames  # else clips are cut short
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    sharding.check_batch_size(config.data.batch_size, config.step.accumulation, mesh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, r"config\.optimiser: unknown key; did you mean optimizer"),
        ({"model": {"encoder": "resnet19"}}, r"config\.model: encoder: 'resnet19' is not one of .*'resnet18'"),
        ({"model": {"windw": 3}}, r"config\.model\.windw: unknown key; did you mean window"),
        ({"data": {"batch_size": 0}}, r"config\.data: batch_size must be at least 1, got 0"),
        ({"step": {"steps": 1.5}}, r"config\.step\.steps: expected int, got 1.5"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        experiment.parse({**recipe("quickstart"), **change})


def tiny(tmp_path) -> experiment.ExperimentConfig:
    """The quickstart, shrunk until only its shape is left."""
    mapping = recipe("quickstart")
    mapping["output_dir"] = str(tmp_path / "run")
    mapping["dataset"] |= {"directory": str(tmp_path / "records"), "source_directory": str(tmp_path / "zips")}
    mapping["dataset"]["synthetic"] |= {"train_sequences": 2, "validation_sequences": 1, "test_sequences": 1}
    mapping["dataset"]["synthetic"] |= {"frames": 64, "image_width": 40}
    mapping["dataset"]["conversion"] |= {"image_size_hw": (16, 16), "poor_calibration": "keep"}
    mapping["data"] |= {"clip_frames": 4, "batch_size": 8}
    mapping["model"] |= {"width": 16, "heads": 2, "ffn_width": 16, "head_width": 16}
    mapping["step"]["steps"] = 4
    mapping["loop"] = {"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2}
    mapping["evaluation"] = {"pictures": 2}
    return experiment.parse(mapping)


@pytest.mark.slow
def test_from_nothing_to_pictures_and_again(tmp_path):
    config = tiny(tmp_path)
    experiment.prepare_data(config.dataset)
    experiment.train(config)
    result = experiment.evaluate(experiment.checkpoint_dir(config), config.dataset.directory, tmp_path / "evaluation")
    assert np.isfinite(result.metrics["mpjpe_cm"]) and np.isfinite(result.baseline["mpjpe_cm"])
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["metrics"]["mpjpe_cm"] == result.metrics["mpjpe_cm"]
    assert (tmp_path / "evaluation" / "index.html").is_file()
    # The test sequence has 64 frames, so it is two records: two clips, and a picture of each.
    assert len(list((tmp_path / "evaluation").glob("worst*.png"))) == 2

    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    experiment.prepare_data(config.dataset)
    experiment.train(config)  # nothing is left to do
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_data_that_is_nowhere_is_a_clear_error(tmp_path):
    dataset = experiment.DatasetConfig(directory=str(tmp_path / "a"), source_directory=str(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"dataset.directory .*a does not exist, nor do zips .*b\); download"):
        experiment.prepare_data(dataset)


@pytest.mark.slow
def test_the_benchmark_recipe_takes_a_step_on_fake_images():
    config = experiment.parse(recipe("egobody3m_resnet18"))
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    batch = fake_batch(B=1, T=config.data.clip_frames, image_hw=config.dataset.conversion.image_size_hw)
    trainable = experiment.build_trainable(config, mesh, batch.frames)
    state = trainable.initial_state()
    before = jax.device_get(state.params)
    state, metrics = trainable.step_fn(state, sharding.put_batch(batch, mesh), trainable.key)
    assert int(state.step) == 1 and np.isfinite(metrics["loss"])
    # The first step of the warm-up has learning rate zero; the second moves the parameters.
    state, metrics = trainable.step_fn(state, sharding.put_batch(batch, mesh), trainable.key)
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before, state.params)
    assert any(jax.tree.leaves(moved["encoder"])) and any(jax.tree.leaves(moved["refinement_head"]))
