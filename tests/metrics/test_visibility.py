"""Joints in view and out of view: known cameras, merging, masks."""

import functools

import jax
import numpy as np
import pytest

from epfv2_jax.evaluation import evaluate
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.metrics import visibility
from epfv2_jax.metrics.visibility import ALL_JOINTS, InViewMetrics
from epfv2_jax.structs import Predictions
from epfv2_jax.testing import fakes
from epfv2_jax.viz import poses

from_batch = jax.jit(InViewMetrics.from_batch)
in_view = jax.jit(visibility.in_view)


def wrists_apart(batch):
    """The left wrist before the cameras, the right one far above and behind the headset."""
    joints = batch.targets.joints_headset_m.copy()
    left, right = (EGOBODY3M.index(f"b_{side}_wrist") for side in "lr")
    joints[..., left, :], joints[..., right, :] = (0.05, -0.3, 0.3), (-0.1, 3.0, -3.0)
    batch.targets.joint_valid[..., [left, right]] = True
    return batch.replace(targets=batch.targets.replace(joints_headset_m=joints)), left, right


def test_a_wrist_before_a_camera_is_in_view_and_one_behind_the_head_is_not():
    batch, left, right = wrists_apart(fakes.fake_batch())
    joints = batch.targets.joints_headset_m.copy()
    joints[..., left, 0] += 0.01
    joints[..., right, 1] -= 0.02
    found = from_batch(Predictions(joints_headset_m=joints), batch).summary(EGOBODY3M)
    assert list(found) == [ALL_JOINTS, *EGOBODY3M.metric_groups]
    assert found["wrist"] == pytest.approx({"in_view_cm": 1, "out_of_view_cm": 2, "in_view_share": 0.5}, rel=1e-3)
    assert found["leg"]["in_view_cm"] == pytest.approx(0, abs=1e-4)


def test_only_valid_cameras_see():
    batch, left, _ = wrists_apart(fakes.fake_batch())
    seen = np.asarray(in_view(batch.targets.joints_headset_m, batch.frames))
    assert seen[..., left].all()
    view_valid = batch.frames.view_valid.copy()
    view_valid[1] = view_valid[2, :, 1:] = False
    fewer = np.asarray(in_view(batch.targets.joints_headset_m, batch.frames.replace(view_valid=view_valid)))
    assert not fewer[1].any() and (seen[0] == fewer[0]).all()
    assert fewer[2].any() and fewer[2].sum() < seen[2].sum() and not (fewer & ~seen).any()


def test_in_view_is_what_the_pictures_show():
    """The two are computed apart: here for all joints at once, there along the bones of one frame."""
    batch = fakes.fake_batch(B=1, T=1)
    half = batch.frames.rig.replace(cameras=cameras.crop(batch.frames.rig.cameras, 0, 0, 8, 16))
    batch = batch.replace(frames=batch.frames.replace(rig=half))
    seen = np.asarray(in_view(batch.targets.joints_headset_m, batch.frames))[0, 0]
    batch.targets.joint_valid[:] = True
    predictions = fakes.fake_predictions(batch)
    (example,) = evaluate.evaluate(lambda _: predictions, [batch], EGOBODY3M, keep=Keep(worst=1)).worst
    _, visible = poses.project_bones(example, poses.truth(example), EGOBODY3M)
    assert 0 < seen.sum() < fakes.J
    for b, (start, end) in enumerate(EGOBODY3M.bones):
        assert (visible[:, b, 0].any(), visible[:, b, -1].any()) == (seen[start], seen[end])


def test_every_joint_counts_once_whatever_lies_under_the_masks():
    batch = fakes.mask_some(fakes.fake_batch(B=5))
    predictions = fakes.fake_predictions(batch)
    whole = from_batch(predictions, batch)
    counted = (batch.frames.frame_valid[..., None] & batch.targets.joint_valid).sum((0, 1))
    np.testing.assert_array_equal(whole.in_view_count + whole.out_of_view_count, counted)
    assert (np.asarray(whole.in_view_count) > 0).any() and (np.asarray(whole.out_of_view_count) > 0).any()
    spoiled_batch, spoiled = fakes.poison(batch, predictions)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), from_batch(spoiled, spoiled_batch), whole)
    clips = [jax.tree.map(lambda x, i=i: x[i : i + 1], (predictions, batch)) for i in range(5)]
    merged = functools.reduce(InViewMetrics.merge, (from_batch(*clip) for clip in clips), InViewMetrics.zeros(fakes.J))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), merged, whole)


def test_what_was_never_counted_is_not_a_number():
    found = InViewMetrics.zeros(fakes.J).summary(EGOBODY3M)
    assert all(np.isnan(value) for group in found.values() for value in group.values())
