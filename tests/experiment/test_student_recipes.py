"""The students' recipes: valid, one chain with the teacher's, fair beside the runs without one, and they train."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest

from epfv2_jax import models
from epfv2_jax.core import sharding
from epfv2_jax.experiment import build, recipe
from epfv2_jax.experiment import config as experiment
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing.fakes import fake_batch, fake_predictions

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
WITHOUT_TEACHER = {"resnet18": "egobody3m_resnet18", "mobilenetv4": "egobody3m_mobilenetv4"}


def parse(name, *args) -> experiment.ExperimentConfig:
    return recipe.load(experiment.ExperimentConfig, ":".join([str(CONFIGS / f"{name}.py"), *args]))


@pytest.mark.parametrize("variant", WITHOUT_TEACHER)
def test_a_student_differs_from_the_run_without_a_teacher_in_the_teacher_alone(variant):
    student, other = parse("student_egobody3m", variant), parse(WITHOUT_TEACHER[variant])
    alike = dataclasses.replace(
        student,
        output_dir=other.output_dir,
        data=dataclasses.replace(student.data, pseudo=None),
        augment=other.augment,
        objective=other.objective,
    )
    assert alike == other
    for name in ("brightness", "contrast", "gamma", "noise", "blur_px", "erase", "view_dropout"):
        assert getattr(student.augment, name) > getattr(other.augment, name), name


def test_the_chain_of_commands_names_the_files_of_the_recipes():
    student, teacher = parse("student_egobody3m"), parse("teacher_dinov3_vit")
    text = (CONFIGS / "student_egobody3m.py").read_text()
    ((records, labels),) = re.findall(r"--data (\S+) --out (\S+)\"", text)
    (checkpoints,) = re.findall(r"--checkpoint (\S+)\"", text)
    assert (records, labels) == (student.data.pseudo.directory, student.data.pseudo.labels)
    assert checkpoints == teacher.output_dir
    assert student.dataset == teacher.dataset


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant 'vit' is not one of resnet18, mobilenetv4"):
        parse("student_egobody3m", "vit")


@pytest.mark.slow
@pytest.mark.parametrize("variant", WITHOUT_TEACHER)
def test_a_student_takes_two_steps_on_true_and_pseudo_labels(variant):
    """At reduced size: two clips of two small frames, the second clip labelled by a teacher."""
    config = parse("student_egobody3m", variant)
    batch = fake_batch(B=2, T=2, image_hw=(32, 32))
    teacher = fake_predictions(batch)
    targets = batch.targets.replace(pseudo=np.array([False, True]), cholesky_m=teacher.distribution.cholesky_m)
    batch = batch.replace(targets=targets)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    model = models.build(config.model, skeleton.EGOBODY3M, layout.EGOBODY3M)
    trainable = build.trainable_for(config, mesh, model, batch.frames)
    state = build.initial_state(config, trainable)
    before = jax.device_get(state.params)
    for _ in range(2):
        state, metrics = trainable.step_fn(state, sharding.put_batch(batch, mesh), trainable.root_key())
        assert np.isfinite(metrics["loss"])
        assert {"pseudo_refined_nll", "distillation"} <= set(metrics)
    after = jax.device_get(state.params)
    for part in ("encoder", "refinement_head"):
        assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before[part], after[part])))
