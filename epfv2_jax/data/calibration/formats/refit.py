"""Fits Fisheye62 to a lens of another model, over its whole image."""

from collections.abc import Callable

import jax
import numpy as np
from scipy import optimize

from epfv2_jax.core import checks
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.cameras import MAX_ANGLE_RAD, Camera

#: Largest error in the image that a refitted lens may have, pixels: our choice.
MAX_REFIT_PX = 0.5

# Directions of a square grid in the angle from the axis, which is nearly even in the image.
_GRID = 121
# The fit also follows the lens this far outside the image, in sizes of it, with little weight: points there are seen
# by no pixel, but their projections guide a model.
_MARGIN, _MARGIN_WEIGHT = 0.25, 0.1
_MIN_POINTS = 200
_TURNING_ANGLES, _TURNING_DIRECTIONS = 1000, 16

#: Unit directions (N, 3) -> pixels (N, 2) and whether the lens sees them (N,), float64.
Project = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def fisheye62(project: Project, focal_px: float, size_wh: tuple[int, int]) -> tuple[Camera, float]:
    """Returns the Fisheye62 camera nearest to a lens, and its largest error in the image, pixels.

    The camera is valid up to the largest angle that was compared, a little outside the image.

    Args:
      project: the lens.
      focal_px: roughly, where the fit starts.
      size_wh: of the image.

    Raises:
      ValueError: hardly any direction falls into the image.
    """
    directions, angles = _directions()
    polar, polar_angles = _polar()
    uv, seen = project(np.concatenate([directions, polar.reshape(-1, 3)]))
    uv, polar_uv = uv[: len(angles)], uv[len(angles) :].reshape(*polar.shape[:2], 2)
    seen, polar_seen = seen[: len(angles)], seen[len(angles) :].reshape(polar.shape[:2])
    # Up to where pixels move outward with the angle, all round the axis.
    outward = polar_seen[1:] & (np.sum(np.diff(polar_uv, axis=0) * polar[-1, :, :2], axis=-1) > 0)
    grows = outward.all(axis=-1)
    seen = seen & (angles < (polar_angles[-1] if grows.all() else polar_angles[np.argmin(grows)]))
    size = np.asarray(size_wh, np.float64)
    outside = np.abs((uv + 0.5) / size - 0.5).max(axis=-1) - 0.5  # in sizes of the image
    inside, near = seen & (outside <= 0), seen & (outside <= _MARGIN)
    checks.at_least(_MIN_POINTS, **{"directions that fall into the image": int(inside.sum())})
    weight = np.where(inside, 1.0, _MARGIN_WEIGHT)[near, None]
    directions, uv = directions[near], uv[near]
    powers = angles[near, None] ** (2 * np.arange(7) + 1)
    around = directions[:, :2] / np.maximum(np.linalg.norm(directions[:, :2], axis=-1, keepdims=True), 1e-12)

    def errors(parameters: np.ndarray) -> np.ndarray:
        return (weight * (_map(parameters, powers, around) - uv)).ravel()

    def jacobian(parameters: np.ndarray) -> np.ndarray:
        return (weight[..., None] * _map_jacobian(parameters, powers, around)).reshape(-1, len(parameters))

    def with_curve(center: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm(uv - center, axis=-1)
        curve = np.linalg.lstsq(powers * weight, radius * weight[:, 0], rcond=None)[0]
        return np.array([*curve, 1.0, *center, 0.0, 0.0])

    scale = np.array([*np.full(7, focal_px), 0.01, 1.0, 1.0, 0.01 / focal_px, 0.01 / focal_px])
    found = optimize.least_squares(
        errors, with_curve(polar_uv[0].mean(axis=0)), jacobian, x_scale=scale, max_nfev=100
    ).x
    camera = cameras.fisheye62(
        focal_px=(found[0], found[0] * found[7]),
        center_px=found[8:10],
        k=found[1:7] / found[0],
        p=found[10:12] * found[0],
        size_px=size_wh,
    )
    error_px = np.linalg.norm(_map(found, powers, around) - uv, axis=-1)[inside[near]].max()
    return cameras.limited(camera, float(angles[near].max())), float(error_px)


def of_camera(camera: Camera) -> tuple[Camera, float]:
    """Returns the Fisheye62 camera nearest to one of another model, and its largest error in the image, pixels."""
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), camera)

    def project(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            uv, seen = jax.jit(cameras.project)(double, directions)
        return np.asarray(uv), np.asarray(seen)

    width, height = (int(n) for n in camera.size_px)
    return fisheye62(project, float(camera.focal_px[0]), (width, height))


def _map(parameters: np.ndarray, powers: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Returns pixels (N, 2). Parameters: f, f k1..f k6, fy / fx, cx, cy, p1 / f, p2 / f: nearly linear in all."""
    mapped = around * (powers @ parameters[:7])[:, None]
    q = parameters[10:12]
    distorted = mapped + np.sum(mapped**2, axis=-1, keepdims=True) * q + 2.0 * (mapped @ q)[:, None] * mapped
    return distorted * np.array([1.0, parameters[7]]) + parameters[8:10]


def _map_jacobian(parameters: np.ndarray, powers: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Returns the derivatives (N, 2, 12) of `_map`."""
    eye, q = np.eye(2), parameters[10:12]
    axes = np.array([1.0, parameters[7]])[:, None]
    mapped = around * (powers @ parameters[:7])[:, None]
    square, along = np.sum(mapped**2, axis=-1, keepdims=True)[..., None], (mapped @ q)[:, None, None]
    outer = mapped[:, :, None] * mapped[:, None, :]
    by_mapped = (1.0 + 2.0 * along) * eye + 2.0 * (q[:, None] * mapped[:, None, :] + mapped[:, :, None] * q)
    jacobian = np.zeros((len(mapped), 2, 12))
    jacobian[:, :, :7] = axes * (by_mapped @ around[:, :, None]) * powers[:, None, :]
    jacobian[:, 1, 7] = mapped[:, 1] + square[:, 0, 0] * q[1] + 2.0 * along[:, 0, 0] * mapped[:, 1]
    jacobian[:, :, 8:10] = eye
    jacobian[:, :, 10:12] = axes * (square * eye + 2.0 * outer)
    return jacobian


def _polar() -> tuple[np.ndarray, np.ndarray]:
    """Returns unit directions (A, D, 3) by angle from the axis and direction round it, and the angles (A,)."""
    angle = np.linspace(0, MAX_ANGLE_RAD, _TURNING_ANGLES)
    around = np.linspace(0, 2 * np.pi, _TURNING_DIRECTIONS, endpoint=False)
    sine, cosine = np.sin(angle)[:, None], np.cos(angle)[:, None]
    return np.stack([sine * np.cos(around), sine * np.sin(around), cosine + 0 * around], axis=-1), angle


def _directions() -> tuple[np.ndarray, np.ndarray]:
    """Returns unit directions (N, 3) up to `MAX_ANGLE_RAD` from the axis, and their angles (N,)."""
    step = np.linspace(-MAX_ANGLE_RAD, MAX_ANGLE_RAD, _GRID)
    grid = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
    angle = np.linalg.norm(grid, axis=-1)
    grid, angle = grid[angle <= MAX_ANGLE_RAD], angle[angle <= MAX_ANGLE_RAD]
    sine = np.sinc(angle / np.pi)[:, None]
    return np.concatenate([grid * sine, np.cos(angle)[:, None]], axis=-1), angle
