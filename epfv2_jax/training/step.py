"""The train step: one pure function. jit, donation and shardings are applied in `compile_step` and nowhere else."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from epfv2_jax import structs
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.objectives import pose as losses
from epfv2_jax.training import augment, sharding
from epfv2_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What one step does besides the forward pass."""

    steps: int  # length of the run: the loss weights and the learning rate follow the progress through it
    accumulation: int = 1  # parts of the batch that are passed through the model one after the other
    ema_decay: float = 0.999  # of the averaged weights; 0 switches averaging off

    def __post_init__(self):
        if self.steps < 1 or self.accumulation < 1:
            raise ValueError(f"steps and accumulation must be at least 1, got {self.steps} and {self.accumulation}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")


def train_step(
    state: TrainState,
    batch: structs.Batch,
    key: jax.Array,
    *,
    model: epfv2.EPFv2,
    optimizer: optax.GradientTransformation,
    config: StepConfig,
    loss_config: losses.LossConfig,
    augment_config: augment.AugmentConfig,
    gather: Callable[[Any], Any] = lambda params: params,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns (next state, metrics) after one optimizer update on `batch`.

    A step whose loss or gradient is not finite changes nothing but the counters. `key` is the run's root key: the step
    folds its own number in, so a resumed run sees the same noise. `gather` makes of the parameters, as they are stored
    over the devices, what the model computes with.
    """
    augment_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = augment.augment(augment_key, batch, augment_config)
    progress = state.step / config.steps

    def loss_fn(params, batch_stats, part, counts, part_key):
        variables = {"params": gather(params), "batch_stats": batch_stats}
        predictions, updated = model.apply(
            variables, part.frames, train=True, mutable=["batch_stats"], rngs={"drop_path": part_key}
        )
        loss, terms = losses.pose_loss(predictions, part, progress, loss_config, counts)
        return loss, (terms, updated.get("batch_stats", {}))

    (loss, (terms, batch_stats)), grads = _value_and_grad(loss_fn, state, batch, config.accumulation, drop_key)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
    ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    new = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema_params=ema_params)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    new = new.replace(
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    counters = {"skipped": new.skipped, "skipped_in_a_row": new.skipped_in_a_row}
    return new, {"loss": loss, "grad_norm": grad_norm, **terms, **counters}


def _value_and_grad(
    loss_fn: Callable, state: TrainState, batch: structs.Batch, accumulation: int, key: jax.Array
) -> Any:
    """Returns ((loss, (terms, batch_stats)), gradients) over the whole batch, in `accumulation` parts.

    Each part is normalised by the whole batch's counts, so that losses and gradients simply add.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    counts = losses.term_counts(batch)
    if accumulation == 1:
        return value_and_grad(state.params, state.batch_stats, batch, counts, key)
    keys = jax.random.split(key, accumulation)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, accumulation, *leaf.shape[1:]).swapaxes(0, 1), batch)

    def add_part(batch_stats, part, part_key):
        (loss, (terms, batch_stats)), grads = value_and_grad(state.params, batch_stats, part, counts, part_key)
        return batch_stats, (loss, terms, grads)

    def body(carry, part):
        batch_stats, total = carry
        batch_stats, values = add_part(batch_stats, *part)
        return (batch_stats, jax.tree.map(jnp.add, total, values)), None

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(add_part, state.batch_stats, first, key)[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (batch_stats, (loss, terms, grads)), _ = jax.lax.scan(body, (state.batch_stats, zeros), (parts, keys))
    return (loss, (terms, batch_stats)), grads


def compile_step(mesh: Mesh, state_shardings: Any, **static: Any) -> Callable:
    """Returns the jitted `train_step` on `mesh`: clips split over all devices, the old state donated to the new one."""
    replicated = sharding.replicated(mesh)
    gather = functools.partial(sharding.gather, mesh=mesh, stored=state_shardings.params)
    return jax.jit(
        functools.partial(train_step, gather=gather, **static),
        in_shardings=(state_shardings, NamedSharding(mesh, sharding.BATCH_SPEC), replicated),
        out_shardings=(state_shardings, replicated),
        donate_argnums=0,
    )
