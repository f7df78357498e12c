"""The training state: everything that a step reads and writes, and that a checkpoint must hold."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from epfv2_jax import structs
from epfv2_jax.core import checks, sharding
from epfv2_jax.models.base import PoseModel


class TrainState(struct.PyTreeNode):
    """The state of training; immutable. It holds no random key: keys are folded from the run's key and `step`."""

    step: jax.Array  # () int32, steps done, skipped ones included; also the position in the data
    skipped: jax.Array  # () int32, steps whose gradient was not finite
    skipped_in_a_row: jax.Array  # () int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any


def create_state(
    key: jax.Array, model: PoseModel, optimizer: optax.GradientTransformation, frames: structs.Frames
) -> TrainState:
    """Returns the state before the first step; call it under jit. `frames` may be abstract: only shapes matter."""
    variables = model.init(key, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), frames))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),  # not every encoder has them
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params),
    )


def inference_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables that evaluation and deployment use: averaged weights and the running batch statistics."""
    return {"params": state.ema_params, "batch_stats": state.batch_stats}


def with_modules(state: TrainState, variables: Any, names: Iterable[str], source: str) -> TrainState:
    """Returns `state` with the parameters and batch statistics of some top-level modules replaced.

    Shardings and dtypes stay.

    Args:
      state: before the first step.
      variables: of a model that has these modules: "params" and, where a module has them, "batch_stats".
      names: of the modules.
      source: where `variables` come from, for messages.

    Raises:
      ValueError: `variables` lack one of the modules, or it has other parameters or shapes there.
    """

    def replace(tree: Any, collection: str) -> Any:
        given = variables.get(collection, {})
        taken = {
            name: _like(tree[name], given.get(name), f"{source}: {collection}/{name}") for name in names if name in tree
        }
        return {**tree, **taken}

    for name in names:
        checks.one_of(state.params, **{"a module of the model": name})
    params = replace(state.params, "params")
    return state.replace(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        batch_stats=replace(state.batch_stats, "batch_stats"),
    )


def _like(old: Any, new: Any, where: str) -> Any:
    """Returns the arrays of `new`, laid out as those of `old`."""
    own, theirs = (
        {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (old, new)
    )
    for key in sorted(own.keys() | theirs.keys()):
        there, here = theirs.get(key, "missing"), own.get(key, "missing")
        if there != here:
            raise ValueError(
                f"{where}{key}: {there} there, {here} in the model of this run; take modules that both have alike, or "
                "change the model's configuration"
            )
    return jax.tree.map(lambda a, b: sharding.put_whole(np.asarray(a, b.dtype), b.sharding), new, old)
