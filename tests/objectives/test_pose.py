"""The objective: the densities and differences it is made of, its masks, and that the parts of a batch add up."""

import jax
import numpy as np
import pytest
import scipy.stats

from epfv2_jax import objectives
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import linalg, masks
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.objectives import terms as losses
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.testing import fakes
from epfv2_jax.training import step

CONFIG = PoseObjectiveConfig()


def objective_value(predictions, batch, progress, config, counts=None):
    """Returns the loss, by `counts` of a whole batch or its own, and (total, count) of every term."""
    terms = objectives.build(config, EGOBODY3M)(predictions, batch, progress)
    return step.weighted_sum(terms, counts), {name: (term.total, term.count) for name, term in terms.items()}


def counts_of(batch, config=CONFIG):
    """The count of every term; they must not depend on predictions, so these are blank."""
    blank = jax.tree.map(np.zeros_like, fakes.fake_predictions(batch))
    return {name: count for name, (_, count) in pose_loss(blank, batch, 0.0, config)[1].items()}


pose_loss = jax.jit(objective_value, static_argnums=3)
loss_and_grad = jax.jit(jax.value_and_grad(objective_value, has_aux=True), static_argnums=3)
student_t_nll = jax.jit(losses.student_t_nll, static_argnums=2)
jerk = jax.jit(losses.jerk)
nll_and_grad = jax.jit(jax.value_and_grad(losses.student_t_nll, argnums=(0, 1)), static_argnums=2)


def cholesky_of(predictions):
    return predictions.distribution.cholesky_m


def with_cholesky(predictions, cholesky_m):
    return predictions.replace(distribution=predictions.distribution.replace(cholesky_m=cholesky_m))


def assert_same_gradient(gradient, expected):
    """Equal to float32's rounding of their largest entry: jerk's gradients are small sums of large numbers."""
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-12)


def test_nll_is_scipys_density_up_to_a_constant():
    rng = np.random.default_rng(0)
    lower = np.tril(rng.normal(size=(20, 3, 3)))
    lower[:, range(3), range(3)] = rng.uniform(0.3, 3, (20, 3))
    delta = rng.normal(0, 2, (20, 3))
    ours = student_t_nll(delta, lower, 4.0)
    reference = [
        -scipy.stats.multivariate_t.logpdf(d, np.zeros(3), L @ L.T, df=4) for d, L in zip(delta, lower, strict=True)
    ]
    difference = np.asarray(ours) - np.asarray(reference)
    np.testing.assert_allclose(difference, difference[0], atol=2e-5)


def test_solve_is_numpys():
    rng = np.random.default_rng(1)
    lower = np.tril(rng.normal(size=(7, 3, 3))) + 2 * np.eye(3)
    b = rng.normal(size=(7, 3))
    expected = np.linalg.solve(lower, b[..., None])[..., 0]
    np.testing.assert_allclose(jax.jit(linalg.solve_lower_3x3)(lower, b), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("diagonal", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("off_diagonal", [0.0, -50.0, 50.0])
@pytest.mark.parametrize("delta", [0.0, 1e-6, 30.0])
def test_nll_gradient_is_finite_at_the_extremes(diagonal, off_diagonal, delta):
    lower = diagonal * np.eye(3) + off_diagonal * np.tril(np.ones((3, 3)), -1)
    value, grads = nll_and_grad(np.full(3, delta), lower, 4.0)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_nll_is_least_at_the_scale_of_the_errors():
    delta = scipy.stats.multivariate_t.rvs(np.zeros(3), np.eye(3), df=4, size=4000, random_state=0)
    scales = np.array([0.5, 0.8, 1.0, 1.25, 2.0])
    nll = [np.mean(student_t_nll(delta, np.broadcast_to(s * np.eye(3), (4000, 3, 3)), 4.0)) for s in scales]
    assert scales[np.argmin(nll)] == 1.0


def test_mse_weight_is_a_cosine_between_one_and_the_floor():
    progress = np.linspace(-0.5, 1.5, 41)
    w = np.asarray(jax.jit(losses.mse_weight, static_argnums=1)(progress, 0.1))
    assert w[progress <= 0] == pytest.approx(1.0)
    assert w[progress >= 1] == pytest.approx(0.1)
    assert losses.mse_weight(0.5, 0.1) == pytest.approx(0.55)
    assert (np.diff(w) <= 1e-7).all()


def test_masked_nan_reaches_neither_value_nor_gradient():
    batch = fakes.mask_some(fakes.fake_batch())
    predictions = fakes.fake_predictions(batch)
    bad_batch, bad_predictions = fakes.poison(batch, predictions)
    assert np.isnan(bad_predictions.joints_headset_m).any() and np.isnan(bad_batch.frames.T_world_headset).any()

    (value, _), grads = loss_and_grad(predictions, batch, 0.5, CONFIG)
    (bad_value, _), bad_grads = loss_and_grad(bad_predictions, bad_batch, 0.5, CONFIG)
    np.testing.assert_array_equal(bad_value, value)
    jax.tree.map(np.testing.assert_array_equal, bad_grads, grads)
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
    assert (np.asarray(bad_grads.joints_headset_m)[~valid] == 0).all()


def test_unmasked_nan_is_seen():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch)
    batch.targets.joint_valid[0, 0, 3] = True
    predictions.joints_headset_m[0, 0, 3] = np.nan
    assert np.isnan(pose_loss(predictions, batch, 0.5, CONFIG)[0])


def test_a_batch_without_anything_valid_costs_nothing():
    batch = fakes.fake_batch()
    batch.frames.frame_valid[:] = False
    (value, _), grads = loss_and_grad(fakes.fake_predictions(batch), batch, 0.5, CONFIG)
    assert value == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_parts_with_the_whole_counts_add_up_to_the_whole():
    batch = fakes.mask_some(fakes.fake_batch(B=4))
    predictions = fakes.fake_predictions(batch)
    counts = counts_of(batch)
    (whole, terms), whole_grads = loss_and_grad(predictions, batch, 0.3, CONFIG, counts)
    parts = []
    for i in range(4):
        part = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (predictions, batch))
        parts.append(loss_and_grad(*part, 0.3, CONFIG, counts))
    np.testing.assert_allclose(sum(value for (value, _), _ in parts), whole, rtol=1e-5)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[g for _, g in parts])
    jax.tree.map(assert_same_gradient, joined, whole_grads)
    summed = jax.tree.map(lambda *leaves: np.sum(leaves), *[t for (_, t), _ in parts])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), summed, terms)


def test_loss_is_the_weighted_sum_of_its_terms():
    batch = fakes.mask_some(fakes.fake_batch())
    config = PoseObjectiveConfig(position_weight=0.7, jerk_weight=0.4)
    loss, terms = pose_loss(fakes.fake_predictions(batch), batch, 0.25, config)
    mean = {name: total / count for name, (total, count) in terms.items()}
    w_d = losses.mse_weight(0.25, config.mse_weight_floor)
    expected = 0.7 * (w_d * mean["refined_mse"] + (1 - w_d) * mean["refined_nll"] + mean["proposal_mse"])
    expected += 0.4 * (mean["refined_jerk"] + mean["proposal_jerk"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def with_pseudo(batch, pseudo, seed=5):
    """The batch with the clips of the mask `pseudo` labelled by a teacher with some uncertainty of its own."""
    cholesky = cholesky_of(fakes.fake_predictions(batch, seed=seed))
    return batch.replace(targets=batch.targets.replace(pseudo=np.asarray(pseudo), cholesky_m=cholesky))


def test_semi_supervised_loss_is_that_of_the_labelled_plus_that_of_the_pseudo_labelled_clips():
    batch = fakes.mask_some(fakes.fake_batch(B=4))
    predictions = fakes.fake_predictions(batch)
    mixed = with_pseudo(batch, [True, False, False, True])
    config = PoseObjectiveConfig(pseudo_weight=0.3, distillation_weight=0.0)
    loss, terms = pose_loss(predictions, mixed, 0.4, config)
    parts = []
    for clips in ([1, 2], [0, 3]):
        part = jax.tree.map(lambda leaf, clips=clips: leaf[np.asarray(clips)], (predictions, batch))
        parts.append(pose_loss(*part, 0.4, config))
    np.testing.assert_allclose(loss, parts[0][0] + 0.3 * parts[1][0], rtol=1e-5)
    for name, term in parts[1][1].items():
        np.testing.assert_allclose(terms[f"pseudo_{name}"], term, rtol=1e-5)
        np.testing.assert_allclose(terms[name], parts[0][1][name], rtol=1e-5)


def test_distillation_is_least_at_the_teachers_uncertainty_and_touches_pseudo_labelled_clips_only():
    mixed = with_pseudo(fakes.fake_batch(B=3), [True, False, True])
    predictions = fakes.fake_predictions(mixed)
    config = PoseObjectiveConfig(distillation_weight=0.5)
    (loss, terms), grads = loss_and_grad(predictions, mixed, 0.0, config)  # at progress 0 the likelihood has no weight
    without = pose_loss(predictions, mixed, 0.0, PoseObjectiveConfig(distillation_weight=0.0))[0]
    total, count = terms["distillation"]
    np.testing.assert_allclose(loss - without, 0.5 * total / count, rtol=1e-4)
    valid = np.array([True, False, True])[:, None, None] & mixed.targets.joint_valid
    assert (np.asarray(cholesky_of(grads))[valid] != 0).any(axis=(-2, -1)).all()
    assert (np.asarray(cholesky_of(grads))[~valid] == 0).all()
    same = with_cholesky(predictions, mixed.targets.cholesky_m)
    assert pose_loss(same, mixed, 0.0, config)[1]["distillation"][0] == 0


def test_parts_of_a_mixed_batch_add_up_to_the_whole():
    mixed = with_pseudo(fakes.mask_some(fakes.fake_batch(B=4)), [False, True, True, False])
    predictions = fakes.fake_predictions(mixed)
    counts = counts_of(mixed)
    (whole, terms), whole_grads = loss_and_grad(predictions, mixed, 0.3, CONFIG, counts)
    np.testing.assert_allclose(whole, pose_loss(predictions, mixed, 0.3, CONFIG)[0], rtol=1e-6)
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (predictions, mixed)) for i in range(4)]
    parts = [loss_and_grad(*part, 0.3, CONFIG, counts) for part in parts]
    np.testing.assert_allclose(sum(value for (value, _), _ in parts), whole, rtol=1e-5)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[g for _, g in parts])
    jax.tree.map(assert_same_gradient, joined, whole_grads)
    summed = jax.tree.map(lambda *leaves: np.sum(leaves), *[t for (_, t), _ in parts])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), summed, terms)
    assert terms["distillation"][1] > 0 and terms["pseudo_refined_jerk"][1] > 0


def test_the_degrees_of_freedom_are_those_of_the_prediction():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch)
    values = []
    for nu in (4.0, 9.0):
        stated = predictions.replace(distribution=predictions.distribution.replace(degrees_of_freedom=nu))
        _, terms = pose_loss(stated, batch, 1.0, CONFIG)
        valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
        delta = (predictions.joints_headset_m - batch.targets.joints_headset_m) / CONFIG.unit_m
        nll = student_t_nll(delta, cholesky_of(predictions) / CONFIG.unit_m, nu)
        np.testing.assert_allclose(terms["refined_nll"][0], np.asarray(nll)[valid].sum(), rtol=1e-4)
        values.append(terms["refined_nll"][0])
    assert abs(values[0] - values[1]) > 1


def test_every_intermediate_pose_has_its_terms():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch)
    truth, final = batch.targets.joints_headset_m, predictions.joints_headset_m
    three = predictions.replace(intermediate_joints_m={"proposal": final, "layer_1": truth})
    _, terms = pose_loss(three, batch, 0.5, CONFIG)
    assert terms["layer_1_mse"][0] == 0 and terms["proposal_mse"] == terms["refined_mse"]
    none, terms = pose_loss(predictions.replace(intermediate_joints_m={}), batch, 0.0, CONFIG)
    np.testing.assert_allclose(
        none,
        terms["refined_mse"][0] / terms["refined_mse"][1] + 0.8 * terms["refined_jerk"][0] / terms["refined_jerk"][1],
        rtol=1e-5,
    )
    assert not [name for name in terms if "proposal" in name]


def test_a_teachers_uncertainty_is_wanted_where_it_is_used():
    for predicts, weight, wanted in ((True, 0.1, True), (True, 0.0, False), (False, 0.1, False)):
        objective = objectives.build(PoseObjectiveConfig(distillation_weight=weight), EGOBODY3M)
        assert objective.uses_teacher_uncertainty(predicts) == wanted
        # What it says is what it does: without the teacher's uncertainty the terms are there, or are not asked for.
        mixed = with_pseudo(fakes.fake_batch(B=2), [True, False])
        mixed = mixed.replace(targets=mixed.targets.replace(cholesky_m=None))
        predictions = fakes.fake_predictions(mixed)
        predictions = predictions if predicts else predictions.replace(distribution=None)
        if wanted:
            with pytest.raises((AttributeError, ValueError, AssertionError)):
                jax.eval_shape(objective, predictions, mixed, 0.5)
        else:
            assert "distillation" not in jax.eval_shape(objective, predictions, mixed, 0.5)


@pytest.mark.parametrize("kind", objectives.OBJECTIVES)
def test_every_objective_is_found_by_its_kind_and_is_static_under_jit(kind):
    (one_of,) = objectives.ObjectiveConfig.__metadata__
    config = one_of.convert({"kind": kind}, "objective")
    assert one_of.config_class(kind, "objective")().kind == config.kind == kind
    assert type(objectives.build(config, EGOBODY3M)) is objectives.OBJECTIVES[kind]
    assert one_of.convert(config_lib.to_mapping(config), "objective") == config
    assert {objectives.build(config, EGOBODY3M), objectives.build(config, EGOBODY3M)} == {
        objectives.build(config, EGOBODY3M)
    }


def test_without_uncertainty_progress_does_not_matter():
    batch = fakes.fake_batch()
    predictions = fakes.fake_predictions(batch).replace(distribution=None)
    values = [pose_loss(predictions, batch, p, CONFIG) for p in (0.0, 1.0)]
    assert values[0][0] == values[1][0]
    assert "refined_nll" not in values[0][1]


def test_jerk_belongs_to_the_world_not_to_the_head():
    """A body that accelerates evenly has no jerk, however the head turns; seen from the head it would have some."""
    batch = fakes.fake_batch(B=1, T=8)
    T_world_headset = batch.frames.T_world_headset
    t = np.arange(8)[:, None, None] / 30
    joints_world = fakes.rest_joints() + [0.0, 1.5, 0.0] + 0.4 * t + 2.0 * t**2
    inverse = np.linalg.inv(T_world_headset[0].astype(np.float64))
    joints = np.einsum("tab,tjb->tja", inverse[:, :3, :3], joints_world) + inverse[:, None, :3, 3]
    joints = joints[None].astype(np.float32)
    in_world = np.abs(jerk(joints, T_world_headset, batch.time_s)).max()
    still = np.broadcast_to(np.eye(4, dtype=np.float32), T_world_headset.shape)
    in_head = np.abs(jerk(joints, still, batch.time_s)).max()
    assert in_world < 1e-5
    assert in_head > 1e-2


@pytest.mark.parametrize("rate_hz", [10, 15, 30, 60, None])
def test_the_jerk_term_of_a_motion_does_not_depend_on_the_frame_rate(rate_hz):
    """Per valid difference; on a circle the jerk is radius * omega^3. None: uneven times."""
    batch, joints = fakes.circling(rate_hz, radius_m=0.3, period_s=2.0)
    predictions = fakes.fake_predictions(batch).replace(joints_headset_m=joints)
    total, count = pose_loss(predictions, batch, 0.0, CONFIG)[1]["refined_jerk"]
    jerk_m = 0.3 * (2 * np.pi / 2.0) ** 3 / 30**3  # per (1/30 s)^3
    assert count == (joints.shape[1] - 3) * fakes.J
    # The divided difference over three times 0.1 s is 1.2 % below the derivative; the square doubles that.
    np.testing.assert_allclose(total / count, (jerk_m / CONFIG.unit_m) ** 2, rtol=0.04)


def test_at_30_frames_a_second_the_jerk_is_the_third_difference():
    batch = fakes.fake_batch(T=16)
    joints, T_world_headset = batch.targets.joints_headset_m, batch.frames.T_world_headset
    world = np.einsum("btij,btkj->btki", T_world_headset[..., :3, :3], joints) + T_world_headset[..., None, :3, 3]
    found = jerk(joints, T_world_headset, batch.time_s)
    np.testing.assert_allclose(found, np.diff(world, n=3, axis=1), atol=1e-5)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_clips_too_short_for_a_jerk(T):
    batch = fakes.fake_batch(T=T)
    loss, terms = pose_loss(fakes.fake_predictions(batch), batch, 0.5, CONFIG)
    assert np.isfinite(loss)
    assert terms["refined_jerk"] == (0, 0)


def test_consecutive_frames_end_at_gaps_padding_and_invalid_joints():
    frame_valid = np.ones((1, 10), bool)
    frame_valid[0, 9:] = False
    frame_gap = np.ones((1, 10), int)
    frame_gap[0, 0] = 7  # before the first frame: no matter
    frame_gap[0, 5] = 2
    joint_valid = np.ones((1, 10, 2), bool)
    joint_valid[0, 1, 1] = False
    consecutive = jax.jit(masks.consecutive, static_argnums=3)
    for order in (1, 3):
        mask = np.asarray(consecutive(frame_valid, frame_gap, joint_valid, order))
        assert mask.shape == (1, 10 - order, 2)
        for t in range(10 - order):
            unbroken = not (t < 5 <= t + order) and t + order < 9
            assert mask[0, t, 0] == unbroken
            assert mask[0, t, 1] == (unbroken and not t <= 1 <= t + order)


def test_order_of_clips_and_joints_does_not_matter():
    batch = fakes.mask_some(fakes.fake_batch())
    predictions = fakes.fake_predictions(batch)
    whole = pose_loss(predictions, batch, 0.5, CONFIG)[0]
    order = np.random.default_rng(0).permutation(fakes.J)
    targets = jax.tree.map(lambda leaf: leaf[::-1][:, :, order], batch.targets)
    shuffled = jax.tree.map(lambda leaf: leaf[::-1], batch).replace(targets=targets)
    moved = jax.tree.map(lambda leaf: leaf[::-1][:, :, order], predictions)
    np.testing.assert_allclose(pose_loss(moved, shuffled, 0.5, CONFIG)[0], whole, rtol=1e-5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("position_weight", -1.0),
        ("jerk_weight", float("nan")),
        ("distillation_weight", -1.0),
        ("unit_m", float("inf")),
        ("mse_weight_floor", 1.5),
    ],
)
def test_bad_config_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        PoseObjectiveConfig(**{field: value})


def test_eight_devices_give_the_loss_and_gradient_of_one():
    batch = fakes.mask_some(fakes.fake_batch(B=8))
    predictions = fakes.fake_predictions(batch)
    (one, _), grads = loss_and_grad(predictions, batch, 0.3, CONFIG)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    (eight, _), split_grads = loss_and_grad(*jax.device_put((predictions, batch), split), 0.3, CONFIG)
    assert len(jax.tree.leaves(split_grads)[0].sharding.device_set) == 8
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    jax.tree.map(assert_same_gradient, split_grads, grads)
