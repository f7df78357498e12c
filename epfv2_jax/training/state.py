"""The training state: everything that a step reads and writes, and that a checkpoint must hold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from epfv2_jax import structs
from epfv2_jax.core import sharding
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


def with_encoder(state: TrainState, variables: Any) -> TrainState:
    """Returns `state` with the encoder's parameters and batch statistics replaced; shardings and dtypes stay.

    Raises:
      ValueError: a parameter is missing, unknown or of another shape.
    """

    def replace(tree: Any, collection: str) -> Any:
        if "encoder" not in tree:
            return tree
        old, new = tree["encoder"], variables[collection]
        shapes = [jax.tree.map(lambda leaf: leaf.shape, t, is_leaf=lambda t: hasattr(t, "shape")) for t in (old, new)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the imported encoder's {collection} do not fit the model's encoder; import the weights again for the "
                "encoder that model.encoder names"
            )
        new = jax.tree.map(lambda a, b: sharding.put_whole(np.asarray(a, b.dtype), b.sharding), new, old)
        return {**tree, "encoder": new}

    params = replace(state.params, "params")
    return state.replace(
        params=params,
        ema_params={**state.ema_params, "encoder": jax.tree.map(jnp.copy, params["encoder"])},
        batch_stats=replace(state.batch_stats, "batch_stats"),
    )
