"""Robust least squares over the parameters of a lens, from a linear first guess and with a prior."""

import dataclasses

import numpy as np
import scipy.optimize

from epfv2_jax.data.calibration.lens import (
    CURVE,
    NUM_PARAMETERS,
    Pairs,
    errors_px,
    project,
    project_jacobian,
    rms_px,
)

_MAX_FIT_POINTS = 1500
# Parameters that are free in each stage of the fit, as `lens` numbers them.
_STAGES = {"KB2": range(9), "KB4": range(11), "Fisheye62": range(15)}
# The prior pulls toward the default rig with these standard deviations, against pixels of this precision: it only
# decides what the pairs leave open. Entries as in `lens`; those of the curve and of p are relative to f.
_PRIOR_NOISE_PX = 1e-4
_PRIOR_SD = np.array([0.2, 0.02, 0.02, 0.05, 0.02, 20.0, 20.0, *[0.1] * 6, 0.01, 0.01])


@dataclasses.dataclass(frozen=True)
class Prior:
    """A normal distribution of the parameters (P,) before any pair is seen."""

    mean: np.ndarray
    sd: np.ndarray


def prior_around(mean: np.ndarray, factor: float) -> Prior:
    """Returns the prior about `mean`, `factor` times as wide as that about the default rig."""
    f = max(mean[3], 1.0)
    units = np.ones(NUM_PARAMETERS)
    units[CURVE], units[13:15] = f, 1.0 / f
    return Prior(mean, factor * _PRIOR_SD * units)


def radial_alignment(pairs: Pairs, size: np.ndarray) -> np.ndarray:
    """Returns a first guess: the principal point at the image's centre, no distortion but the radial one (Tsai 1987).

    A pixel then lies in the same direction from the centre as the point from the axis: one equation a pair, linear in
    (cos, sin, tx, ty).
    """
    center = 0.5 * (size - 1)
    du, dv = (pairs.uv - center).T
    a, b = pairs.across.T
    weight = 1.0 / np.maximum(np.hypot(du, dv), 1.0)
    equations = np.stack([du * b - dv * a, du * a + dv * b, -dv, du], axis=-1) * weight[:, None]
    scale = np.maximum(np.linalg.norm(equations, axis=0), 1e-12)
    c, s, tx, ty = np.linalg.svd(equations / scale, full_matrices=False)[2][-1] / scale
    length = np.hypot(c, s)
    c, s, tx, ty = np.array([c, s, tx, ty]) / max(length, 1e-12)
    x, y = c * a - s * b + tx, s * a + c * b + ty
    if np.sum((x * du + y * dv) * weight) < 0:
        c, s, tx, ty, x, y = -c, -s, -tx, -ty, -x, -y
    theta = np.arctan2(np.hypot(x, y), pairs.depth)
    radius = np.hypot(du, dv)
    (f, fk1), *_ = np.linalg.lstsq(np.stack([theta, theta**3], axis=-1), radius, rcond=None)
    if not f > 0:
        f, fk1 = max(np.sum(theta * radius) / np.sum(theta**2), 1.0), 0.0
    start = np.zeros(NUM_PARAMETERS)
    start[:8] = np.arctan2(s, c), tx, ty, f, 1.0, *center, np.clip(fk1, -0.3 * f, 0.3 * f)
    return start


def fit_robustly(start: np.ndarray, pairs: Pairs, prior: Prior, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns parameters fitted to a subset of the pairs, and which pairs (N,) agree; the others are left out once."""
    inliers = np.ones(len(pairs.depth), bool)
    parameters = start
    for _ in range(2):
        parameters = refine(parameters, pairs.take(spread_subset(pairs, inliers, size)), prior)
        errors = errors_px(parameters, pairs)
        inliers = errors <= max(10 * np.median(errors), 1e-3)
        if inliers.all():
            break
    return parameters, inliers


def refine(start: np.ndarray, pairs: Pairs, prior: Prior, last_stage_only: bool = False) -> np.ndarray:
    """Returns the parameters after least squares over the stages of growing freedom."""
    parameters = start.copy()
    for name, stage in _STAGES.items():
        last = name == "Fisheye62"
        if last or not last_stage_only:
            parameters = _least_squares(parameters, np.asarray(stage), pairs, prior if last else None, last)
    return parameters


def _least_squares(
    start: np.ndarray, free: np.ndarray, pairs: Pairs, prior: Prior | None, accurate: bool
) -> np.ndarray:
    """Returns the parameters after one least-squares fit of those that are `free`."""
    pull = None if prior is None else _PRIOR_NOISE_PX / prior.sd

    def expand(x: np.ndarray) -> np.ndarray:
        parameters = start.copy()
        parameters[free] = x
        return parameters

    def residuals(x: np.ndarray) -> np.ndarray:
        parameters = expand(x)
        value = (project(parameters, pairs) - pairs.uv).ravel()
        return value if prior is None else np.concatenate([value, (pull * (parameters - prior.mean))[free]])

    def jacobian(x: np.ndarray) -> np.ndarray:
        value = project_jacobian(expand(x), pairs).reshape(-1, NUM_PARAMETERS)[:, free]
        return value if prior is None else np.concatenate([value, np.diag(pull[free])])

    tolerance = 1e-14 if accurate else 1e-6
    solution = scipy.optimize.least_squares(
        residuals,
        start[free],
        jac=jacobian,
        method="lm",
        x_scale="jac",
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=100 if accurate else 40,
    )
    return expand(solution.x)


def spread_subset(pairs: Pairs, allowed: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns at most `_MAX_FIT_POINTS` indices of allowed pairs, in turn from the cells of a grid over the image."""
    candidates = np.nonzero(allowed)[0]
    if len(candidates) <= _MAX_FIT_POINTS:
        return candidates
    candidates = np.random.default_rng(0).permutation(candidates)
    cells = np.floor(pairs.uv[candidates] / (size.max() / 24)).astype(np.int64)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(cell.ravel(), kind="stable")
    sorted_cells = cell.ravel()[order]
    starts = np.searchsorted(sorted_cells, sorted_cells)
    turn = np.empty(len(candidates), np.int64)
    turn[order] = np.arange(len(candidates)) - starts
    return np.sort(candidates[np.argsort(turn, kind="stable")[:_MAX_FIT_POINTS]])


def image_sd_px(parameters: np.ndarray, pairs: Pairs, prior: Prior, widest_rad: float) -> float:
    """Returns the largest predicted standard deviation, pixels, of a projection between the axis and `widest_rad`.

    From the covariance of the fit at its own residual: it is small where the pairs, or the exactness of the model,
    determine the curve, and large where a narrow range of angles leaves it open.
    """
    jacobian = project_jacobian(parameters, pairs).reshape(-1, NUM_PARAMETERS)
    noise = max(rms_px(parameters, pairs) / np.sqrt(2), 1e-5)
    jacobian = np.concatenate([jacobian / noise, np.diag(1.0 / prior.sd)])
    scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
    R = np.linalg.qr(jacobian / scale, mode="r")
    angle = np.linspace(0.02, widest_rad, 12)[:, None]
    around = np.linspace(0.0, 2 * np.pi, 8, endpoint=False)
    in_camera = np.sin(angle)[..., None] * np.stack([np.cos(around), np.sin(around)], axis=-1)
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    across = (in_camera.reshape(-1, 2) - parameters[1:3]) @ np.array([[c, -s], [s, c]])
    depth = np.repeat(np.cos(angle), len(around))
    grid = Pairs(across, depth, np.zeros_like(across), np.zeros(len(depth), int), np.ones(len(depth)))
    sensitivity = project_jacobian(parameters, grid).reshape(-1, NUM_PARAMETERS) / scale
    solved, *_ = np.linalg.lstsq(R.T, sensitivity.T, rcond=None)
    return float(np.sqrt(np.max(np.sum(solved**2, axis=0))))
