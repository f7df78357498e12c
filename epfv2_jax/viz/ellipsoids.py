"""Ellipsoids of the predicted uncertainty: which joints have one, how large it is, and its outline in a picture."""

import numpy as np

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.metrics.pose import ellipsoid_radius
from epfv2_jax.structs import StudentT

#: Probability, according to the model, that an ellipsoid holds its joint.
LEVEL = 0.5

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 48, endpoint=False)) for f in (np.cos, np.sin)])


def radius(distribution: StudentT) -> float:
    """Returns the factor by which the factor L of the scale matrix maps the unit ball to the ellipsoid of `LEVEL`."""
    return ellipsoid_radius(LEVEL, distribution.degrees_of_freedom)


def with_ellipsoid(example: FrameExample, skeleton: Skeleton) -> np.ndarray:
    """Returns the indices of the joints whose ellipsoid is drawn.

    These are the joints with a finite prediction and scale, without those that coincide with their parent in the rest
    pose: their ellipsoid would be drawn twice.
    """
    if example.distribution is None:
        return np.zeros(0, int)
    apart = np.any(skeleton.rest_offsets_m, axis=1) | (np.array(skeleton.parents) < 0)
    finite = np.isfinite(example.joints_headset_m).all(-1) & np.isfinite(example.distribution.cholesky_m).all((-1, -2))
    return np.flatnonzero(apart & finite)


def outline(half: np.ndarray) -> np.ndarray:
    """Returns points (n, 2) on the outline of the image of the unit ball under `half` (2, 3)."""
    # It is the image of the unit circle under what is left without the rotation of the ball.
    U, size, _ = np.linalg.svd(half, full_matrices=False)
    return ((U * size) @ _CIRCLE).T


def ellipse(half: np.ndarray) -> dict[str, float]:
    """Returns the width, height and angle (degrees) of the image of the unit ball under `half` (2, 3)."""
    U, size, _ = np.linalg.svd(half)
    return {"width": 2 * size[0], "height": 2 * size[1], "angle": float(np.rad2deg(np.arctan2(U[1, 0], U[0, 0])))}


def principal_axes(cholesky: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns rotations (N, 3, 3) whose columns are the axes of the ellipsoids L L^T, and half-lengths (N, 3)."""
    axes, size, _ = np.linalg.svd(cholesky)
    axes[..., 2] *= np.sign(np.linalg.det(axes))[:, None]
    return axes, size
