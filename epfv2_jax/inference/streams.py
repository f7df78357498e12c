"""Streaming over recorded clips, a chunk at a time."""

from typing import Any

import jax
import jax.numpy as jnp

from epfv2_jax.models.base import PoseModel
from epfv2_jax.structs import Frames, Predictions


def scan_frames(
    model: PoseModel, variables: Any, frames: Frames, state: Any = None, chunk: int = 1
) -> tuple[Predictions, Any]:
    """Returns predictions (B, T, ...) and the last state of streaming: a `lax.scan` over chunks of `chunk` frames.

    Compiles one chunk whatever T, and needs the memory of one.

    Args:
      model: the model.
      variables: its parameters and batch statistics.
      frames: clips (B, T, ...); `chunk` divides T.
      state: where the streams stand; None for empty ones.

    Raises:
      ValueError: `chunk` does not divide T.
    """
    B, T = frames.frame_valid.shape
    if chunk < 1 or T % chunk:
        raise ValueError(f"chunk: {chunk} does not divide the {T} frames of the clip; pad it with frame_valid False")
    state = model.initial_state(B) if state is None else state
    rig = frames.rig
    in_time = frames.replace(rig=None)  # the rig has no time axis

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(B, T // chunk, chunk, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(B, T, *x.shape[3:])

    def body(state: Any, part: Frames) -> tuple[Any, Predictions]:
        predictions, state = model.apply(variables, part.replace(rig=rig), state, method="step")
        return state, predictions

    state, predictions = jax.lax.scan(body, state, jax.tree.map(split, in_time))
    return jax.tree.map(join, predictions), state
