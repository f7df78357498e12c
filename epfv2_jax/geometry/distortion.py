"""The distortions of the lens models, on the normalised image plane, and their inverses.

See `geometry.cameras` for the formulas. Points are (..., N, 2); coefficients (..., 1, C) broadcast with them: `radial`
(..., 1, 6), `tangential` (..., 1, 2), `thin_prism` (..., 1, 4).
"""

import jax
import jax.numpy as jnp
import numpy as np

#: Largest angle from the optical axis in any model: points must lie in front of the camera.
MAX_ANGLE_RAD = np.pi / 2 - 1e-3

_NEWTON_STEPS = 8
_ANGLE_STEPS = 24
_TINY = 1e-12  # in the place of a smaller determinant
# Grid on which the rational map must be one-to-one.
_LIMIT_ANGLES, _LIMIT_DIRECTIONS = 3000, 64


def fisheye_turning_angle(radial: np.ndarray) -> np.ndarray:
    """Returns the angle (...,) in radians up to which th (1 + k1 th^2 + ...) grows, at most `MAX_ANGLE_RAD`; host."""
    radial = np.asarray(radial, np.float64)
    flat = radial.reshape(-1, radial.shape[-1])
    angles = np.full(flat.shape[0], MAX_ANGLE_RAD)
    for i, k in enumerate(flat):
        slope = np.concatenate([[1.0], k * (2 * np.arange(k.size) + 3)])  # in th^2, lowest power first
        roots = np.roots(slope[::-1])
        real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
        if real.size:
            angles[i] = min(MAX_ANGLE_RAD, np.sqrt(real.min()))
    return angles.reshape(radial.shape[:-1])


def rational_turning_angle(radial: np.ndarray, tangential: np.ndarray, thin_prism: np.ndarray) -> np.ndarray:
    """Returns the angle (...,) in radians up to which the rational map is one-to-one, to 6e-4 rad; host arrays.

    Up to there, on a grid, its denominator and the determinant of its derivative are positive.
    """
    around = np.linspace(0, 2 * np.pi, _LIMIT_DIRECTIONS, endpoint=False)
    angles = np.linspace(0, MAX_ANGLE_RAD, _LIMIT_ANGLES)
    xy = np.tan(angles)[:, None, None] * np.stack([np.cos(around), np.sin(around)], axis=-1)
    flat = [np.asarray(x, np.float64).reshape(-1, 1, x.shape[-1]) for x in (radial, tangential, thin_prism)]
    limits = np.empty(len(flat[0]))
    for i, (k, p, s) in enumerate(zip(*flat, strict=True)):
        (a, b), (c, d) = _rational_jacobian(xy, k, p, s)
        denominator = _rational_parts(k, np.sum(xy**2, axis=-1, keepdims=True))[1][..., 0]
        good = np.all((denominator > 0) & (a * d - b * c > 0), axis=-1)
        limits[i] = angles[-1] if good.all() else angles[max(int(np.argmin(good)) - 1, 0)]
    return limits.reshape(radial.shape[:-1])


def radial_gain(radial: jax.Array, angle2: jax.Array) -> jax.Array:
    """Returns 1 + k1 th^2 + ... + k6 th^12 from th^2 (..., N, 1)."""
    gain = jnp.zeros_like(angle2)
    for i in reversed(range(6)):
        gain = (gain + radial[..., i : i + 1]) * angle2
    return 1.0 + gain


def decentering(mapped: jax.Array, tangential: jax.Array, thin_prism: jax.Array) -> jax.Array:
    """Returns by how much tangential and thin-prism distortion move points `mapped`."""
    square = jnp.sum(mapped**2, axis=-1, keepdims=True)
    along = jnp.sum(tangential * mapped, axis=-1, keepdims=True)
    prism = thin_prism[..., 0::2] * square + thin_prism[..., 1::2] * square**2
    return square * tangential + 2.0 * along * mapped + prism


def remove_decentering(distorted: jax.Array, tangential: jax.Array, thin_prism: jax.Array) -> jax.Array:
    """Returns the points that `decentering` moves to `distorted`."""

    def step(_, mapped):
        (a, b), (c, d) = _decentering_jacobian(mapped, tangential, thin_prism)
        error = mapped + decentering(mapped, tangential, thin_prism) - distorted
        return mapped - _solve(((1.0 + a, b), (c, 1.0 + d)), error)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, distorted)


def invert_radial(radial: jax.Array, length: jax.Array, max_angle: jax.Array) -> jax.Array:
    """Returns the angle (..., N, 1) whose radial map is `length`.

    Newton's method within a shrinking bracket, since the slope is zero at the turning point.
    """
    slope_radial = radial * jnp.broadcast_to(2.0 * jnp.arange(6, dtype=radial.dtype) + 3.0, radial.shape)

    def step(_, state):
        low, high, angle = state
        error = angle * radial_gain(radial, angle**2) - length
        low, high = jnp.where(error < 0, angle, low), jnp.where(error < 0, high, angle)
        slope = radial_gain(slope_radial, angle**2)
        newton = angle - error / jnp.where(slope > 0, slope, 1.0)
        inside = (slope > 0) & (newton > low) & (newton < high)
        return low, high, jnp.where(inside, newton, 0.5 * (low + high))

    high = jnp.broadcast_to(max_angle, length.shape)
    start = jnp.minimum(length, 0.5 * high)
    return jax.lax.fori_loop(0, _ANGLE_STEPS, step, (jnp.zeros_like(length), high, start))[2]


def rational(xy: jax.Array, radial: jax.Array, tangential: jax.Array, thin_prism: jax.Array) -> jax.Array:
    """Returns where the rational model moves points x / z, y / z."""
    numerator, denominator = _rational_parts(radial, jnp.sum(xy**2, axis=-1, keepdims=True))
    return xy * (numerator / denominator) + decentering(xy, tangential, thin_prism)


def invert_rational(
    distorted: jax.Array, radial: jax.Array, tangential: jax.Array, thin_prism: jax.Array, limit: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the points x / z, y / z (..., N, 2) that `rational` moves to `distorted`, and whether there are any.

    Looks for them up to `limit` (..., 1, 1) from the origin, within which the map is one-to-one. Where there is none,
    the point lies at the limit.
    """

    def along(_, state):  # bisection for the length, without decentring
        low, high = state
        middle = 0.5 * (low + high)
        numerator, denominator = _rational_parts(radial, middle**2)
        short = middle * numerator < length * denominator
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    def newton(_, xy):
        error = rational(xy, radial, tangential, thin_prism) - distorted
        return within(xy - _solve(_rational_jacobian(xy, radial, tangential, thin_prism), error))

    def within(xy):
        norm = safe_norm(xy)
        return xy * (jnp.minimum(norm, limit) / jnp.where(norm > 0, norm, 1.0))

    length = safe_norm(distorted)
    low, high = jnp.zeros_like(length), jnp.broadcast_to(limit, length.shape)
    start = jax.lax.fori_loop(0, _ANGLE_STEPS, along, (low, high))[1]
    xy = distorted * (start / jnp.where(length > 0, length, 1.0))
    xy = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, xy)
    error = safe_norm(rational(xy, radial, tangential, thin_prism) - distorted)
    return xy, (error < 1e-4 * (1.0 + length)) & (safe_norm(xy) < limit)


def safe_norm(x: jax.Array) -> jax.Array:
    """Returns the lengths (..., N, 1) of vectors; its gradient at zero is zero."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _rational_parts(radial, square):
    """Returns numerator and denominator of the radial gain from r^2 (..., N, 1)."""
    k1, k2, k3, k4, k5, k6 = (radial[..., i : i + 1] for i in range(6))
    return (
        1.0 + square * (k1 + square * (k2 + square * k3)),
        1.0 + square * (k4 + square * (k5 + square * k6)),
    )


def _rational_jacobian(xy, radial, tangential, thin_prism):
    """Returns the derivative of `rational` as rows ((a, b), (c, d)) of arrays (..., N); for numpy too."""
    square = (xy**2).sum(axis=-1, keepdims=True)
    numerator, denominator = _rational_parts(radial, square)
    k1, k2, k3, k4, k5, k6 = (radial[..., i : i + 1] for i in range(6))
    by_square = k1 + square * (2.0 * k2 + 3.0 * square * k3)
    below = k4 + square * (2.0 * k5 + 3.0 * square * k6)
    gain = numerator / denominator
    twice_slope = (2.0 * (by_square - gain * below) / denominator)[..., 0]
    x, y = xy[..., 0], xy[..., 1]
    (a, b), (c, d) = _decentering_jacobian(xy, tangential, thin_prism)
    mixed = twice_slope * x * y
    return (gain[..., 0] + twice_slope * x * x + a, mixed + b), (mixed + c, gain[..., 0] + twice_slope * y * y + d)


def _decentering_jacobian(mapped, tangential, thin_prism):
    """Returns the derivative of `decentering` as rows ((a, b), (c, d)) of arrays (..., N); for numpy too."""
    p1, p2 = tangential[..., 0], tangential[..., 1]
    u, v = mapped[..., 0], mapped[..., 1]
    square = u * u + v * v
    prism = 2.0 * thin_prism[..., 0::2] + 4.0 * thin_prism[..., 1::2] * square[..., None]
    mixed = 2.0 * (p1 * v + p2 * u)
    return (
        (6.0 * p1 * u + 2.0 * p2 * v + prism[..., 0] * u, mixed + prism[..., 0] * v),
        (mixed + prism[..., 1] * u, 2.0 * p1 * u + 6.0 * p2 * v + prism[..., 1] * v),
    )


def _solve(matrix, vector: jax.Array) -> jax.Array:
    """Returns the solution (..., N, 2) of 2x2 systems whose rows are arrays (..., N)."""
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    determinant = jnp.where(jnp.abs(determinant) > _TINY, determinant, _TINY)
    u = (d * vector[..., 0] - b * vector[..., 1]) / determinant
    v = (a * vector[..., 1] - c * vector[..., 0]) / determinant
    return jnp.stack([u, v], axis=-1)
