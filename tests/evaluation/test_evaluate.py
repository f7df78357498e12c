"""Evaluation: batching and padding change nothing, the worst frames are the worst, files hold what was measured."""

import json

import jax
import numpy as np
import pytest

from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.evaluation import examples, tables
from epfv2_jax.evaluation.evaluate import MEAN_POSE, VIEWS_HIDDEN
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.testing import fakes


def oracle(predictions, batch):
    """Returns a predict_fn that looks the answer up by the headset pose of each clip."""
    table = {leaf.tobytes(): i for i, leaf in enumerate(batch.frames.T_world_headset)}

    def predict(frames):
        rows = [table[leaf.tobytes()] for leaf in np.asarray(frames.T_world_headset)]
        return jax.tree.map(lambda leaf: leaf[np.array(rows)], predictions)

    return predict


@pytest.fixture(scope="module")
def case():
    batch = fakes.mask_some(fakes.fake_batch(B=5, T=6))
    return batch, fakes.fake_predictions(batch)


def part(batch, a, b):
    return jax.tree.map(lambda leaf: leaf[a:b], batch)


def pad(batch, clips):
    """Returns `batch` with `clips` more rows that hold garbage and are marked as padding."""
    extra = part(batch, 0, clips)
    frames = extra.frames.replace(frame_valid=np.zeros_like(extra.frames.frame_valid))
    extra = extra.replace(frames=frames, clip_id=np.full_like(extra.clip_id, -1))
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), batch, extra)


def test_batching_and_padding_do_not_matter(case):
    batch, predictions = case
    pose = metrics.mean_pose([batch], EGOBODY3M)
    predict = oracle(predictions, batch)
    whole = evaluation.evaluate(predict, [batch], EGOBODY3M, pose, keep=Keep(worst=2))
    batches = [part(batch, 0, 2), part(batch, 2, 4), pad(part(batch, 4, 5), 1)]
    split = evaluation.evaluate(predict, batches, EGOBODY3M, pose, keep=Keep(worst=2))
    assert split.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert split.baselines[MEAN_POSE] == pytest.approx(whole.baselines[MEAN_POSE], rel=1e-5)
    assert split.per_joint_cm == pytest.approx(whole.per_joint_cm, rel=1e-5)
    assert [(e.clip_id, e.frame) for e in split.worst] == [(e.clip_id, e.frame) for e in whole.worst]
    assert whole.metrics["frames"] == batch.frames.frame_valid.sum()


def test_worst_frames_are_the_worst_of_their_clips(case):
    batch, predictions = case
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    err = np.linalg.norm(predictions.joints_headset_m - batch.targets.joints_headset_m, axis=-1)
    frame_err_cm = 100 * np.where(valid, err, 0).sum(-1) / np.maximum(valid.sum(-1), 1)
    result = evaluation.evaluate(
        oracle(predictions, batch), [part(batch, i, i + 1) for i in range(5)], EGOBODY3M, keep=Keep(worst=3)
    )
    assert len(result.worst) == 3
    np.testing.assert_allclose([e.err_cm for e in result.worst], np.sort(frame_err_cm.max(1))[::-1][:3], rtol=1e-5)
    for e in result.worst:
        assert e.err_cm == pytest.approx(frame_err_cm[e.clip_id, e.frame], rel=1e-5)
        np.testing.assert_array_equal(e.images, batch.frames.images[e.clip_id, e.frame])
        np.testing.assert_array_equal(e.joints_headset_m, predictions.joints_headset_m[e.clip_id, e.frame])
        np.testing.assert_array_equal(e.rig.T_cam_headset, batch.frames.rig.T_cam_headset[e.clip_id])
    assert result.baselines == result.baselines_per_joint_cm == {}


def test_best_frames_are_the_best_of_their_clips_and_know_the_errors_of_the_whole_clip(case):
    batch, predictions = case
    parts = [part(batch, i, i + 1) for i in range(5)]
    result = evaluation.evaluate(oracle(predictions, batch), parts, EGOBODY3M, keep=Keep(best=2))
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    err = np.linalg.norm(predictions.joints_headset_m - batch.targets.joints_headset_m, axis=-1)
    frame_err_cm = 100 * np.where(valid, err, 0).sum(-1) / np.maximum(valid.sum(-1), 1)
    frame_err_cm[~valid.any(-1)] = np.nan
    np.testing.assert_allclose([e.err_cm for e in result.best], np.sort(np.nanmin(frame_err_cm, axis=1))[:2], rtol=1e-5)
    for e in result.best:
        np.testing.assert_allclose(e.clip_err_cm, frame_err_cm[e.clip_id], rtol=1e-5)
    assert result.worst == result.median == ()


def test_median_frames_are_valid_and_from_other_clips(case):
    batch, predictions = case
    result = evaluation.evaluate(oracle(predictions, batch), [pad(batch, 2)], EGOBODY3M, keep=Keep(worst=2, median=10))
    assert len(result.median) == 3
    ids = [e.clip_id for e in result.median]
    assert len(set(ids)) == 3 and not set(ids) & {e.clip_id for e in result.worst} and -1 not in ids
    assert all(batch.frames.frame_valid[e.clip_id, e.frame] for e in result.median)


def test_the_sample_is_bounded_and_reaches_the_end_of_the_data():
    batch = fakes.fake_batch(B=60, T=1)
    sample = examples.Sample(10)
    ones = np.ones((60, 1))
    sample.add(examples.Clips(fakes.fake_predictions(batch), batch, ones, ones))
    ids = [e.clip_id for e in sample.median(100, set())]
    assert len(ids) == len(set(ids)) == 10
    assert max(ids) >= 30


def test_a_prediction_that_is_not_a_number_is_worst_and_shows(case):
    batch, predictions = case
    joints = predictions.joints_headset_m.copy()
    batch.targets.joint_valid[2, 3, 5] = True
    joints[2, 3, 5] = np.nan
    result = evaluation.evaluate(
        oracle(predictions.replace(joints_headset_m=joints), batch), [batch], EGOBODY3M, keep=Keep(worst=1)
    )
    assert (result.worst[0].clip_id, result.worst[0].frame) == (2, 3)
    assert np.isnan(result.metrics["mpjpe_cm"])


def test_nothing_to_evaluate(case):
    batch, predictions = case
    padding = part(pad(part(batch, 0, 1), 1), 1, 2)
    with pytest.raises(ValueError, match="no batch holds a valid frame"):
        evaluation.evaluate(oracle(predictions, batch), [padding], EGOBODY3M)
    with pytest.raises(ValueError, match="no batch holds a valid frame"):
        evaluation.evaluate(oracle(predictions, batch), [], EGOBODY3M)


def test_a_model_that_ignores_its_images_loses_nothing_without_them(case):
    batch, predictions = case
    views = evaluation.view_ablations(layout.EGOBODY3M)
    result = evaluation.evaluate(oracle(predictions, batch), [batch], EGOBODY3M, ablations=views)
    assert list(result.baselines) == [VIEWS_HIDDEN, *(f"{view} alone" for view in layout.EGOBODY3M.view_names)]
    for name in views:
        assert result.baselines[name] == pytest.approx(result.metrics)
        assert result.baselines_per_joint_cm[name] == pytest.approx(result.per_joint_cm)


def test_a_model_of_one_view_is_hurt_by_hiding_that_view_only(case):
    batch, predictions = case
    view_valid = np.ones_like(batch.frames.view_valid)
    view_valid[:, 0] = False  # no picture in any view of the first frames, whatever is shown
    batch = batch.replace(frames=batch.frames.replace(view_valid=view_valid))

    def predict(frames):
        """The truth where view 1 is seen, else 10 cm beside it."""
        offset = np.where(frames.view_valid[..., 1], 0.0, 0.1)[..., None, None] * np.array([1.0, 0.0, 0.0])
        return predictions.replace(joints_headset_m=(batch.targets.joints_headset_m + offset).astype(np.float32))

    views = evaluation.view_ablations(layout.EGOBODY3M)
    result = evaluation.evaluate(predict, iter([batch]), EGOBODY3M, ablations=views)
    counted = (batch.frames.frame_valid[..., None] & batch.targets.joint_valid).sum((0, 2))
    first_cm = 10 * counted[0] / counted.sum()
    found = {name: metrics_["mpjpe_cm"] for name, metrics_ in result.baselines.items()}
    seen, *unseen = (found.pop("left_front alone"), *found.values())
    assert result.metrics["mpjpe_cm"] == pytest.approx(first_cm, rel=1e-4)
    assert seen == pytest.approx(first_cm, rel=1e-4)
    assert unseen == pytest.approx([10.0] * 4, rel=1e-4)


def test_the_only_view_of_a_headset_is_not_shown_alone():
    one = layout.RigLayout(name="one", view_names=("front",), upright_turns=(0,))
    assert [(name, list(shown)) for name, shown in evaluation.view_ablations(one).items()] == [(VIEWS_HIDDEN, [False])]


def test_json_is_strict_and_complete(case, tmp_path):
    batch, predictions = case
    result = evaluation.evaluate(
        oracle(predictions, batch),
        [batch],
        EGOBODY3M,
        metrics.mean_pose([batch], EGOBODY3M),
        evaluation.view_ablations(layout.EGOBODY3M),
        keep=Keep(worst=1),
    )
    result.metrics["mpjve_cm"] = float("nan")
    path = tmp_path / "new" / "metrics.json"
    tables.write_json(result, path, {"checkpoint": "somewhere"})

    def refuse(constant):
        raise AssertionError(constant)

    data = json.loads(path.read_text(), parse_constant=refuse)
    assert data["checkpoint"] == "somewhere"
    assert data["metrics"]["mpjve_cm"] is None
    assert data["metrics"]["mpjpe_cm"] == pytest.approx(result.metrics["mpjpe_cm"])
    assert len(data["per_joint_cm"]) == fakes.J
    assert data["calibration"][0]["nominal"] == 0.1
    assert list(data["baselines"]) == list(data["baselines_per_joint_cm"]) == list(result.baselines)
    assert len(data["baselines"]) == 6
    for name, values in data["baselines"].items():
        assert values["mpjpe_cm"] == pytest.approx(result.baselines[name]["mpjpe_cm"])
        assert len(data["baselines_per_joint_cm"][name]) == fakes.J


def test_table_has_the_published_columns_in_their_order(case):
    batch, predictions = case
    result = evaluation.evaluate(
        oracle(predictions, batch),
        [batch],
        EGOBODY3M,
        metrics.mean_pose([batch], EGOBODY3M),
        evaluation.view_ablations(layout.EGOBODY3M),
    )
    result.baselines[VIEWS_HIDDEN]["mpjpe_cm"] *= 2
    table = tables.format_table(result, "tiny")
    head, *lines = table.splitlines()
    assert head.split() == ["cm", "MPJPE", "MPJVE", "wrist", "shoulder", "leg", "foot", "PA-MPJPE", "MPJVE", "m/s"]
    assert len({len(line) for line in table.splitlines()}) == 1, "not aligned"
    width = head.index(" MPJPE") - 4
    rows = {line[:width].strip(): [float(value) for value in line[width:].split()] for line in lines}
    model, mean_pose = result.metrics["mpjpe_cm"], result.baselines[MEAN_POSE]["mpjpe_cm"]
    expected = {
        "tiny": model,
        "mean pose": mean_pose,
        "tiny / mean pose": model / mean_pose,
        "views hidden": 2 * model,
        "views hidden / tiny": 2,
        **{f"{view} alone": model for view in layout.EGOBODY3M.view_names},
    }
    assert list(rows) == list(expected)
    assert [values[0] for values in rows.values()] == pytest.approx(list(expected.values()), abs=0.006)
    assert rows["tiny"][-2] == pytest.approx(result.metrics["pa_mpjpe_cm"], abs=0.006)


def test_joints_that_the_data_do_not_have_are_not_scored(case, tmp_path):
    """Whatever the model says about them. The table names them, and leaves groups without a scored joint out."""
    batch, predictions = case
    missing = [j for j, name in enumerate(EGOBODY3M.joint_names) if "wrist" in name or name == "b_head"]
    valid = batch.targets.joint_valid.copy()
    valid[..., missing] = False
    wild = predictions.joints_headset_m.copy()
    wild[:, :, missing] = 1e6
    part_ = batch.replace(targets=batch.targets.replace(joint_valid=valid))
    pose = metrics.mean_pose([part_], EGOBODY3M)
    result = evaluation.evaluate(oracle(predictions.replace(joints_headset_m=wild), batch), [part_], EGOBODY3M, pose)
    scored = [j for j in range(fakes.J) if j not in missing]
    err_m = np.linalg.norm(predictions.joints_headset_m - batch.targets.joints_headset_m, axis=-1)
    counted = (batch.frames.frame_valid[..., None] & valid)[..., scored]
    assert result.metrics["mpjpe_cm"] == pytest.approx(100 * err_m[..., scored][counted].mean(), rel=1e-4)
    assert result.unscored == ("b_head", "b_l_wrist", "b_r_wrist")
    assert tuple(result.groups) == ("shoulder", "leg", "foot")
    assert np.isfinite(list(result.baselines[MEAN_POSE].values())).sum() == len(result.baselines[MEAN_POSE]) - 1
    told = "scored: 23 of 26 joints; the data have no b_head, b_l_wrist, b_r_wrist"
    assert tables.format_table(result).splitlines()[-1] == told
    tables.write_json(result, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["unscored_joints"] == list(result.unscored)
    whole = evaluation.evaluate(oracle(predictions, batch), [batch], EGOBODY3M)
    assert whole.unscored == () and "scored" not in tables.format_table(whole)
