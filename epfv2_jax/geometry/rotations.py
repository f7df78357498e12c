"""Rotations as matrix, two columns (rot6D), axis-angle and quaternion (wxyz, w >= 0).

Values and gradients are finite everywhere. Matrices act on column vectors. All functions take any leading axes and
compute in at least float32.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.geometry import series

_MIN_NORM = 1e-6
# Two columns count as parallel below this sine of their angle: a thousand times the rounding error of float32.
_PARALLEL = 1e-4


@functools.partial(jax.jit, inline=True)
def rot6d_to_matrix(rot6d: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) whose first two columns span those given in `rot6d` (..., 6).

    Gram-Schmidt on the columns a1 = rot6d[..., :3] and a2 = rot6d[..., 3:] (Zhou et al., "On the Continuity of Rotation
    Representations", eq. 15). A fixed direction replaces an a1 near zero and an a2 parallel to a1 (our choice), so
    that every input gives a rotation.
    """
    chex.assert_axis_dimension(rot6d, -1, 6)
    rot6d = _at_least_float32(rot6d)
    a1, a2 = rot6d[..., :3], rot6d[..., 3:]
    b1 = _normalise_or(a1, jnp.broadcast_to(_unit(0, a1.dtype), a1.shape))
    # The coordinate axis least aligned with b1 cannot be parallel to it.
    helper = jax.nn.one_hot(jnp.argmin(jnp.abs(b1), axis=-1), 3, dtype=b1.dtype)
    fallback = _normalise_or(_reject(helper, b1), helper)
    rejected = _reject(a2, b1)
    # What remains of a nearly parallel a2 is rounding error. For all other a2 a second rejection removes that error.
    tiny = jnp.sum(rejected**2, axis=-1, keepdims=True) < (_PARALLEL**2) * jnp.sum(a2**2, axis=-1, keepdims=True)
    rejected = jnp.where(tiny, fallback, rejected)
    b2 = _normalise_or(_reject(_normalise_or(rejected, fallback), b1), fallback)
    return jnp.stack([b1, b2, jnp.cross(b1, b2)], axis=-1)


@functools.partial(jax.jit, inline=True)
def matrix_to_rot6d(matrix: jax.Array) -> jax.Array:
    """Returns the first two columns of rotation matrices (..., 3, 3), concatenated: (..., 6)."""
    chex.assert_axis_dimension(matrix, -1, 3)
    return jnp.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


@functools.partial(jax.jit, inline=True)
def axis_angle_to_matrix(axis_angle: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), radians (Rodrigues' formula)."""
    chex.assert_axis_dimension(axis_angle, -1, 3)
    axis_angle = _at_least_float32(axis_angle)
    angle2 = jnp.sum(axis_angle**2, axis=-1)[..., None, None]
    K = _skew(axis_angle)
    # 1 - cos t = 2 sin(t / 2)^2 has no cancellation at small angles.
    first = series.sinc_of_square(angle2)
    second = 0.5 * series.sinc_of_square(0.25 * angle2) ** 2
    identity = jnp.broadcast_to(jnp.eye(3, dtype=K.dtype), K.shape)
    return identity + first * K + second * (K @ K)


@functools.partial(jax.jit, inline=True)
def matrix_to_axis_angle(matrix: jax.Array) -> jax.Array:
    """Returns the axis-angle vectors (..., 3), length in [0, pi] radians, of rotation matrices (..., 3, 3)."""
    quaternion = matrix_to_quaternion(matrix)
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    return 2.0 * series.atan2_ratio(jnp.sum(xyz**2, axis=-1, keepdims=True), w) * xyz


@functools.partial(jax.jit, inline=True)
def quaternion_to_matrix(quaternion: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) of quaternions (..., 4) in wxyz order, of any length but zero.

    The zero quaternion gives the identity.
    """
    chex.assert_axis_dimension(quaternion, -1, 4)
    quaternion = _at_least_float32(quaternion)
    identity = jnp.broadcast_to(jnp.asarray([1.0, 0.0, 0.0, 0.0], quaternion.dtype), quaternion.shape)
    w, x, y, z = jnp.moveaxis(_normalise_or(quaternion, identity), -1, 0)
    rows = [
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    ]
    return jnp.stack(rows, axis=-2)


@functools.partial(jax.jit, inline=True)
def matrix_to_quaternion(matrix: jax.Array) -> jax.Array:
    """Returns the unit quaternions (..., 4), wxyz with w >= 0, of rotation matrices (..., 3, 3).

    Assembles 4 q q^T, which is linear in the matrix, and normalises the row with the largest diagonal entry. That row
    has at least length 2, so no square root of a small number is taken.
    """
    chex.assert_axis_dimension(matrix, -1, 3)
    chex.assert_axis_dimension(matrix, -2, 3)
    matrix = _at_least_float32(matrix)
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    ww = 1 + m[0][0] + m[1][1] + m[2][2]
    xx = 1 + m[0][0] - m[1][1] - m[2][2]
    yy = 1 - m[0][0] + m[1][1] - m[2][2]
    zz = 1 - m[0][0] - m[1][1] + m[2][2]
    rows = [[ww, wx, wy, wz], [wx, xx, xy, xz], [wy, xy, yy, yz], [wz, xz, yz, zz]]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    largest = jnp.argmax(jnp.stack([ww, xx, yy, zz], axis=-1), axis=-1)
    row = jnp.take_along_axis(outer, largest[..., None, None], axis=-2)[..., 0, :]
    identity = jnp.broadcast_to(jnp.asarray([1.0, 0.0, 0.0, 0.0], row.dtype), row.shape)
    quaternion = _normalise_or(row, identity)
    return jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)


@functools.partial(jax.jit, inline=True)
def rotation_x(angle_rad: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) by `angle_rad` (...) about x."""
    return _about("x", _at_least_float32(angle_rad))


@functools.partial(jax.jit, inline=True)
def rotation_y(angle_rad: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) by `angle_rad` (...) about y."""
    return _about("y", _at_least_float32(angle_rad))


@functools.partial(jax.jit, inline=True)
def rotation_z(angle_rad: jax.Array) -> jax.Array:
    """Returns the rotation matrices (..., 3, 3) by `angle_rad` (...) about z."""
    return _about("z", _at_least_float32(angle_rad))


def euler_matrix(axes: str, angles_rad: np.ndarray) -> np.ndarray:
    """Returns R_1 R_2 ... R_n (..., 3, 3) float64, rotations about `axes` (letters x, y, z) by host angles (..., n)."""
    matrix = np.broadcast_to(np.eye(3), (*angles_rad.shape[:-1], 3, 3))
    for i, axis in enumerate(axes):
        matrix = matrix @ _about(axis, np.asarray(angles_rad[..., i], np.float64))
    return matrix


def _about(axis: str, angle_rad: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    xp = np if isinstance(angle_rad, np.ndarray) else jnp
    c, s, one, zero = xp.cos(angle_rad), xp.sin(angle_rad), xp.ones_like(angle_rad), xp.zeros_like(angle_rad)
    flat = {
        "x": [one, zero, zero, zero, c, -s, zero, s, c],
        "y": [c, zero, s, zero, one, zero, -s, zero, c],
        "z": [c, -s, zero, s, c, zero, zero, zero, one],
    }[axis]
    return xp.stack(flat, axis=-1).reshape(*angle_rad.shape, 3, 3)


def _skew(v: jax.Array) -> jax.Array:
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = jnp.zeros_like(x)
    return jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*v.shape[:-1], 3, 3)


def _reject(a: jax.Array, unit: jax.Array) -> jax.Array:
    return a - jnp.sum(a * unit, axis=-1, keepdims=True) * unit


def _normalise_or(v: jax.Array, fallback: jax.Array) -> jax.Array:
    square = jnp.sum(v**2, axis=-1, keepdims=True)
    usable = square > _MIN_NORM**2
    return jnp.where(usable, v / jnp.sqrt(jnp.where(usable, square, 1.0)), fallback)


def _unit(axis: int, dtype: jnp.dtype) -> jax.Array:
    return jax.nn.one_hot(axis, 3, dtype=dtype)


def _at_least_float32(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.result_type(x, jnp.float32))
