"""The train step on a tiny model: what it may and may not change, and the equivalences between its layouts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from epfv2_jax import models, objectives, structs
from epfv2_jax.core import masks, sharding
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.epfv2.model import EPFv2Config
from epfv2_jax.objectives import Term
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.profiling import cost
from epfv2_jax.testing.fakes import fake_batch, fake_predictions
from epfv2_jax.training import augment, optim, state, step

# The smallest model that has every part but forward kinematics: what these tests cost is its compilation.
MODEL = models.build(
    EPFv2Config(
        encoder="tiny", body="keypoints", limb_maps=True, width=16, heads=2, ffn_width=16, head_width=16, window=4
    ),
    EGOBODY3M,
    layouts.EGOBODY3M,
)
#: For what the step does around the model.
PLAIN = models.build(
    dataclasses.replace(MODEL.config, temporal=False, projection_conditioning=False, limb_maps=False),
    EGOBODY3M,
    layouts.EGOBODY3M,
)
OBJECTIVE = objectives.build(PoseObjectiveConfig(), EGOBODY3M)
AUGMENT = augment.AugmentConfig(brightness=0.0, contrast=0.0, gamma=0.0, blur_px=0.0, view_dropout=0.0)
OPTIMIZER = optim.make_optimizer(optim.OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 100)
KEY = jax.random.key(7)


def batch_of(B=8, seed=0):
    return fake_batch(B=B, T=5, seed=seed, image_hw=(16, 16))


@functools.cache
def compiled(devices, fsdp=1, accumulation=1, model=MODEL):
    mesh_config = sharding.MeshConfig(fsdp=fsdp, min_shard_size=64)
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:devices])
    create = functools.partial(state.create_state, jax.random.key(0), model, OPTIMIZER, batch_of(1).frames)
    shardings = sharding.state_sharding(jax.eval_shape(create), mesh, mesh_config)
    learner = step.Learner(
        model=model,
        objective=objectives.build(PoseObjectiveConfig(limb_weight=float(model.config.limb_maps)), EGOBODY3M),
        optimizer=OPTIMIZER,
        augment=AUGMENT,
        config=step.StepConfig(steps=100, accumulation=accumulation, ema_decay=0.9),
    )
    return mesh, jax.jit(create, out_shardings=shardings), step.compile_step(mesh, shardings, learner)


def run(devices, steps=5, **layout):
    mesh, create, step_fn = compiled(devices, **layout)
    current, history = create(), []
    for i in range(steps):
        current, metrics = step_fn(current, sharding.put_batch(batch_of(seed=i), mesh), KEY)
        history.append(float(metrics["loss"]))
    return history, current


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_give_the_losses_of_one(fsdp):
    one, _ = run(1)
    eight, final = run(8, fsdp=fsdp)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    sharded = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(final.params)]
    assert any(sharded) == (fsdp > 1)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [4, 8])
def test_sharded_parameters_travel_once_and_activations_never(fsdp):
    def cost_of(fsdp):
        mesh, create, step_fn = compiled(8, fsdp=fsdp)
        batch = sharding.put_batch(batch_of(), mesh)
        return cost.compiled_cost(step_fn.lower(create(), batch, KEY).compile())

    copied, sharded = cost_of(1), cost_of(fsdp)
    assert sharded.flops == copied.flops
    assert set(sharded.collectives) <= {"all-gather", "all-reduce", "reduce-scatter"}
    # Parameters are gathered, gradients reduced, and these are as many.
    reduced = copied.collectives["all-reduce"].bytes
    assert 0.9 * reduced < sharded.collectives["all-gather"].bytes < 1.02 * reduced


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch():
    # Batch statistics are those of the parts, so the equality is shown on parts that are copies of each other.
    mesh, create, _ = compiled(1)
    half = batch_of(4)
    whole = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=0), half)
    whole = whole.replace(clip_id=np.repeat(half.clip_id, 2))
    grads = []
    for accumulation in (1, 2):
        _, _, step_fn = compiled(1, accumulation=accumulation)
        new, metrics = step_fn(create(), sharding.put_batch(whole, mesh), KEY)
        grads.append((float(metrics["loss"]), float(metrics["grad_norm"]), new.params))
    np.testing.assert_allclose(grads[0][:2], grads[1][:2], rtol=1e-5)


@pytest.mark.slow
def test_same_step_sees_the_same_noise_and_another_step_another():
    mesh, create, step_fn = compiled(1)
    batch = sharding.put_batch(batch_of(), mesh)
    first, again = (float(step_fn(create(), batch, KEY)[1]["loss"]) for _ in range(2))
    later = float(step_fn(create().replace(step=jnp.asarray(1, jnp.int32)), batch, KEY)[1]["loss"])
    assert first == again != later


def test_a_non_finite_step_changes_nothing_but_its_counters():
    mesh, create, step_fn = compiled(1, model=PLAIN)
    before = jax.device_get(create())
    poisoned = batch_of()
    T = poisoned.frames.T_world_headset.copy()
    T[3, 2] = np.nan
    poisoned = poisoned.replace(frames=poisoned.frames.replace(T_world_headset=T))
    after, metrics = step_fn(create(), sharding.put_batch(poisoned, mesh), KEY)
    assert metrics["skipped_in_a_row"] == 1
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 1, 1)
    for name in ("params", "batch_stats", "opt_state", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(getattr(after, name)), getattr(before, name))
    healed, metrics = step_fn(after, sharding.put_batch(batch_of(), mesh), KEY)
    assert metrics["skipped_in_a_row"] == 0
    assert (int(healed.skipped), int(healed.skipped_in_a_row)) == (1, 0)


def test_average_follows_the_parameters():
    mesh, create, step_fn = compiled(1, model=PLAIN)
    start = jax.device_get(create().params)
    state_, _ = step_fn(create(), sharding.put_batch(batch_of(), mesh), KEY)
    # The first decay is min(0.9, 1 / 10).
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * np.asarray(new), start, state_.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state_.ema_params, expected)


@dataclasses.dataclass(frozen=True)
class Toy:
    """An objective that knows one term, of the headset's height: a whole other one than the model's own."""

    goal_m: float

    def __call__(self, predictions, batch, progress):
        valid = jnp.broadcast_to(batch.frames.frame_valid[..., None], predictions.joints_headset_m.shape[:-1])
        error = jnp.square(predictions.joints_headset_m[..., 1] - self.goal_m)
        return {
            "height": Term(
                total=masks.masked_sum(error, valid), count=valid.sum(dtype=jnp.float32), weight=2.0 + progress
            ),
            "reported": Term(total=jnp.asarray(6.0), count=jnp.asarray(3.0)),
        }

    def uses_teacher_uncertainty(self, predicts_distribution):
        return False


class Linear:
    """Stands for a model without batch statistics: joints and scales are linear in the headset's height."""

    skeleton, layout = EGOBODY3M, layouts.EGOBODY3M

    def apply(self, variables, frames, train=False, mutable=None, rngs=None):
        w = variables["params"]["w"]
        height = frames.T_world_headset[..., 1, 3][..., None, None]
        joints = w["joints"][None, None] + height * w["slope"][None, None]
        lower = jnp.broadcast_to(w["lower"][None, None], (*joints.shape, 3)) * height[..., None]
        predictions = structs.Predictions(
            joints_headset_m=joints, distribution=structs.StudentT(cholesky_m=lower, degrees_of_freedom=4.0)
        )
        return (predictions, {}) if mutable else predictions


def linear_state(optimizer, step_number=0):
    """A training state of `Linear`."""
    rng, J = np.random.default_rng(0), EGOBODY3M.num_joints
    lower = np.tril(rng.normal(size=(J, 3, 3)), -1) + 0.1 * np.eye(3)
    arrays = {"joints": rng.normal(size=(J, 3)), "slope": rng.normal(size=(J, 3)), "lower": lower}
    params = {"w": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)}
    zero = jnp.zeros((), jnp.int32)
    return state.TrainState(
        step=jnp.asarray(step_number, jnp.int32),
        skipped=zero,
        skipped_in_a_row=zero,
        params=params,
        batch_stats={},
        opt_state=optimizer.init(params),
        ema_params=params,
    )


def linear_step(objective, optimizer, accumulation=1):
    """The jitted train step of `Linear`, without augmentation."""
    off = augment.AugmentConfig(
        brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0, blur_px=0.0, flip=0.0, view_dropout=0.0
    )
    learner = step.Learner(
        model=Linear(),
        objective=objective,
        optimizer=optimizer,
        augment=off,
        config=step.StepConfig(steps=100, accumulation=accumulation, ema_decay=0.0),
    )
    return jax.jit(functools.partial(step.train_step, learner=learner))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_another_objective_is_minimised_as_it_says(accumulation):
    sgd = optax.sgd(0.5)
    step_fn = linear_step(Toy(goal_m=-2.0), sgd, accumulation)
    current, batch = linear_state(sgd), batch_of()
    heights, losses = [], []
    for _ in range(10):
        current, metrics = step_fn(current, batch, KEY)
        total, count = metrics["height"]
        heights.append(float(total / count))
        losses.append(float(metrics["loss"]))
        assert metrics["reported"] == (6.0 * accumulation, 3.0 * accumulation)
    # Weight and progress are the objective's, what is reported alone is no part of the loss.
    np.testing.assert_allclose(losses, (2 + np.arange(10) / 100) * heights, rtol=1e-5)
    assert heights[-1] < 0.9 * heights[0]
    assert set(metrics) == {"loss", "grad_norm", "height", "reported", "skipped", "skipped_in_a_row"}


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_parts_of_different_sizes_add_up_to_the_whole(accumulation, teacher):
    """Parts differ in how much is valid, and with a teacher in how many of their clips are labelled by it."""
    batch = batch_of(8)
    batch.frames.frame_valid[0, 2:] = batch.frames.frame_valid[5, 1:] = False
    batch.targets.joint_valid[3] = False
    if teacher:
        pseudo = np.array([True, True, False, True, False, False, True, False])
        cholesky_m = fake_predictions(batch, seed=3).distribution.cholesky_m
        batch = batch.replace(targets=batch.targets.replace(pseudo=pseudo, cholesky_m=cholesky_m))
    sgd = optax.sgd(1.0)
    start, found = linear_state(sgd, step_number=30), []
    for n in (1, accumulation):
        new, metrics = linear_step(OBJECTIVE, sgd, n)(start, batch, KEY)
        found.append((metrics, jax.tree.map(jnp.subtract, new.params, start.params)))
    (whole, whole_update), (parts, update) = found
    assert set(whole) == set(parts) and ("pseudo_refined_mse" in whole) == ("distillation" in whole) == teacher
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), parts, whole)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole_update))
    assert scale > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * scale), update, whole_update)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 1, "accumulation": 0}, {"steps": 1, "ema_decay": 1.0}])
def test_bad_values_are_named(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]):
        step.StepConfig(**bad)
