"""The training state: everything that a step reads and writes, and that a checkpoint must hold."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from epfv2_jax import structs
from epfv2_jax.models import epfv2


class TrainState(struct.PyTreeNode):
    """Immutable: `train_step` returns a new one. No random key in it: keys are folded from the run's key and `step`."""

    step: jax.Array  # () int32, steps tried, skipped ones included: also the position in the data
    skipped: jax.Array  # () int32, steps whose gradient was not finite
    skipped_in_a_row: jax.Array  # () int32
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any


def create_state(
    key: jax.Array, model: epfv2.EPFv2, optimizer: optax.GradientTransformation, frames: structs.Frames
) -> TrainState:
    """Returns the state before the first step. `frames` gives the shapes only; call it under `jax.jit`."""
    variables = model.init(key, frames)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params),
    )


def inference_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables that evaluation and deployment use: averaged weights and the running batch statistics."""
    return {"params": state.ema_params, "batch_stats": state.batch_stats}
