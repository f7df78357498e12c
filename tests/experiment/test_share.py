"""Packaging a run: its scores, what is stated and what is not, and the commands that take the folder."""

import contextlib
import json
import pathlib

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, evaluate, models, package
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import exits, files
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.distribution import FrameErrors
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.testing import fakes

SIZE_HW = (16, 16)
CHANGES = {"model.width": 16, "model.heads": 2, "model.ffn_width": 16, "model.head_width": 16}


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    """The directory of a run with one checkpoint, at step 5."""
    config = recipe.load(ExperimentConfig, "quickstart", [(name, str(value)) for name, value in CHANGES.items()])
    model = models.build(config.model, EGOBODY3M, layout.EGOBODY3M)
    about = checkpoints.About(
        experiment=config_lib.to_mapping(config),
        skeleton=EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=SIZE_HW,
    )
    variables = fakes.random_variables(model, fakes.fake_batch(B=1, T=1, image_hw=SIZE_HW).frames)
    with contextlib.closing(checkpoints.CheckpointWriter(tmp_path / "run" / "checkpoints", about)) as writer:
        writer.save_if_best(5, variables, 4.0, {"mpjpe_cm": 4.0})
    return tmp_path / "run"


def evaluated(run: pathlib.Path, step: int = 5) -> None:
    """Writes the scores of a step as an evaluation does."""
    metrics = {"mpjpe_cm": 6.157, "mpjve_cm": 0.65, "wrist_cm": float("nan"), "pa_mpjpe_cm": 5.33, "mpjve_m_s": 0.19}
    result = EvaluationResult(
        groups=EGOBODY3M.metric_groups,
        num_joints=EGOBODY3M.num_joints,
        unscored=(),
        metrics=metrics,
        per_joint_cm={},
        errors=FrameErrors.zeros(EGOBODY3M.num_joints),
        calibration={0.5: 0.48},
        group_calibration={},
        baselines={"mean pose": {"mpjpe_cm": 21.61}},
        baselines_per_joint_cm={},
        worst=(),
        median=(),
        best=(),
    )
    about = {"split": "test", "step": step, "hide_views": False}
    tables.write_json(result, run / "evaluation" / "metrics.json", about)


def test_a_run_is_packaged_with_its_scores_and_what_is_stated(run, tmp_path, capsys):
    evaluated(run)
    out = tmp_path / "model"
    flags = ["--checkpoint", str(run), "--out", str(out), "--licence", "Apache-2.0", "--data", "Rendered people."]
    assert package.main(flags) == exits.DONE
    assert capsys.readouterr().out == f"{out}: best checkpoint, step 5\n"
    found, original = checkpoints.load(out), checkpoints.load(run)
    jax.tree.map(np.testing.assert_array_equal, found.variables, original.variables)
    assert (found.card.licence, found.card.training_data) == ("Apache-2.0", "Rendered people.")
    assert found.card.scores.metrics["mpjpe_cm"] == 6.157 and found.card.scores.metrics["wrist_cm"] is None
    assert config_lib.from_mapping(ExperimentConfig, found.about.experiment).model == found.model.config

    text = (out / "README.md").read_text()
    assert "| cm | MPJPE | MPJVE | " in text and "| model | 6.16 | 0.65 | - |" in text
    assert "| mean pose | 21.61 |" in text and "On the test split." in text
    for stated in ("Apache-2.0", "Rendered people.", "16x16", "left_side", "26 joints"):
        assert stated in text
    assert all(files.sha256(out / name) in text for name in ("model.safetensors", "config.json"))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(found.variables["params"]))
    assert f"{parameters:,} parameters" in text


def test_what_is_not_stated_is_told(run, tmp_path, capsys):
    assert package.main(["--checkpoint", str(run), "--out", str(tmp_path / "model")]) == exits.DONE
    assert capsys.readouterr().out.splitlines()[1:] == [
        "licence: not stated",
        "training_data: not stated",
        "scores: the run was not evaluated",
    ]
    text = (tmp_path / "model" / "README.md").read_text()
    assert "Of the weights: not stated" in text and "not stated: the run was not evaluated." in text


def test_a_packaged_model_is_packaged_again_with_another_licence(run, tmp_path):
    evaluated(run)
    first = ["--checkpoint", str(run), "--licence", "A", "--data", "Rendered people.", "--out"]
    assert package.main([*first, str(tmp_path / "a")]) == exits.DONE
    again = ["--checkpoint", str(tmp_path / "a"), "--licence", "B", "--out"]
    assert package.main([*again, str(tmp_path / "b")]) == exits.DONE
    a, b = (checkpoints.load(tmp_path / name).card for name in "ab")
    assert (b.licence, b.training_data, b.scores) == ("B", a.training_data, a.scores) and a.licence == "A"
    names = ("model.safetensors", "config.json")
    same = [(tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names]
    assert same == [True, False]


def test_scores_of_another_step_or_damaged_ones_are_refused(run, tmp_path, capsys):
    flags = ["--checkpoint", str(run), "--out", str(tmp_path / "model")]
    evaluated(run, step=4)
    assert package.main(flags) == exits.ERROR
    assert "metrics.json: step: expected 5, got 4; the evaluation is of another checkpoint" in capsys.readouterr().err
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {"mpjpe_cm": "6"}}))
    assert package.main(flags) == exits.ERROR
    told = capsys.readouterr().err
    assert f"{path}: metrics.mpjpe_cm: expected float, got '6'; evaluate the checkpoint again" in told
    assert not (tmp_path / "model").exists()


def test_the_evaluation_of_a_packaged_model_needs_a_place_of_its_own(run, tmp_path, capsys):
    assert package.main(["--checkpoint", str(run), "--out", str(tmp_path / "model")]) == exits.DONE
    assert evaluate.main(["--checkpoint", str(tmp_path / "model"), "--data", str(tmp_path)]) == exits.ERROR
    assert "model: a packaged model, to which nothing is written; give --out" in capsys.readouterr().err
    flags = ["--checkpoint", str(tmp_path / "model"), "--data", str(tmp_path / "none"), "--out", str(tmp_path / "o")]
    assert evaluate.main(flags) == exits.ERROR
    assert "none/test" in capsys.readouterr().err, "it knows the recipe's test split"
