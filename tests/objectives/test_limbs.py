"""Limbs in the images: where their maps lie, what is masked, and that the term reaches the encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax import models
from epfv2_jax.geometry.layout import EGOBODY3M as LAYOUT
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.objectives import limbs
from epfv2_jax.objectives.pose import PoseObjective, PoseObjectiveConfig
from epfv2_jax.structs import Predictions
from epfv2_jax.testing import fakes
from epfv2_jax.training import step

SIZE_HW = (12, 10)
IMAGE_HW = (48, 40)
OBJECTIVE = PoseObjective(PoseObjectiveConfig(limb_weight=5.0), SKELETON)


def batch_of(B=2, T=3, seed=0):
    """People who reach about, seen in images of 48x40 pixels."""
    joints = fakes.rest_joints() + np.random.default_rng(seed).normal(0, 0.25, (B, T, fakes.J, 3))
    return fakes.mask_some(fakes.fake_batch(B=B, T=T, image_hw=IMAGE_HW, joints=joints))


def logits_of(maps):
    return jnp.log(jnp.clip(maps, 1e-6, 1 - 1e-6)) - jnp.log1p(-jnp.clip(maps, 1e-6, 1 - 1e-6))


def predictions_of(logits, batch):
    return Predictions(joints_headset_m=jnp.asarray(batch.targets.joints_headset_m), limb_logits=logits)


def maps_of(batch):
    return limbs.limb_maps(batch.targets.joints_headset_m, batch.frames.rig, SIZE_HW, SKELETON)


def test_a_map_is_high_along_its_limb_and_nowhere_else():
    batch = batch_of()
    maps = np.asarray(maps_of(batch))
    size = np.array([SIZE_HW[1], SIZE_HW[0]])
    cells = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1) + 0.5  # (h, w, 2)
    joints = batch.targets.joints_headset_m
    tried = 0
    for i, (parent, joint) in enumerate(SKELETON.limbs):
        share = np.linspace(0, 1, 101)[:, None]
        points = joints[:, :, None, parent] * (1 - share) + joints[:, :, None, joint] * share
        place, seen = map(np.asarray, batch.frames.rig.project(points.astype(np.float32)))
        for b, t, v in np.ndindex(*seen.shape[:3]):
            if not seen[b, t, v].all():
                continue
            steps = np.linalg.norm(np.diff(place[b, t, v] * size, axis=0), axis=-1)
            if steps.sum() > 5:  # its few projected points would be far apart
                continue
            nearest = np.linalg.norm(cells[:, :, None] - place[b, t, v] * size, axis=-1).min(-1)
            assert (maps[b, t, v, ..., i][nearest < 0.3] > 0.6).all()
            assert (maps[b, t, v, ..., i][nearest > 3 * limbs.SIGMA_CELLS] < 0.02).all()
            tried += 1
    assert tried > 50


def test_points_that_no_lens_sees_leave_no_trace():
    batch = batch_of()
    behind = np.broadcast_to(np.float32([0.0, 0.0, -5.0]), batch.targets.joints_headset_m.shape)
    _, seen = batch.frames.rig.project(behind)
    assert not np.asarray(seen).any()
    assert not np.asarray(limbs.limb_maps(behind, batch.frames.rig, SIZE_HW, SKELETON)).any()


def test_the_true_maps_have_the_least_loss_and_masked_values_have_no_part_in_it():
    batch = batch_of()
    batch.frames.view_valid[1, 1, 2] = False
    truth = maps_of(batch)

    def loss(logits, batch):
        return limbs.limb_term(predictions_of(logits, batch), batch, SKELETON, 1.0)

    grad = jax.grad(lambda maps: loss(maps, batch).total)(jnp.zeros(truth.shape))
    valid = batch.targets.joint_valid & batch.frames.frame_valid[..., None]
    ends = [valid[..., list(end)] for end in zip(*SKELETON.limbs, strict=True)]
    counted = (ends[0] & ends[1])[:, :, None] & batch.frames.view_valid[..., None]
    counted = np.broadcast_to(counted[:, :, :, None, None], truth.shape)
    assert 0 < counted.mean() < 1
    np.testing.assert_array_equal(np.asarray(grad) != 0, counted)
    assert loss(jnp.zeros(truth.shape), batch).count == counted.sum()
    there = np.asarray(truth) > 0.9
    assert (np.asarray(grad)[there & counted] < 0).all(), "log odds rise on a limb"
    assert loss(logits_of(truth), batch).total < 0.5 * loss(jnp.zeros(truth.shape), batch).total
    poisoned = batch.targets.replace(
        joints_headset_m=np.where(valid[..., None], batch.targets.joints_headset_m, np.nan)
    )
    again = jax.grad(lambda maps: loss(maps, batch.replace(targets=poisoned)).total)(jnp.zeros(truth.shape))
    np.testing.assert_array_equal(grad, again)


def test_a_model_without_limbs_is_refused():
    batch = batch_of()
    with pytest.raises(ValueError, match=r"limbs of the model: there are none; set model\.limb_maps"):
        OBJECTIVE(predictions_of(None, batch), batch, 0.0)
    assert "limbs" not in PoseObjective(PoseObjectiveConfig(), SKELETON)(predictions_of(None, batch), batch, 0.0)


def test_the_model_finds_limbs_in_training_alone_and_the_term_trains_its_encoder():
    batch = batch_of()
    config = EPFv2Config(encoder="tiny", window=4, limb_maps=True)
    model = models.build(config, SKELETON, LAYOUT)
    variables = jax.jit(model.init)(jax.random.key(0), batch.frames)
    plain = models.build(EPFv2Config(encoder="tiny", window=4), SKELETON, LAYOUT)
    without = {name: value for name, value in variables["params"].items() if name != "limb_head"}
    chosen = {**variables, "params": without}
    assert model.apply(variables, batch.frames).limb_logits is None
    np.testing.assert_array_equal(
        model.apply(variables, batch.frames).joints_headset_m, plain.apply(chosen, batch.frames).joints_headset_m
    )

    def loss(params):
        predictions, _ = model.apply({**variables, "params": params}, batch.frames, train=True, mutable=["batch_stats"])
        assert predictions.limb_logits.shape == (*batch.frames.view_valid.shape, 12, 10, len(SKELETON.limbs))
        return step.weighted_sum({"limbs": limbs.limb_term(predictions, batch, SKELETON, 1.0)})

    grads = jax.jit(jax.grad(loss))(variables["params"])
    moved = {name: any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree)) for name, tree in grads.items()}
    assert {name for name, yes in moved.items() if yes} == {"encoder", "to_tokens", "limb_head"}
