"""What the headset's pose tells a model: tilt, height and motion, blind to absolute place and heading."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.geometry import rotations, transforms
from epfv2_jax.structs import Frames

# Scales that bring the entries to order one (our choice).
_MEAN_HEIGHT_M, _HEIGHT_SCALE_M = 1.5, 0.3
_TURN_PER_FRAME, _MOVE_PER_FRAME_M = 0.05, 0.03
_IDENTITY_6D = np.asarray([1, 0, 0, 0, 1, 0], np.float32)


def follow(
    frames: Frames, T_world_previous: jax.Array, started: jax.Array, longest_gap: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the headset vectors (B, T, 19) of a chunk, and what the next chunk needs: the newest pose, and `started`.

    Args:
      frames: clean (see `models.base.clean`); padding only follows valid frames.
      T_world_previous: (B, 4, 4), the headset at the newest valid frame before the chunk.
      started: (B,) bool, whether there was one. Where not, `frames.T_world_before` counts, if it is given.
      longest_gap: frame times; the motion over a longer gap is zero, as at the start.
    """
    chex.assert_equal_shape_prefix([T_world_previous, started, frames.frame_valid], 1)
    if frames.T_world_before is not None:
        T_world_previous = jnp.where(started[:, None, None], T_world_previous, frames.T_world_before)
        started = started | (frames.T_world_before[:, 3, 3] > 0)
    poses = jnp.concatenate([T_world_previous[:, None], frames.T_world_headset], axis=1)
    # The frame before a valid one is valid or that before the chunk.
    seen = jnp.concatenate([started[:, None], frames.frame_valid], axis=1)
    moving = seen[:, :-1] & (frames.frame_gap <= longest_gap)
    with jax.default_matmul_precision("highest"):
        vectors = headset_vector(poses[:, 1:], poses[:, :-1], moving, frames.frame_gap)
    newest = frames.frame_valid.sum(axis=1, dtype=jnp.int32)[:, None, None, None]
    return vectors, jnp.take_along_axis(poses, newest, axis=1)[:, 0], seen.any(axis=1)


def headset_vector(
    T_world_headset: jax.Array, T_world_previous: jax.Array, has_previous: jax.Array, frame_gap: jax.Array
) -> jax.Array:
    """Returns the headset's metadata H_t (B, T, 19), entries of order one.

    In order: rot6D of the headset's rotation with its heading removed (6), the direction of gravity in headset axes
    (3), height above the floor (1), and the motion since the previous frame per frame time: deviation of its rot6D from
    the identity (6) and translation (3), in the axes of the previous headset pose. The paper names gravity and
    rotation; the vector is our choice.

    Args:
      T_world_headset: (B, T, 4, 4), world y up, floor at y = 0.
      T_world_previous: (B, T, 4, 4), the headset at the previous frame.
      has_previous: (B, T) bool; the motion is zero where False.
      frame_gap: (B, T) frame times since the previous frame.
    """
    chex.assert_equal_shape([T_world_headset, T_world_previous])
    chex.assert_shape([has_previous, frame_gap], T_world_headset.shape[:-2])
    R = T_world_headset[..., :3, :3]
    level = rotations.matrix_to_rot6d(jnp.swapaxes(heading(R), -1, -2) @ R)
    gravity = -R[..., 1, :]
    height = (T_world_headset[..., 1, 3:] - _MEAN_HEIGHT_M) / _HEIGHT_SCALE_M
    T_previous_now = transforms.invert(T_world_previous) @ T_world_headset
    turn = rotations.matrix_to_rot6d(T_previous_now[..., :3, :3])
    turn = (turn - jnp.broadcast_to(_IDENTITY_6D, turn.shape)) / _TURN_PER_FRAME
    move = T_previous_now[..., :3, 3] / _MOVE_PER_FRAME_M
    motion = jnp.concatenate([turn, move], axis=-1) / jnp.maximum(frame_gap, 1).astype(jnp.float32)[..., None]
    motion = jnp.where(has_previous[..., None], motion, 0.0)
    return jnp.concatenate([level, gravity, height, motion], axis=-1)


def heading(R_world_headset: jax.Array) -> jax.Array:
    """Returns the rotation (..., 3, 3) about the world's y axis that is nearest to R_world_headset (..., 3, 3).

    The twist of the swing-twist decomposition: unlike the direction of a coordinate axis on the floor, it is smooth for
    a person who looks straight down, and undefined (then the identity) only for a person upside down.
    """
    R = R_world_headset
    cos, sin = R[..., 0, 0] + R[..., 2, 2], R[..., 0, 2] - R[..., 2, 0]
    square = cos**2 + sin**2
    usable = square > 1e-8
    length = jnp.sqrt(jnp.where(usable, square, 1.0))
    cos, sin = jnp.where(usable, cos / length, 1.0), jnp.where(usable, sin / length, 0.0)
    zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
    rows = [[cos, zero, sin], [zero, one, zero], [-sin, zero, cos]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
