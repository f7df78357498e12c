"""The train step on a tiny model: what it may and may not change, and the equivalences between its layouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.objectives import pose as losses
from epfv2_jax.profiling import cost as accounting
from epfv2_jax.testing.fakes import fake_batch
from epfv2_jax.training import augment, optim, sharding, state, step

# The smallest model that has every part but forward kinematics: what these tests cost is its compilation.
MODEL = epfv2.EPFv2(
    epfv2.ModelConfig(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=4)
)
AUGMENT = augment.AugmentConfig(brightness=0.0, contrast=0.0, gamma=0.0, blur_px=0.0, view_dropout=0.0)
OPTIMIZER = optim.make_optimizer(optim.OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 100)
KEY = jax.random.key(7)


def batch_of(B=8, seed=0):
    return fake_batch(B=B, T=5, seed=seed, image_hw=(16, 16))


@functools.cache
def compiled(devices, fsdp=1, accumulation=1):
    mesh_config = sharding.MeshConfig(fsdp=fsdp, min_shard_size=64)
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:devices])
    create = functools.partial(state.create_state, jax.random.key(0), MODEL, OPTIMIZER, batch_of(1).frames)
    shardings = sharding.state_sharding(jax.eval_shape(create), mesh, mesh_config)
    step_fn = step.compile_step(
        mesh,
        shardings,
        model=MODEL,
        optimizer=OPTIMIZER,
        config=step.StepConfig(steps=100, accumulation=accumulation, ema_decay=0.9),
        loss_config=losses.LossConfig(),
        augment_config=AUGMENT,
    )
    return mesh, jax.jit(create, out_shardings=shardings), step_fn


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
    def cost(fsdp):
        mesh, create, step_fn = compiled(8, fsdp=fsdp)
        batch = sharding.put_batch(batch_of(), mesh)
        return accounting.compiled_cost(step_fn.lower(create(), batch, KEY).compile())

    copied, sharded = cost(1), cost(fsdp)
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
    mesh, create, step_fn = compiled(1)
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
    mesh, create, step_fn = compiled(1)
    start = jax.device_get(create().params)
    state_, _ = step_fn(create(), sharding.put_batch(batch_of(), mesh), KEY)
    # The first decay is min(0.9, 1 / 10).
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * np.asarray(new), start, state_.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state_.ema_params, expected)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 1, "accumulation": 0}, {"steps": 1, "ema_decay": 1.0}])
def test_bad_values_are_named(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]):
        step.StepConfig(**bad)
