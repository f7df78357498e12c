"""Comparing checkpoints by the command: files, what is the same for all, and what cannot be compared."""

import dataclasses
import json
import pathlib
import re
import types

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, compare, models, structs
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import exits
from epfv2_jax.data import images, records, rig
from epfv2_jax.experiment import auto_label, recipe
from epfv2_jax.experiment.config import AutoLabelConfig, DatasetConfig, ExperimentConfig
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.testing import fakes
from epfv2_jax.training.step import StepConfig

SIZE = (16, 16)
#: Another body with some of the joints.
ARMS = Skeleton(
    name="arms",
    joint_names=("b_r_wrist", "b_l_wrist", "b_l_forearm"),
    parents=(-1, -1, 1),
    mirror=(1, 0, 2),
    root_between=(0, 1),
    groups=(),
    rest_offsets_m=((-0.4, 0.0, 0.2), (0.4, 0.0, 0.2), (-0.2, 0.0, 0.0)),
    rest_root_headset_m=(0.0, -0.4, 0.0),
)
SMALL = {
    "epfv2": {"encoder": "tiny", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16, "window": 3},
    "lstm": {"kind": "lstm", "encoder": "tiny", "view_width": 8, "width": 16, "head_width": 16},
}


def write_run(directory, model_config, skeleton=EGOBODY3M, size=SIZE, hide_views=False):
    """Writes a checkpoint of a small model with random variables; returns the model's number of parameters."""
    config = config_lib.from_mapping(
        ExperimentConfig,
        {
            "output_dir": str(directory),
            "dataset": config_lib.to_mapping(DatasetConfig(directory="")),
            "data": {"clip_frames": 1, "batch_size": 1},
            "model": model_config,
            "step": config_lib.to_mapping(StepConfig(steps=1)),
            "evaluation": {"clip_frames": 4, "batch_size": 2, "pictures": 1, "hide_views": hide_views},
        },
    )
    model = models.build(config.model, skeleton, layouts.EGOBODY3M)
    variables = fakes.random_variables(model, structs.blank_frames(1, 1, 4, size))
    about = checkpoints.About(
        experiment=config_lib.to_mapping(config), skeleton=skeleton, layout=layouts.EGOBODY3M, image_size_hw=size
    )
    checkpoints.save_model(directory, about, variables, {})
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of two people, and the runs of several models."""
    folder, rng, T = tmp_path_factory.mktemp("compare"), np.random.default_rng(0), 4
    runs, headset = [], rig.upright(rig.default_rig(), layouts.EGOBODY3M, SIZE)
    for person in range(2):
        batch = fakes.fake_batch(B=1, T=T, seed=person, image_hw=SIZE)
        pictures = batch.frames.images[0]
        runs.append(
            records.FrameRun(
                sequence=f"person{person}",
                split="test",
                frame_index=np.arange(T, dtype=np.int32),
                time_s=np.arange(T) / 30,
                jpegs=tuple(tuple(images.encode_grey(image) for image in views) for views in pictures),
                T_world_headset=batch.frames.T_world_headset[0],
                joints_world_m=rng.normal((0, 1, 0), 0.3, (T, fakes.J, 3)).astype(np.float32),
                joint_valid=np.ones((T, fakes.J), bool),
                view_valid=np.ones((T, 4), bool),
                rig=headset,
            )
        )
    directory = folder / "data" / "test"
    shard = records.write_shard(directory / "shard.arrayrecord", runs)
    records.write_manifest(directory, records.Manifest(split="test", spec=fakes.record_spec(SIZE), shards=(shard,)))
    parameters = {
        "full": write_run(folder / "full", SMALL["epfv2"]),
        "lstm": write_run(folder / "lstm", SMALL["lstm"]),
        "blind": write_run(folder / "blind", SMALL["lstm"], hide_views=True),
        "arms": write_run(folder / "arms", SMALL["lstm"], skeleton=ARMS),
    }
    write_run(folder / "larger", SMALL["lstm"], size=(32, 32))
    strangers = dataclasses.replace(ARMS, joint_names=("x", "y", "z"))
    write_run(folder / "strangers", SMALL["lstm"], skeleton=strangers)
    return folder, parameters


def run(folder, *names):
    runs = [str(folder / name) for name in names]
    return compare.main(["--runs", *runs, "--data", str(folder / "data"), "--out", str(folder / "out")])


@pytest.mark.slow
def test_models_side_by_side(folder, capsys):
    folder, parameters = folder
    assert run(folder, "full", "lstm", "blind") == exits.DONE
    printed = capsys.readouterr().out
    read = json.loads((folder / "out" / "compare.json").read_text())
    assert read["joints"] == list(EGOBODY3M.joint_names) and read["split"] == "test"
    found = {model["name"]: model for model in read["models"]}
    assert list(found) == ["full", "lstm", "blind"]
    for name, model in found.items():
        assert model["parameters"] == parameters[name] and model["flops"] > 1e4
        low, middle, high = model["latency_ms"]
        assert 0 < low <= middle <= high
        assert f"| {name} " in printed and f"{model['metrics']['mpjpe_cm']:.2f}" in printed
        assert {"wrist", "leg", "all joints"} <= set(model["in_view"])
        assert model["metrics"]["frames"] == 8
    # The same weights without images: other predictions of the same joints, of which as many are in view.
    assert found["blind"]["metrics"]["mpjpe_cm"] != found["lstm"]["metrics"]["mpjpe_cm"]
    share = {name: model["in_view"]["all joints"]["in_view_share"] for name, model in found.items()}
    assert share["blind"] == share["lstm"] == share["full"] > 0
    assert "scored without images" in printed and (folder / "out" / "compare.md").read_text() in printed
    page = (folder / "out" / "index.html").read_text()
    assert len(re.findall("data:image/webp", page)) == 1 and "scored without images" in page
    assert "python -m epfv2_jax.compare --runs" in page and "2 sequences, 8 frames of 4 views of 16x16" in page


def test_bodies_with_other_joints_are_compared_by_name(folder, capsys):
    folder, _ = folder
    assert run(folder, "lstm", "arms") == exits.DONE
    read = json.loads((folder / "out" / "compare.json").read_text())
    assert sorted(read["joints"]) == sorted(ARMS.joint_names)
    assert len(read["joints_left_out"]) == fakes.J - 3
    for model in read["models"]:
        measured = {name for name, cm in model["per_joint_cm"].items() if cm is not None}
        assert measured == set(ARMS.joint_names)
    assert "over the 3 joints that all models know (left out: b_head, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lstm", "larger"), r"larger: .*trained on image_size_hw \(32, 32\), these records have \(16, 16\)"),
        (("lstm", "strangers"), "no joint has the same name in all models and in the records"),
        (("lstm", "lstm"), "--runs: number of different directories"),
        (("lstm", "nowhere"), "nowhere: no checkpoint here"),
    ],
)
def test_what_cannot_be_compared(folder, names, message, capsys):
    assert run(folder[0], *names) == exits.ERROR
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_teacher_and_students_are_compared_on_one_page(folder, tmp_path, monkeypatch):
    shipped = recipe.read(str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "als_quickstart.py"))
    config = config_lib.from_mapping(AutoLabelConfig, shipped)
    dataset = dataclasses.replace(config.teacher.dataset, directory=str(folder[0] / "data"))
    config = dataclasses.replace(
        config,
        output_dir=str(tmp_path),
        teacher=dataclasses.replace(config.teacher, output_dir=str(tmp_path / "teacher"), dataset=dataset),
        student=dataclasses.replace(config.student, output_dir=str(tmp_path / "student")),
    )
    for trained in (config.teacher, *auto_label.students(config.student).values()):
        write_run(trained.output_dir, SMALL["lstm"])
    for module, name in ((auto_label.data, "prepare_data"), (auto_label.train, "train"), (auto_label, "label")):
        monkeypatch.setattr(module, name, lambda _: None)
    result = types.SimpleNamespace(metrics={"mpjpe_cm": 1.0})
    monkeypatch.setattr(auto_label.score, "evaluate", lambda *_: result)
    assert auto_label.auto_label(config) == dict.fromkeys(("teacher", "without_als", "als", "als_uncertainty"), result)
    assert set(json.loads(config.comparison.read_text())) == {"teacher", "without_als", "als", "als_uncertainty"}
    page = (config.comparison_directory / "index.html").read_text()
    assert re.findall("<dt>([^<]*)</dt>", page)[:4] == ["teacher", "without_als", "als", "als_uncertainty"]
