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
from epfv2_jax.core import checks, sharding
from epfv2_jax.models.base import PoseModel
from epfv2_jax.objectives import Objective, Term
from epfv2_jax.training import augment
from epfv2_jax.training.state import TrainState

Terms = dict[str, Term]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What one step does besides the forward pass."""

    steps: int  # length of the run: the loss weights and the learning rate follow the progress through it
    accumulation: int = 1  # parts of the batch that pass through the model one after the other
    ema_decay: float = 0.999  # of the averaged weights; 0 switches averaging off

    def __post_init__(self):
        checks.at_least(1, steps=self.steps, accumulation=self.accumulation)
        checks.below_one(ema_decay=self.ema_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """What a step learns with: pure functions and their settings, static under jit."""

    model: PoseModel
    objective: Objective
    optimizer: optax.GradientTransformation
    augment: augment.AugmentConfig
    config: StepConfig


def train_step(
    state: TrainState,
    batch: structs.Batch,
    key: jax.Array,
    *,
    learner: Learner,
    gather: Callable[[Any], Any] = lambda params: params,
) -> tuple[TrainState, dict[str, Any]]:
    """Returns (next state, metrics) after one optimizer update on `batch`.

    A step whose loss or gradient is not finite changes nothing but the counters. `key` is the run's root key: the step
    folds its own number in, so a resumed run sees the same noise. `gather` turns the parameters, as they are stored
    over the devices, into what the model computes with.
    """
    model, config = learner.model, learner.config
    augment_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = augment.augment(augment_key, batch, learner.augment, model.skeleton, model.layout)
    progress = state.step / config.steps

    def loss_fn(params, batch_stats, part, counts, part_key):
        variables = {"params": gather(params), "batch_stats": batch_stats}
        predictions, updated = model.apply(
            variables, part.frames, train=True, mutable=["batch_stats"], rngs={"drop_path": part_key}
        )
        terms = learner.objective(predictions, part, progress)
        return weighted_sum(terms, counts), (terms, updated.get("batch_stats", {}))

    (loss, (terms, batch_stats)), grads = _value_and_grad(loss_fn, state, batch, learner, drop_key)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = learner.optimizer.update(grads, state.opt_state, state.params)
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
    means = {name: (term.total, term.count) for name, term in terms.items()}
    return new, {"loss": loss, "grad_norm": grad_norm, **means, **counters}


def weighted_sum(terms: Terms, counts: dict[str, jax.Array] | None = None) -> jax.Array:
    """Returns the loss (): each term's weight * total / count, by `counts` of a whole batch or else by its own."""
    counts = {name: term.count for name, term in terms.items()} if counts is None else counts
    return sum(
        term.weight * term.total / jnp.maximum(counts[name], 1.0)
        for name, term in terms.items()
        if term.weight is not None
    )


def _value_and_grad(
    loss_fn: Callable, state: TrainState, batch: structs.Batch, learner: Learner, key: jax.Array
) -> Any:
    """Returns ((loss, (terms, batch_stats)), gradients) over the whole batch, in parts passed one after the other.

    Each part is divided by the whole batch's counts, so that losses and gradients simply add up.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    accumulation = learner.config.accumulation
    if accumulation == 1:
        return value_and_grad(state.params, state.batch_stats, batch, None, key)
    counts = _counts(learner, state, batch)
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


def _counts(learner: Learner, state: TrainState, batch: structs.Batch) -> dict[str, jax.Array]:
    """The counts of the objective's terms over a whole batch.

    Counts do not depend on predictions, so any will do, and the compiler drops everything but the counts.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def predict(variables, frames, key):
        return learner.model.apply(variables, frames, train=True, mutable=["batch_stats"], rngs={"drop_path": key})[0]

    shapes = jax.eval_shape(predict, variables, batch.frames, jax.random.key(0))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return {name: term.count for name, term in learner.objective(blank, batch, 0.0).items()}


def compile_step(mesh: Mesh, state_shardings: Any, learner: Learner) -> jax.stages.Wrapped:
    """Returns the jitted `train_step` on `mesh`: clips split over all devices, the old state donated to the new one."""
    replicated = sharding.replicated(mesh)
    gather = functools.partial(sharding.gather, mesh=mesh, stored=state_shardings.params)
    return jax.jit(
        functools.partial(train_step, learner=learner, gather=gather),
        in_shardings=(state_shardings, NamedSharding(mesh, sharding.BATCH_SPEC), replicated),
        out_shardings=(state_shardings, replicated),
        donate_argnums=0,
    )
