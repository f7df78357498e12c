"""The objective of UnrealEgo's second stage: its value by hand, its masks, its singular points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax import objectives
from epfv2_jax.core import linalg
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.objectives.unrealego import UnrealEgoObjectiveConfig
from epfv2_jax.testing import fakes
from epfv2_jax.training import step

B, T, V, K = 3, 6, 4, 2
OBJECTIVE = objectives.build(UnrealEgoObjectiveConfig(), EGOBODY3M)
BONES = [(joint, parent) for joint, parent in enumerate(EGOBODY3M.parents) if parent >= 0]


def make(seed=0):
    """A batch with masked joints and padding, and predictions with heatmaps of both kinds."""
    rng = np.random.default_rng(seed)
    batch = fakes.mask_some(fakes.fake_batch(B=B, T=T))
    maps = {name: rng.normal(size=(B, T, V, 5, 4, K)).astype(np.float32) for name in ("predicted", "reconstructed")}
    return batch, fakes.fake_predictions(batch).replace(heatmaps=maps)


@jax.jit
def value_and_grads(predictions, batch):
    def loss(joints_m, maps):
        terms = OBJECTIVE(predictions.replace(joints_headset_m=joints_m, heatmaps=maps), batch, 0.0)
        return step.weighted_sum(terms), terms

    grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return grads(predictions.joints_headset_m, predictions.heatmaps)


def test_without_masks_it_is_the_published_sum():
    batch, predictions = make()
    batch = batch.replace(
        frames=batch.frames.replace(frame_valid=np.ones((B, T), bool)),
        targets=batch.targets.replace(joint_valid=np.ones_like(batch.targets.joint_valid)),
    )
    (value, _), _ = value_and_grads(predictions, batch)
    joints_cm, truth_cm = 100 * predictions.joints_headset_m, 100 * batch.targets.joints_headset_m
    mpjpe = np.linalg.norm(joints_cm - truth_cm, axis=-1).mean()
    joint, parent = np.array(BONES).T
    bones, truth = (x[..., joint, :] - x[..., parent, :] for x in (joints_cm, truth_cm))
    cosines = (bones * truth).sum(-1) / np.linalg.norm(bones, axis=-1) / np.linalg.norm(truth, axis=-1)
    error = predictions.heatmaps["reconstructed"] - predictions.heatmaps["predicted"]
    by_view = (error**2).mean((0, 1, 3, 4, 5))
    expected = 0.1 * mpjpe - 0.001 * cosines.sum(-1).mean() + 0.001 * by_view.sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert 0.001 * abs(cosines.sum(-1).mean()) > 1e-4 * expected, "the bones would not show"


def test_what_lies_under_masks_reaches_neither_value_nor_gradient():
    batch, predictions = make()
    poisoned_batch, poisoned = fakes.poison(batch, predictions)
    hidden = ~batch.frames.frame_valid
    maps = {name: np.where(hidden[..., None, None, None, None], np.nan, m) for name, m in predictions.heatmaps.items()}
    expected, found = (
        value_and_grads(predictions, batch),
        value_and_grads(poisoned.replace(heatmaps=maps), poisoned_batch),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert np.isfinite(found[0][0]) and hidden.any()


def test_counts_are_those_of_the_batch_alone():
    batch, predictions = make()
    _, other = make(seed=5)
    other = other.replace(joints_headset_m=np.zeros_like(other.joints_headset_m))
    (_, terms), _ = value_and_grads(predictions, batch)
    (_, others), _ = value_and_grads(other, batch)
    assert {n: float(t.count) for n, t in terms.items()} == {n: float(t.count) for n, t in others.items()}


def test_predicted_heatmaps_are_targets_without_gradient():
    batch, predictions = make()
    _, (_, maps) = value_and_grads(predictions, batch)
    assert not maps["predicted"].any() and maps["reconstructed"].any()


def test_a_bone_without_a_length_has_no_direction():
    """EgoBody3M has one in each leg. What numbers leave of its length must not turn a predicted one."""
    batch, predictions = make()
    truth = np.broadcast_to(fakes.rest_joints(), batch.targets.joints_headset_m.shape).astype(np.float32)
    short = [j for j, parent in BONES if np.allclose(truth[0, 0, j], truth[0, 0, parent])]
    assert len(short) == 2
    noisy = truth.copy()
    noisy[..., short, :] += 1e-6
    valid = np.ones_like(batch.targets.joint_valid)
    batch = batch.replace(
        frames=batch.frames.replace(frame_valid=np.ones((B, T), bool)),
        targets=batch.targets.replace(joints_headset_m=noisy, joint_valid=valid),
    )
    (_, terms), _ = value_and_grads(predictions, batch)
    assert terms["cosine"].count == (len(BONES) - 2) * B * T


@pytest.mark.parametrize("where", ["truth", "one point"])
def test_gradients_are_finite_at_the_singular_points(where):
    batch, predictions = make()
    truth = batch.targets.joints_headset_m
    joints = truth if where == "truth" else np.zeros_like(truth)
    (value, _), grads = value_and_grads(predictions.replace(joints_headset_m=joints), batch)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_length_and_its_gradient_at_zero():
    x = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(linalg.norm(x), [5, 0])
    np.testing.assert_allclose(jax.grad(lambda x: linalg.norm(x).sum())(x), [[0.6, 0.8, 0], [0, 0, 0]])


def test_a_model_without_reconstruction_is_refused():
    batch, predictions = make()
    with pytest.raises(ValueError, match="reconstructed heatmaps of the model: there are none; choose a model"):
        OBJECTIVE(predictions.replace(heatmaps={}), batch, 0.0)
