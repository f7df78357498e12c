"""The objective of heatmaps: where the Gaussians lie, what is masked, and what is refused."""

import jax
import numpy as np
import pytest

from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.objectives import heatmap
from epfv2_jax.objectives.heatmap import HeatmapObjective, HeatmapObjectiveConfig
from epfv2_jax.structs import Predictions
from epfv2_jax.testing import fakes
from epfv2_jax.training import step

SIZE_HW = (12, 10)
IMAGE_HW = (48, 40)


def batch_of(B=2, T=3, seed=0):
    """People who reach about, seen in images of 48x40 pixels."""
    rng = np.random.default_rng(seed)
    joints = fakes.rest_joints() + rng.normal(0, 0.25, (B, T, fakes.J, 3))
    return fakes.mask_some(fakes.fake_batch(B=B, T=T, image_hw=IMAGE_HW, joints=joints))


def predictions_of(heatmaps, batch):
    return Predictions(joints_headset_m=batch.targets.joints_headset_m, heatmaps={"predicted": heatmaps})


def counted_of(batch):
    """The joints (B, T, V, 1, 1, J) that count in each view: those with a label, where the view is valid."""
    valid = batch.targets.joint_valid & batch.frames.frame_valid[..., None]
    return (valid[:, :, None] & batch.frames.view_valid[..., None])[:, :, :, None, None]


@jax.jit
def seen_by(camera, T_cam_headset, joints_headset_m):
    return cameras.project(camera, transforms.apply(T_cam_headset, joints_headset_m))


def naive(batch, sigma):
    """The same maps cell by cell, in float64, and the joints that a camera sees within its image."""
    frames, joints = batch.frames, batch.targets.joints_headset_m.astype(np.float64)
    B, T, V = frames.view_valid.shape
    maps, inside = np.zeros((B, T, V, *SIZE_HW, fakes.J)), np.zeros((B, T, V, fakes.J), bool)
    for b, t, v in np.ndindex(B, T, V):
        camera = jax.tree.map(lambda leaf, b=b, v=v: leaf[b, v], frames.rig.cameras)
        uv, seen = map(np.asarray, seen_by(camera, frames.rig.T_cam_headset[b, v], joints[b, t]))
        for j in range(fakes.J):
            column, row = (uv[j] + 0.5) / 4 - 0.5  # four pixels a cell
            row, column = round(row), round(column)
            inside[b, t, v, j] = seen[j] and 0 <= row < SIZE_HW[0] and 0 <= column < SIZE_HW[1]
            for h, w in np.ndindex(*SIZE_HW):
                if seen[j] and max(abs(h - row), abs(w - column)) <= round(3 * sigma):
                    maps[b, t, v, h, w, j] = np.exp(-((h - row) ** 2 + (w - column) ** 2) / (2 * sigma**2))
    return maps, inside


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_a_map_is_a_gaussian_at_the_joint_and_zero_where_it_is_not_seen(sigma):
    batch = batch_of()
    expected, inside = naive(batch, sigma)
    found = np.asarray(heatmap.gaussians(batch.targets.joints_headset_m, batch.frames.rig, SIZE_HW, sigma))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    peaks = found.max((3, 4))
    assert inside.any() and (peaks[inside] == 1).all()
    assert (peaks == 0).any() and (peaks[~inside] < 1).all()
    cut_off = (peaks > 0) & ~inside
    assert cut_off.any(), "a joint just outside the image would reach into it"


def test_the_loss_is_the_weighted_mean_of_squares_over_what_is_labelled_and_visible():
    batch = batch_of()
    batch.frames.view_valid[1, 1, 2] = False
    truth = heatmap.gaussians(batch.targets.joints_headset_m, batch.frames.rig, SIZE_HW, 1.0)
    noise = np.random.default_rng(1).normal(0, 0.1, truth.shape).astype(np.float32)
    objective = HeatmapObjective(HeatmapObjectiveConfig(weight=3.0), EGOBODY3M)
    assert step.weighted_sum(objective(predictions_of(truth, batch), batch, 0.0)) == 0
    counted = np.broadcast_to(counted_of(batch), noise.shape)
    assert 0 < counted.mean() < 1
    loss = step.weighted_sum(objective(predictions_of(truth + noise, batch), batch, 0.0))
    np.testing.assert_allclose(loss, 3.0 * (noise[counted] ** 2).mean(), rtol=1e-4)


def test_nan_under_masks_reaches_neither_value_nor_gradient():
    batch = batch_of()
    batch.frames.view_valid[0, 0, 1] = False
    objective = HeatmapObjective(HeatmapObjectiveConfig(), EGOBODY3M)
    maps = np.random.default_rng(2).random((2, 3, 4, *SIZE_HW, fakes.J), np.float32)
    counted = counted_of(batch)
    valid = batch.targets.joint_valid & batch.frames.frame_valid[..., None]
    joints = np.where(valid[..., None], batch.targets.joints_headset_m, np.nan)
    broken = batch.replace(targets=batch.targets.replace(joints_headset_m=joints))

    def loss(maps, batch):
        return step.weighted_sum(objective(predictions_of(maps, batch), batch, 0.0))

    value, gradient = jax.value_and_grad(loss)(maps, batch)
    again, gradient_again = jax.value_and_grad(loss)(np.where(counted, maps, np.nan), broken)
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(gradient_again, gradient)
    assert (np.asarray(gradient) != 0).any()
    assert (np.asarray(gradient)[~np.broadcast_to(counted, gradient.shape)] == 0).all()


def test_joints_are_chosen_by_name_in_the_order_of_the_maps():
    batch = batch_of()
    names = ("b_r_wrist", "b_l_arm")
    every = heatmap.gaussians(batch.targets.joints_headset_m, batch.frames.rig, SIZE_HW, 1.0)
    objective = HeatmapObjective(HeatmapObjectiveConfig(heatmap_joints=names), EGOBODY3M)
    order = [EGOBODY3M.index(name) for name in names]
    assert step.weighted_sum(objective(predictions_of(every[..., order], batch), batch, 0.0)) == 0
    assert step.weighted_sum(objective(predictions_of(every[..., order[::-1]], batch), batch, 0.0)) > 0


def test_what_does_not_fit_is_refused():
    batch = batch_of()
    objective = HeatmapObjective(HeatmapObjectiveConfig(), EGOBODY3M)
    with pytest.raises(ValueError, match="heatmaps of the model: there are none; choose a model that predicts some"):
        objective(Predictions(joints_headset_m=batch.targets.joints_headset_m), batch, 0.0)
    with pytest.raises(ValueError, match=r"heatmap_joints, number of joints: expected 3, got 26; give the model's"):
        objective(predictions_of(np.zeros((2, 3, 4, *SIZE_HW, 3), np.float32), batch), batch, 0.0)
    typo = HeatmapObjective(HeatmapObjectiveConfig(heatmap_joints=("b_r_wirst",)), EGOBODY3M)
    with pytest.raises(ValueError, match="did you mean b_r_wrist"):
        typo(predictions_of(np.zeros((2, 3, 4, *SIZE_HW, 1), np.float32), batch), batch, 0.0)
    with pytest.raises(ValueError, match="sigma: must be above 0"):
        HeatmapObjectiveConfig(sigma=0.0)
