"""Comparison: the same frames and joints for all models, whatever joints each has."""

import dataclasses

import jax
import numpy as np
import pytest

from epfv2_jax.evaluation import compare, evaluate
from epfv2_jax.evaluation.compare import Contender
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.geometry.skeleton import EGOBODY3M, JointGroup, Skeleton
from epfv2_jax.metrics.visibility import ALL_JOINTS
from epfv2_jax.structs import Predictions
from epfv2_jax.testing import fakes

#: Joints of the records in another order, and one that they do not have.
ARM = Skeleton(
    name="arm",
    joint_names=("b_l_wrist", "thumb", "b_l_forearm", "b_head", "b_l_arm", "b_r_wrist"),
    parents=(-1, 0, 0, -1, 2, -1),
    mirror=(0, 1, 2, 3, 4, 5),
    root_between=(0,),
    groups=(JointGroup(name="wrist", joints=(0,)),),
    rest_offsets_m=((0.0, 0.0, 0.0),) * 6,
    rest_root_headset_m=(0.0, 0.0, 0.0),
)
SHARED = [name for name in EGOBODY3M.joint_names if name in ARM.joint_names]


def of_arm(predictions):
    """What a model with the joints of `ARM` would say in place of a model of the records' joints."""
    rows = [EGOBODY3M.joint_names.index(name) if name != "thumb" else 0 for name in ARM.joint_names]
    spread = predictions.distribution
    return Predictions(
        joints_headset_m=np.asarray(predictions.joints_headset_m)[:, :, rows],
        distribution=spread.replace(cholesky_m=spread.cholesky_m[:, :, rows]),
    )


def part(batch, a, b):
    return jax.tree.map(lambda leaf: leaf[a:b], batch)


@pytest.fixture(scope="module")
def batch():
    return fakes.mask_some(fakes.fake_batch(B=4, T=6))


def oracle(predictions, batch):
    """Returns a function that looks the answer up by the headset's poses."""
    table = {leaf.tobytes(): i for i, leaf in enumerate(batch.frames.T_world_headset)}
    return lambda frames: part(predictions, *(table[frames.T_world_headset[i].tobytes()] + (i < 0) for i in (0, -1)))


def test_each_model_gets_its_own_scores(batch):
    made = {name: fakes.fake_predictions(batch, seed, sigma) for name, seed, sigma in (("a", 1, 0.05), ("b", 2, 0.1))}
    contenders = {name: Contender(predict=oracle(p, batch), skeleton=EGOBODY3M) for name, p in made.items()}
    parts = [part(batch, 0, 3), part(batch, 3, 4)]
    found = compare.compare(contenders, parts, EGOBODY3M)
    for name, predictions in made.items():
        alone = evaluate.evaluate(oracle(predictions, batch), parts, EGOBODY3M)
        assert found[name].result.metrics == pytest.approx(alone.metrics, rel=1e-6)
        assert found[name].result.per_joint_cm == pytest.approx(alone.per_joint_cm, rel=1e-6)
        seen = found[name].in_view[ALL_JOINTS]
        share = seen["in_view_share"]
        both = share * seen["in_view_cm"] + (1 - share) * seen["out_of_view_cm"]
        assert both == pytest.approx(alone.metrics["mpjpe_cm"], rel=1e-5)
    assert found["a"].result.metrics["mpjpe_cm"] < found["b"].result.metrics["mpjpe_cm"]


def test_only_joints_that_all_models_know_count(batch):
    predictions = fakes.fake_predictions(batch)
    contenders = {
        "whole": Contender(predict=oracle(predictions, batch), skeleton=EGOBODY3M),
        "arm": Contender(predict=oracle(of_arm(predictions), batch), skeleton=ARM),
    }
    found = compare.compare(contenders, [batch], EGOBODY3M)
    whole, arm = (found[name].result for name in contenders)
    assert whole.metrics == pytest.approx(
        arm.metrics | {"proposal_mpjpe_cm": whole.metrics["proposal_mpjpe_cm"]}, rel=1e-6, nan_ok=True
    )
    measured = [name for name, cm in arm.per_joint_cm.items() if np.isfinite(cm)]
    assert measured == SHARED
    alone = evaluate.evaluate(oracle(predictions, batch), [batch], EGOBODY3M)
    assert arm.per_joint_cm["b_l_wrist"] == pytest.approx(alone.per_joint_cm["b_l_wrist"], rel=1e-6)
    assert np.isnan(arm.metrics["leg_cm"]) and np.isfinite(arm.metrics["wrist_cm"])


def test_the_drawn_frames_are_the_same_for_all_and_of_the_largest_mean_error(batch):
    joints = batch.targets.joints_headset_m
    clips = np.arange(4)[:, None, None, None]
    errors_m = {
        "a": np.where(clips == 0, 0.3, 0.0),
        "b": np.where(clips == 1, 0.2, 0.0) + np.where(clips == 0, 0.01, 0),
    }
    contenders = {
        name: Contender(
            predict=oracle(Predictions(joints_headset_m=(joints + error * [1, 0, 0]).astype(np.float32)), batch),
            skeleton=EGOBODY3M,
        )
        for name, error in errors_m.items()
    }
    found = compare.compare(contenders, [part(batch, 0, 2), part(batch, 2, 4)], EGOBODY3M, keep=Keep(worst=2, median=1))
    shown = {name: scores.result.worst for name, scores in found.items()}
    assert [[e.clip_id for e in examples] for examples in shown.values()] == [[0, 1], [0, 1]]
    assert [e.frame for e in shown["a"]] == [e.frame for e in shown["b"]]
    assert shown["a"][0].err_cm == shown["b"][0].err_cm == pytest.approx((30 + 1) / 2, rel=1e-3)
    for name, examples in shown.items():
        np.testing.assert_allclose(
            examples[0].joints_headset_m - examples[0].true_joints_headset_m,
            np.broadcast_to(errors_m[name][0, 0] * [1, 0, 0], (fakes.J, 3)),
            atol=1e-6,
        )
    (a,), (b,) = (found[name].result.median for name in contenders)
    assert (a.clip_id, a.frame) == (b.clip_id, b.frame) and a.clip_id in (2, 3)


def test_models_of_bodies_without_a_common_joint_are_refused():
    other = dataclasses.replace(ARM, joint_names=("a", "b", "c", "d", "e", "f"))
    with pytest.raises(
        ValueError, match=r"no joint has the same name .*the records: b_head, .*other: a, b, c, d, \.\.\."
    ):
        compare.shared_joints({"whole": EGOBODY3M, "other": other}, EGOBODY3M)
