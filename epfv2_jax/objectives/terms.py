"""Terms of objectives: pure functions from residuals to values, before any mask is summed over."""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from epfv2_jax.core import derivatives, linalg, masks
from epfv2_jax.geometry import transforms


class Term(struct.PyTreeNode):
    """A masked sum. The train step adds weight * total / count of the whole batch to the loss.

    `count` depends on the batch alone, never on predictions. The parts of a batch can then be divided by the counts of
    the whole: losses and gradients of the parts simply add up, over accumulation steps and over devices.
    """

    total: jax.Array  # () float32
    count: jax.Array  # () float32, what was summed over
    weight: jax.Array | float | None = None  # None: reported, not part of the loss


def mse_weight(progress: jax.Array | float, floor: float) -> jax.Array:
    """Returns w_d (): a half cosine from 1 at progress 0 down to `floor` at progress 1, constant outside."""
    progress = jnp.clip(jnp.asarray(progress, jnp.float32), 0.0, 1.0)
    return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def student_t_nll(delta: jax.Array, cholesky: jax.Array, degrees_of_freedom: float) -> jax.Array:
    """Returns (...) the negative log density of a 3D Student-t without its constant.

    (nu + 3)/2 log(1 + m/nu) + 1/2 log |L L^T|, where m = |L^-1 delta|^2.

    Args:
      delta: (..., 3) error.
      cholesky: (..., 3, 3) lower-triangular L of the scale matrix, in the unit of `delta`; the diagonal is positive.
      degrees_of_freedom: nu.
    """
    diagonal = jnp.diagonal(cholesky, axis1=-2, axis2=-1)
    m = linalg.squared_norm(linalg.solve_lower_3x3(cholesky, delta))
    nu = degrees_of_freedom
    return 0.5 * (nu + 3) * jnp.log1p(m / nu) + jnp.log(diagonal).sum(-1)


def jerk(joints_headset_m: jax.Array, T_world_headset: jax.Array, time_s: jax.Array) -> jax.Array:
    """Returns (B, T - 3, J, 3) jerks of the joints in the world frame, m / (1/30 s)^3; empty if T < 4.

    At 30 frames a second these are the third differences, as the paper has them; at other rates and at uneven times the
    same motion has the same jerk. The world frame is our choice: in the headset frame a turn of the head would count as
    a jerk of the body.

    Args:
      joints_headset_m: (B, T, J, 3).
      T_world_headset: (B, T, 4, 4).
      time_s: (B, T), strictly increasing.
    """
    joints_world_m = transforms.apply(T_world_headset, joints_headset_m)
    return derivatives.derivative(joints_world_m, time_s, 3) * derivatives.PUBLISHED_FRAME_S**3


def uncertainty_distance(cholesky_m: jax.Array, teacher_m: jax.Array, valid: jax.Array, unit_m: float) -> jax.Array:
    """Returns (B, T, J) |s_teacher - s|^2, s being the log diagonal and the entries below it of L in units of `unit_m`.

    The paper has the student imitate the teacher's uncertainty; these coordinates and the square are our choice.

    Args:
      cholesky_m: (B, T, J, 3, 3) the student's L, metres.
      teacher_m: (B, T, J, 3, 3) the teacher's; no gradient flows into it.
      valid: (B, T, J); values elsewhere may be anything.
      unit_m: the unit of lengths in the distance, metres.
    """
    chex.assert_equal_shape([cholesky_m, teacher_m])

    def coordinates(cholesky: jax.Array) -> tuple[jax.Array, jax.Array]:
        cholesky = masks.keep(cholesky, valid, jnp.eye(3)) / unit_m
        return jnp.log(jnp.diagonal(cholesky, axis1=-2, axis2=-1)), jnp.tril(cholesky, -1)

    (log_diagonal, lower), (teacher_log_diagonal, teacher_lower) = (
        coordinates(c) for c in (cholesky_m, jax.lax.stop_gradient(teacher_m))
    )
    return linalg.squared_norm(log_diagonal - teacher_log_diagonal) + jnp.square(lower - teacher_lower).sum(
        axis=(-2, -1)
    )
