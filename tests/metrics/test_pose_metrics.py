"""Metrics: known motions with known errors, merging, masks, and calibration on errors drawn from the predicted law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.spatial.transform import Rotation

from epfv2_jax import structs
from epfv2_jax.geometry.skeleton import EGOBODY3M, JointGroup, Skeleton
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.metrics.pose import PoseMetrics
from epfv2_jax.testing import fakes

from_batch = jax.jit(PoseMetrics.from_batch)


def predict(joints, cholesky=None, degrees_of_freedom=4.0):
    distribution = None
    if cholesky is not None:
        distribution = structs.StudentT(cholesky_m=cholesky, degrees_of_freedom=degrees_of_freedom)
    return structs.Predictions(
        joints_headset_m=joints, intermediate_joints_m={"proposal": joints}, distribution=distribution
    )


def test_truth_scores_zero():
    batch = fakes.mask_some(fakes.fake_batch())
    summary = from_batch(predict(batch.targets.joints_headset_m), batch).summary(EGOBODY3M)
    for name in ("mpjpe_cm", "mpjve_cm", "pa_mpjpe_cm", "wrist_cm", "proposal_mpjpe_cm"):
        assert summary[name] == pytest.approx(0, abs=1e-3), name
    assert summary["jitter_m_s3"] == pytest.approx(summary["true_jitter_m_s3"])


def test_constant_world_offset_moves_position_but_not_velocity():
    batch = fakes.fake_batch()
    R_headset_world = np.swapaxes(batch.frames.T_world_headset[..., :3, :3], -1, -2)
    offset = R_headset_world @ np.array([0.03, -0.04, 0.0], np.float32)
    summary = from_batch(predict(batch.targets.joints_headset_m + offset[:, :, None]), batch).summary(EGOBODY3M)
    assert summary["mpjpe_cm"] == pytest.approx(5, rel=1e-4)
    assert summary["mpjve_cm"] == pytest.approx(0, abs=1e-3)
    assert summary["pa_mpjpe_cm"] == pytest.approx(0, abs=1e-3)


def test_pa_mpjpe_forgives_a_similarity_of_each_frame_and_no_mirror():
    batch = fakes.mask_some(fakes.fake_batch())
    rng = np.random.default_rng(0)
    truth = batch.targets.joints_headset_m
    R = Rotation.random(truth.shape[0] * truth.shape[1], random_state=0).as_matrix().reshape(*truth.shape[:2], 3, 3)
    moved = np.einsum("btxy,btjy->btjx", R, truth) * rng.uniform(0.5, 2, (*truth.shape[:2], 1, 1)) + rng.normal()
    assert from_batch(predict(moved.astype(np.float32)), batch).summary(EGOBODY3M)["pa_mpjpe_cm"] == pytest.approx(
        0, abs=1e-3
    )
    mirrored = np.einsum("btxy,btjy->btjx", R, truth * [-1, 1, 1]).astype(np.float32)
    assert from_batch(predict(mirrored), batch).summary(EGOBODY3M)["pa_mpjpe_cm"] > 1


def test_pa_mpjpe_is_at_most_mpjpe_in_squares():
    """The alignment minimises squared distances, so their root mean square cannot grow."""
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch)
    summary = from_batch(predictions, batch).summary(EGOBODY3M)
    assert summary["pa_mpjpe_cm"] <= np.sqrt(3) * summary["error_sigma_cm"]


def test_velocity_error_of_a_drifting_prediction():
    batch = fakes.fake_batch(T=5)
    R_headset_world = np.swapaxes(batch.frames.T_world_headset[..., :3, :3], -1, -2)
    drift = np.arange(5)[None, :, None] * (R_headset_world @ np.array([0.0, 0.0, 0.02], np.float32))
    summary = from_batch(
        predict((batch.targets.joints_headset_m + drift[:, :, None]).astype(np.float32)), batch
    ).summary(EGOBODY3M)
    assert summary["mpjve_cm"] == pytest.approx(2, rel=1e-3)
    assert summary["mpjve_m_s"] == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize("rate_hz", [10, 15, 30, 60, None])
def test_velocity_error_and_jitter_of_a_motion_do_not_depend_on_the_frame_rate(rate_hz):
    """On a circle the speed is radius * omega, the jitter radius * omega^3. None: uneven times."""
    batch, joints = fakes.circling(rate_hz, radius_m=0.3, period_s=2.0)
    summary = from_batch(predict(joints), batch).summary(EGOBODY3M)
    omega = 2 * np.pi / 2.0
    assert summary["mpjve_m_s"] == pytest.approx(0.3 * omega, rel=0.01)
    assert summary["mpjve_cm"] == pytest.approx(100 * 0.3 * omega / 30, rel=0.01)
    assert summary["jitter_m_s3"] == pytest.approx(0.3 * omega**3, rel=0.02)
    assert summary["true_jitter_m_s3"] == pytest.approx(0, abs=1e-3)


def test_groups_and_joints_are_means_over_their_joints():
    batch = fakes.fake_batch()
    batch.targets.joint_valid[:] = True
    size_m = 0.01 * (1 + np.arange(fakes.J))
    joints = batch.targets.joints_headset_m + size_m[:, None] * np.array([0, 0, 1])
    sums = from_batch(predict(joints.astype(np.float32)), batch)
    per_joint = sums.per_joint_cm(EGOBODY3M)
    np.testing.assert_allclose(list(per_joint.values()), 100 * size_m, rtol=1e-4)
    for name, rows in EGOBODY3M.metric_groups.items():
        assert sums.summary(EGOBODY3M)[f"{name}_cm"] == pytest.approx(100 * size_m[list(rows)].mean(), rel=1e-4)
    assert list(per_joint) == list(EGOBODY3M.joint_names)


def test_any_split_merges_to_the_same():
    batch = fakes.mask_some(fakes.fake_batch(B=5))
    predictions = fakes.fake_predictions(batch)
    whole = from_batch(predictions, batch)
    parts = [from_batch(*jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (predictions, batch))) for i in range(5)]
    one_by_one = functools.reduce(PoseMetrics.merge, parts, PoseMetrics.zeros(EGOBODY3M.num_joints))
    in_two = (parts[3].merge(parts[1])).merge(parts[4].merge(parts[0]).merge(parts[2]))
    for total in (one_by_one, in_two):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), total, whole)
        assert total.summary(EGOBODY3M) == pytest.approx(whole.summary(EGOBODY3M), rel=1e-5)


def test_masked_values_do_not_count():
    batch = fakes.mask_some(fakes.fake_batch())
    predictions = fakes.fake_predictions(batch)
    bad_batch, bad_predictions = fakes.poison(batch, predictions)
    jax.tree.map(np.testing.assert_array_equal, from_batch(bad_predictions, bad_batch), from_batch(predictions, batch))


def test_nothing_valid_gives_nan_and_no_warning():
    batch = fakes.fake_batch()
    batch.frames.frame_valid[:] = False
    summary = from_batch(fakes.fake_predictions(batch), batch).summary(EGOBODY3M)
    assert summary["frames"] == 0
    assert np.isnan(summary["mpjpe_cm"]) and np.isnan(summary["mpjve_cm"])
    assert "inside_50" not in summary


@pytest.mark.parametrize("degrees_of_freedom", [4.0, 8.0])
def test_calibration_is_nominal_for_errors_of_the_predicted_law(degrees_of_freedom):
    batch = fakes.fake_batch(B=20, T=10)
    batch.targets.joint_valid[:] = True
    lower = fakes.fake_predictions(batch).distribution.cholesky_m
    n = batch.targets.joint_valid.size
    unit = scipy.stats.multivariate_t.rvs(np.zeros(3), np.eye(3), df=degrees_of_freedom, size=n, random_state=0)
    error = np.einsum("btjxy,btjy->btjx", lower, unit.reshape(*lower.shape[:-1]))
    joints = (batch.targets.joints_headset_m + error).astype(np.float32)
    sums = from_batch(predict(joints, lower, degrees_of_freedom), batch)
    for level, share in sums.calibration().items():
        # Five standard deviations of a binomial share.
        assert abs(share - level) < 5 * np.sqrt(level * (1 - level) / n), level
    summary = sums.summary(EGOBODY3M)
    assert summary["inside_90"] == sums.calibration()[0.9]
    assert summary["predicted_sigma_cm"] == pytest.approx(summary["error_sigma_cm"], rel=0.15)


def test_calibration_tells_cautious_from_sure():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch)
    lower = predictions.distribution.cholesky_m
    shares = [
        from_batch(predict(predictions.joints_headset_m, scale * lower), batch).summary(EGOBODY3M)["inside_50"]
        for scale in (0.2, 1.0, 5.0)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_jitter_in_metres_per_second_cubed():
    """A joint on t^3 m has a third derivative of 6 m/s^3 along each moving axis."""
    batch = fakes.fake_batch(B=1, T=8)
    batch.frames.T_world_headset[:] = np.eye(4)
    t = batch.time_s[0]
    joints = np.broadcast_to((t**3)[None, :, None, None] * np.array([0, 1.0, 0]), (1, 8, fakes.J, 3)).astype(np.float32)
    assert from_batch(predict(joints), batch).summary(EGOBODY3M)["jitter_m_s3"] == pytest.approx(6, rel=1e-2)


def test_mean_pose_is_the_mean_of_the_valid_targets_and_beats_its_neighbours():
    batches = [fakes.mask_some(fakes.fake_batch(seed=s)) for s in range(3)]
    pose = metrics.mean_pose([fakes.poison(b, fakes.fake_predictions(b))[0] for b in batches], EGOBODY3M)
    joints = np.concatenate([b.targets.joints_headset_m for b in batches])
    valid = np.concatenate([b.frames.frame_valid[..., None] & b.targets.joint_valid for b in batches])
    expected = [joints[:, :, j][valid[:, :, j]].mean(0) for j in range(fakes.J)]
    np.testing.assert_allclose(pose, expected, atol=1e-6)
    sums = [from_batch(metrics.mean_pose_predictions(jnp.asarray(pose + d), b), b) for b in batches for d in (0, 0.05)]
    assert sum(s.squared_error_sum.sum() for s in sums[::2]) < sum(s.squared_error_sum.sum() for s in sums[1::2])


def test_mean_pose_of_a_joint_never_seen_is_not_known():
    batch = fakes.fake_batch()
    known = metrics.mean_pose([batch], EGOBODY3M)
    batch.targets.joint_valid[..., 4] = False
    pose = metrics.mean_pose([batch], EGOBODY3M)
    assert np.isnan(pose[4]).all()
    np.testing.assert_array_equal(np.delete(pose, 4, axis=0), np.delete(known, 4, axis=0))
    batch.targets.joint_valid[:] = False
    with pytest.raises(ValueError, match="mean pose: no joint of 'egobody3m' is valid in any frame"):
        metrics.mean_pose([batch], EGOBODY3M)


def test_metrics_are_those_of_the_skeleton_that_is_given():
    """Three joints with a group of their own: names, groups and sizes come from the skeleton."""
    few = Skeleton(
        name="few",
        joint_names=("a", "b", "c"),
        parents=(-1, 0, 1),
        mirror=(0, 1, 2),
        root_between=(0,),
        groups=(JointGroup(name="end", joints=(2,)),),
        rest_offsets_m=((0.0, 0.1, 0.0),) * 3,
        rest_root_headset_m=(0.0, 0.0, 0.0),
    )
    batch = fakes.fake_batch(joints=np.zeros((3, 6, 3, 3)))
    targets = batch.targets.replace(joint_valid=np.ones((3, 6, 3), bool))
    batch = batch.replace(targets=targets)
    joints = np.broadcast_to(np.array([0.01, 0.02, 0.06])[:, None] * [1, 0, 0], (3, 6, 3, 3)).astype(np.float32)
    total = PoseMetrics.zeros(3).merge(from_batch(predict(joints), batch))
    assert total.per_joint_cm(few) == pytest.approx({"a": 1, "b": 2, "c": 6}, rel=1e-5)
    summary = total.summary(few)
    assert summary["end_cm"] == pytest.approx(6, rel=1e-5) and summary["mpjpe_cm"] == pytest.approx(3, rel=1e-5)
    assert "wrist_cm" not in summary
    np.testing.assert_allclose(metrics.mean_pose([batch], few), np.zeros((3, 3)))


def test_a_model_without_a_proposal_has_that_of_its_final_pose():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch).replace(intermediate_joints_m={})
    summary = from_batch(predictions, batch).summary(EGOBODY3M)
    assert summary["proposal_mpjpe_cm"] == summary["mpjpe_cm"] > 0
