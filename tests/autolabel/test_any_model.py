"""The label pass with teachers of other kinds: no memory, and a memory of everything; no body, no uncertainty."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from epfv2_jax import checkpoints, models, structs
from epfv2_jax.autolabel import distill
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import verify as verify_lib
from epfv2_jax.checkpoints import load
from epfv2_jax.data import labels, records
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models import base
from epfv2_jax.testing.fakes import fake_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleConfig:
    kind: str = "single"


class Single(base.SingleFrameModel):
    """The joints are a linear function of the views' mean brightness."""

    config: SingleConfig
    skeleton: Skeleton
    layout: RigLayout

    @nn.compact
    def __call__(self, frames, train=False):
        brightness = base.clean(frames).images.astype(jnp.float32).mean((-2, -1)) / 255
        joints_m = nn.Dense(3 * self.skeleton.num_joints)(brightness)
        return structs.Predictions(joints_headset_m=joints_m.reshape(*joints_m.shape[:2], -1, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumConfig:
    kind: str = "sum"


class Sum(nn.Module):
    """The joints are a linear function of the sum of the brightness of all frames so far."""

    config: SumConfig
    skeleton: Skeleton
    layout: RigLayout

    history = None
    backbone = None

    @nn.nowrap
    def initial_state(self, batch):
        return {"sum": jnp.zeros((batch, self.layout.num_views))}

    def __call__(self, frames, train=False):
        return self.step(frames, self.initial_state(frames.frame_valid.shape[0]), train)[0]

    @nn.compact
    def step(self, frames, state, train=False):
        brightness = base.clean(frames).images.astype(jnp.float32).mean((-2, -1)) / 255
        total = state["sum"][:, None] + jnp.cumsum(brightness, axis=1)
        joints_m = nn.Dense(3 * self.skeleton.num_joints)(total)
        joints_m = joints_m.reshape(*joints_m.shape[:2], -1, 3)
        return structs.Predictions(joints_headset_m=joints_m), {"sum": total[:, -1]}


@pytest.fixture(params=[Single, Sum])
def teacher(request, tmp_path, helpers, monkeypatch):
    """(folder of a checkpoint, its model) of each kind."""
    kind = request.param.__name__.lower()
    monkeypatch.setitem(models.MODELS, kind, request.param)
    helpers.write_teacher(tmp_path / "teacher", config={"kind": kind})
    return tmp_path / "teacher", helpers.build({"kind": kind})


def test_its_labels_are_its_predictions_for_whole_sequences(tmp_path, teacher, records_dir, runs, helpers):
    folder, model = teacher
    plan, reports, _ = helpers.label(records_dir, folder, tmp_path / "out")
    assert plan.teacher.with_uncertainty is False
    assert all(report.counts[0] == report.num_frames for report in reports)
    np.testing.assert_array_equal(plan.streams[:, [0, 2]], plan.streams[:, [0, 0]], "no stream has warm-up")
    if model.history is None:
        assert len(plan.streams) == len(runs), "no sequence is cut"
    opened = labels.open_labels(tmp_path / "out", records.open_records(records_dir))
    variables = load(folder).variables
    record = 0
    for parts in runs.values():
        images = np.concatenate([records.decode_images(run)[0] for run in parts])
        frames = structs.blank_frames(1, len(images), 4, images.shape[-2:])
        frames = frames.replace(
            images=images[None],
            view_valid=np.ones_like(frames.view_valid),
            frame_valid=np.ones_like(frames.frame_valid),
        )
        expected = model.apply(variables, frames).joints_headset_m[0]
        given = [opened[record + i] for i in range(len(parts))]
        record += len(parts)
        np.testing.assert_allclose(np.concatenate([g.joints_headset_m for g in given]), expected, atol=1e-5)
        assert all(g.cholesky6_m is None and g.root_rotation6 is None for g in given)
    report = verify_lib.verify(tmp_path / "out", records_dir)
    assert report.errors == () and np.isnan(report.sigma_m).all()
    assert report.joint_names == model.skeleton.joint_names


def test_online_it_sets_poses_and_leaves_the_uncertainty(teacher):
    folder, model = teacher
    batch = fake_batch(B=2, T=3)
    identities = np.broadcast_to(np.eye(3, dtype=np.float32), (*batch.targets.joint_valid.shape, 3, 3))
    batch = batch.replace(targets=batch.targets.replace(pseudo=np.array([False, True]), cholesky_m=identities))
    labelled = distill.OnlineTeacher(load(folder))(batch)
    expected = model.apply(load(folder).variables, batch.frames).joints_headset_m
    np.testing.assert_allclose(labelled.targets.joints_headset_m[1], expected[1], atol=1e-5)
    np.testing.assert_array_equal(labelled.targets.joints_headset_m[0], batch.targets.joints_headset_m[0])
    np.testing.assert_array_equal(labelled.targets.cholesky_m, identities)


@pytest.mark.parametrize("what", ["skeleton", "layout"])
def test_a_teacher_for_other_joints_or_views_is_refused(tmp_path, teacher_dir, records_dir, helpers, monkeypatch, what):
    trained = load(teacher_dir)
    other = dataclasses.replace(getattr(trained.model, what), name="other")
    trained = dataclasses.replace(trained, model=trained.model.clone(**{what: other}))
    monkeypatch.setattr(checkpoints, "load", lambda _: trained)
    with pytest.raises(ValueError, match=f"teacher is for {what} 'other', .* has 'egobody3m'; use another"):
        plan_lib.make_plan(records_dir, teacher_dir, helpers.PASS)


def test_a_teacher_of_other_images_is_refused(tmp_path, teacher_dir, records_dir, helpers, monkeypatch):
    trained = load(teacher_dir)
    trained = dataclasses.replace(trained, about=dataclasses.replace(trained.about, image_size_hw=(64, 48)))
    monkeypatch.setattr(checkpoints, "load", lambda _: trained)
    with pytest.raises(ValueError, match=r"image size: expected \(64, 48\), got .* use another teacher"):
        plan_lib.make_plan(records_dir, teacher_dir, helpers.PASS)


def test_a_plan_is_read_without_the_code_of_its_teacher(tmp_path, teacher, records_dir, helpers, monkeypatch):
    folder, model = teacher
    written = plan_lib.write_plan(tmp_path / "out", plan_lib.make_plan(records_dir, folder, helpers.PASS))
    monkeypatch.delitem(models.MODELS, model.config.kind)
    read = plan_lib.read_plan(tmp_path / "out")
    assert read.teacher == written.teacher and read.teacher.model == {"kind": model.config.kind}
