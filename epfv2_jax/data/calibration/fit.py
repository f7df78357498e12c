"""Fit of every camera of a sequence from its joints and their stored projections.

The EgoBody3M release holds no calibration, but each joint comes with its pixel and its depth in every camera. These
determine the cameras almost exactly: depth is linear in the joint's position, so its row of the extrinsics is a
linear fit; the rest (rotation about the optical axis, shift across it, Fisheye62 intrinsics) starts from Tsai's
radial alignment, which is linear too, and is refined by least squares over models of growing freedom: KB2, KB4,
Fisheye62.
"""

import dataclasses

import numpy as np
import scipy.optimize

from epfv2_jax.data.rig import VIEW_NAMES
from epfv2_jax.geometry import cameras
from epfv2_jax.structs import Rig

#: Pairs nearer to the plane of the optical centre are not used, metres: their pixels are ill-conditioned.
MIN_DEPTH_M = 0.01
MIN_POINTS = 60
#: Limits of a "good" verdict. Stored pixels are exact up to float32 rounding, about 1e-4 px; our choice is far above.
MAX_RMS_PX = 0.01
MAX_HELD_OUT_RMS_PX = 0.1
MAX_IMAGE_SD_PX = 0.5
_MAX_DEPTH_RMS_M = 1e-4
_MAX_FIT_POINTS = 1500
_MAX_OUTLIERS = 0.05
_HELD_OUT_STRIDE = 5
# The fit is done in parameters in which the radial curve is linear, else weakly seen coefficients make a curved valley:
# angle about the axis, tx, ty (metres), f = fx, aspect fy / fx, cx, cy, f k1..f k6, p1 / f, p2 / f.
_NUM_PARAMETERS = 15
_CURVE = [3, *range(7, 13)]
_STAGES = {"KB2": range(9), "KB4": range(11), "Fisheye62": range(15)}
# The prior pulls toward the default rig with these standard deviations, against pixels of this precision: it only
# decides what the pairs leave open. Entries as above; those of the curve and of p are relative to f. Without a default
# rig the first guess takes its place, and is trusted this many times less.
_PRIOR_NOISE_PX = 1e-4
_PRIOR_SD = np.array([0.2, 0.02, 0.02, 0.05, 0.02, 20.0, 20.0, *[0.1] * 6, 0.01, 0.01])
_GUESS_SD = 5.0
_POWERS = 2 * np.arange(7) + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraFit:
    """One fitted camera and how far to trust it."""

    camera: cameras.Camera  # numpy, float32; the default rig's (or a nominal one) where the fit is impossible
    T_cam_headset: np.ndarray  # (4, 4) float32, metres
    rms_px: float  # over the usable pairs, gross outliers left out; NaN where nothing was fitted
    held_out_rms_px: float  # over pairs of joints that a second fit did not see
    image_sd_px: float  # largest predicted standard deviation of the radial curve from the axis to the widest pair
    angle_range_rad: tuple[float, float]  # of the usable pairs, from the optical axis
    num_points: int  # usable pairs: finite and more than `MIN_DEPTH_M` in front of the camera
    verdict: str  # "good", or "poor: " and why

    @property
    def good(self) -> bool:
        return self.verdict == "good"


def calibrate_sequence(
    points_headset_m: np.ndarray, uvz: np.ndarray, sizes_px: np.ndarray, default_rig: Rig | None = None
) -> list[CameraFit]:
    """Returns one `CameraFit` for each view of a sequence; a hopeless view gets a "poor" verdict, never an exception.

    Args:
      points_headset_m: (F, J, 3) joints in the headset frame. Pairs that are not finite are left out.
      uvz: (F, V, J, 3) stored projections: pixel column, pixel row, depth along the optical axis in metres.
      sizes_px: (V, 2) width and height of the stored images.
      default_rig: cameras of a similar headset in the same image orientation, leading axis V. It regularises what the
        points leave open and stands in where the fit is impossible; without it the fit is from scratch.

    Raises:
      ValueError: the arrays do not agree in shape.
    """
    points, uvz = np.asarray(points_headset_m, np.float64), np.asarray(uvz, np.float64)
    sizes = np.asarray(sizes_px, np.float64)
    expected = (*points.shape[:1], sizes.shape[0], *points.shape[1:])
    if points.ndim != 3 or points.shape[-1] != 3 or uvz.shape != expected or sizes.shape[1:] != (2,):
        raise ValueError(
            f"calibration needs points (F, J, 3), projections (F, V, J, 3) and sizes (V, 2); got {points.shape}, "
            f"{uvz.shape} and {sizes.shape}"
        )
    fits = []
    for view, size in enumerate(sizes):
        default = None if default_rig is None else _parameters_of(default_rig, view)
        fits.append(_calibrate_view(points, uvz[:, view], size, default))
    return fits


def to_rig(fits: list[CameraFit]) -> Rig:
    """Returns the rig (numpy, leading axis V) of the fitted cameras of a sequence."""
    return Rig(
        cameras=cameras.stack([fit.camera for fit in fits]),
        T_cam_headset=np.stack([fit.T_cam_headset for fit in fits]),
    )


def report(fits: list[CameraFit]) -> str:
    """Returns a short table of the fits, one line a camera."""
    names = VIEW_NAMES if len(fits) == len(VIEW_NAMES) else [f"camera {i}" for i in range(len(fits))]
    lines = []
    for name, fit in zip(names, fits, strict=True):
        low, high = np.rad2deg(fit.angle_range_rad)
        lines.append(
            f"{name:12s} rms {fit.rms_px:.2e} px, held out {fit.held_out_rms_px:.2e} px, {fit.num_points} pairs "
            f"at {low:.0f}-{high:.0f} deg: {fit.verdict}"
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Pose:
    """What the depths tell: the optical axis in the headset frame and two directions across it."""

    basis: np.ndarray  # (3, 3) rows: two directions across the axis, the axis
    tz_m: float


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Usable pairs in the axes of `_Pose.basis`."""

    across: np.ndarray  # (N, 2), metres
    depth: np.ndarray  # (N,), metres, positive
    uv: np.ndarray  # (N, 2), pixels
    joint: np.ndarray  # (N,)
    sign: np.ndarray  # (N,) -1 for a point behind the camera, whose stored pixel is that of its mirror image

    def take(self, index: np.ndarray) -> "_Pairs":
        fields = (self.across, self.depth, self.uv, self.joint, self.sign)
        return _Pairs(*(field[index] for field in fields))


@dataclasses.dataclass(frozen=True)
class _Prior:
    """What is believed of the parameters (P,) before the pairs are seen."""

    mean: np.ndarray
    sd: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Default:
    parameters: np.ndarray  # intrinsics; its pose entries are filled in once the axis is known
    T_cam_headset: np.ndarray


def _calibrate_view(points: np.ndarray, uvz: np.ndarray, size: np.ndarray, default: _Default | None) -> CameraFit:
    usable = np.isfinite(points).all(-1) & np.isfinite(uvz).all(-1)
    # A pixel many images away is no pixel of this camera.
    usable &= np.where(usable, np.abs(np.where(usable[..., None], uvz[..., :2], 0.0)).max(-1) < 10 * size.max(), False)
    in_front = usable & (np.where(usable, uvz[..., 2], 0.0) > MIN_DEPTH_M)
    num_points = int(in_front.sum())

    def give_up(reason: str) -> CameraFit:
        return _fallback(size, default, num_points, f"poor: {reason}; not fitted")

    if num_points < MIN_POINTS:
        return give_up(f"{num_points} pairs in front of the camera, {MIN_POINTS} are needed")
    try:
        pose, depth_rms = _fit_depth(points[usable], uvz[usable][:, 2])
        if pose is None:
            return give_up("the joints do not spread in three dimensions")
        if not depth_rms < _MAX_DEPTH_RMS_M:
            return give_up(f"depths are not linear in the joints (rms {depth_rms * 100:.3g} cm)")
        away = usable & (np.where(usable, np.abs(uvz[..., 2]), 0.0) > MIN_DEPTH_M)
        in_axes = points[away] @ pose.basis.T
        # The fitted depth, not the stored one: they agree to rounding, and this one is what the camera will use.
        depth = in_axes[:, 2] + pose.tz_m
        pairs = _Pairs(in_axes[:, :2], np.abs(depth), uvz[away][:, :2], np.nonzero(away)[1], np.sign(depth))
        return _fit_lens(pairs, pose, size, default)
    except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
        return give_up(f"the least-squares fit failed ({error})")


def _fit_depth(points: np.ndarray, z: np.ndarray) -> tuple[_Pose | None, float]:
    """The row of the extrinsics that gives the depth, and the rms of its residual in metres."""
    mean = points.mean(axis=0)
    centred = points - mean
    spread = np.linalg.svd(centred, compute_uv=False) / np.sqrt(len(points))
    if spread[2] < 1e-3:
        return None, np.nan
    row, *_ = np.linalg.lstsq(centred, z - z.mean(), rcond=None)
    length = np.linalg.norm(row)
    if not 0.99 < length < 1.01:
        return _Pose(np.eye(3), 0.0), np.inf
    axis = row / length
    tz = z.mean() - axis @ mean
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    rms = float(np.sqrt(np.mean((points @ axis + tz - z) ** 2)))
    return _Pose(np.stack([first, np.cross(axis, first), axis]), float(tz)), rms


def _fit_lens(all_pairs: _Pairs, pose: _Pose, size: np.ndarray, default: _Default | None) -> CameraFit:
    front = all_pairs.take(all_pairs.sign > 0)
    num_points = len(front.depth)
    guess = _radial_alignment(front, size)
    prior = _prior(guess, _GUESS_SD) if default is None else _prior(_with_pose(default, pose), 1.0)
    best, inliers = _fit_robustly(guess, front, prior, size)
    if default is not None and not np.median(_errors(best, front)) <= MAX_RMS_PX:
        other, other_inliers = _fit_robustly(prior.mean, front, prior, size)
        if np.median(_errors(other, front)) < np.median(_errors(best, front)):
            best, inliers = other, other_inliers
    pairs = front
    if num_points < len(all_pairs.depth):
        # The release writes a point behind the camera as its mirror image through the optical centre. These pairs reach
        # angles that the others do not; other writers may put anything there, so they are used only where they fit.
        both, both_inliers = _fit_robustly(best, all_pairs, prior, size)
        if np.median(_errors(both, front)) <= max(1.5 * np.median(_errors(best, front)), 1e-3):
            best, inliers, pairs = both, both_inliers, all_pairs
    in_front = pairs.sign > 0
    outliers = 1.0 - float(inliers[in_front].mean())
    rms = _rms(best, pairs.take(inliers & in_front))

    held_out = pairs.joint % _HELD_OUT_STRIDE == _HELD_OUT_STRIDE - 1
    if min((inliers & held_out).sum(), (inliers & ~held_out).sum()) < MIN_POINTS // 4:
        held_out = np.arange(len(pairs.depth)) % _HELD_OUT_STRIDE == _HELD_OUT_STRIDE - 1
    blind = _refine(best, pairs.take(_spread_subset(pairs, inliers & ~held_out, size)), prior, last_stage_only=True)
    held_out_rms = _rms(blind, pairs.take(held_out & inliers))

    angles = np.arctan2(np.linalg.norm(_turned(best, front), axis=-1), front.depth)
    image_sd = _image_sd(best, pairs.take(_spread_subset(pairs, inliers, size)), prior, angles.max())
    problems = []
    if outliers > _MAX_OUTLIERS:
        problems.append(f"{outliers:.0%} of the pairs do not fit the model")
    if not rms <= MAX_RMS_PX:
        problems.append(f"residual {rms:.3g} px")
    if not held_out_rms <= MAX_HELD_OUT_RMS_PX:
        problems.append(f"held-out residual {held_out_rms:.3g} px")
    if not image_sd <= MAX_IMAGE_SD_PX:
        problems.append(f"radial curve uncertain by {image_sd:.3g} px inside the image")
    try:
        camera = _camera(best, size)
    except ValueError as error:
        problems.append(f"the fitted camera is impossible ({error})")
        return _fallback(size, default, num_points, f"poor: {', '.join(problems)}; not fitted")
    return CameraFit(
        camera=camera,
        T_cam_headset=_transform(best, pose).astype(np.float32),
        rms_px=rms,
        held_out_rms_px=held_out_rms,
        image_sd_px=image_sd,
        angle_range_rad=(float(angles.min()), float(angles.max())),
        num_points=num_points,
        verdict="poor: " + ", ".join(problems) if problems else "good",
    )


def _fit_robustly(start: np.ndarray, pairs: _Pairs, prior: _Prior, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parameters fitted to a subset of the pairs and which pairs (N,) agree; the others are left out once."""
    inliers = np.ones(len(pairs.depth), bool)
    parameters = start
    for _ in range(2):
        parameters = _refine(parameters, pairs.take(_spread_subset(pairs, inliers, size)), prior)
        errors = _errors(parameters, pairs)
        inliers = errors <= max(10 * np.median(errors), 1e-3)
        if inliers.all():
            break
    return parameters, inliers


def _radial_alignment(pairs: _Pairs, size: np.ndarray) -> np.ndarray:
    """First guess: the principal point at the image's centre, no distortion but the radial one (Tsai 1987).

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
    start = np.zeros(_NUM_PARAMETERS)
    start[:8] = np.arctan2(s, c), tx, ty, f, 1.0, *center, np.clip(fk1, -0.3 * f, 0.3 * f)
    return start


def _refine(start: np.ndarray, pairs: _Pairs, prior: _Prior, last_stage_only: bool = False) -> np.ndarray:
    """The parameters after least squares over the stages of growing freedom."""
    parameters = start.copy()
    for name, stage in _STAGES.items():
        last = name == "Fisheye62"
        if last or not last_stage_only:
            parameters = _least_squares(parameters, np.asarray(stage), pairs, prior if last else None, last)
    return parameters


def _least_squares(
    start: np.ndarray, free: np.ndarray, pairs: _Pairs, prior: _Prior | None, accurate: bool
) -> np.ndarray:
    pull = None if prior is None else _PRIOR_NOISE_PX / prior.sd

    def expand(x: np.ndarray) -> np.ndarray:
        parameters = start.copy()
        parameters[free] = x
        return parameters

    def residuals(x: np.ndarray) -> np.ndarray:
        parameters = expand(x)
        value = (_project(parameters, pairs) - pairs.uv).ravel()
        return value if prior is None else np.concatenate([value, (pull * (parameters - prior.mean))[free]])

    def jacobian(x: np.ndarray) -> np.ndarray:
        value = _project_jacobian(expand(x), pairs).reshape(-1, _NUM_PARAMETERS)[:, free]
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


def _turned(parameters: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """The pairs' (x, y) in the camera (N, 2), metres; of the mirror image where the point lies behind."""
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    a, b = pairs.across.T
    x, y = c * a - s * b + parameters[1], s * a + c * b + parameters[2]
    return np.stack([x, y], axis=-1) * pairs.sign[:, None]


def _map(parameters: np.ndarray, pairs: _Pairs) -> tuple[np.ndarray, ...]:
    xy = _turned(parameters, pairs)
    radius = np.maximum(np.linalg.norm(xy, axis=-1), 1e-9)
    powers = np.arctan2(radius, pairs.depth)[:, None] ** _POWERS
    gain = powers @ parameters[_CURVE] / radius
    mapped = xy * gain[:, None]
    q = parameters[13:15]
    square = np.sum(mapped**2, axis=-1, keepdims=True)
    distorted = mapped + square * q + 2 * (mapped @ q)[:, None] * mapped
    return xy, radius, powers, gain, mapped, distorted


def _project(parameters: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """Pixels (N, 2) of the pairs: the formula of `epfv2_jax.geometry.cameras` without validity, in float64."""
    return np.array([1.0, parameters[4]]) * _map(parameters, pairs)[-1] + parameters[5:7]


def _project_jacobian(parameters: np.ndarray, pairs: _Pairs) -> np.ndarray:
    """Derivatives (N, 2, P) of `_project` by the parameters."""
    xy, radius, powers, gain, mapped, distorted = _map(parameters, pairs)
    q = parameters[13:15]
    axes = np.array([1.0, parameters[4]])[:, None]
    eye = np.eye(2)
    slope = (powers / powers[:, :1]) @ (parameters[_CURVE] * _POWERS)
    gain_slope = (slope * pairs.depth / (radius**2 + pairs.depth**2) - gain) / radius
    mapped_xy = gain[:, None, None] * eye + (gain_slope / radius)[:, None, None] * xy[:, :, None] * xy[:, None, :]
    along = (mapped @ q)[:, None, None]
    decentred = (1.0 + 2.0 * along) * eye + 2.0 * (q[None, :, None] * mapped[:, None, :] + mapped[:, :, None] * q)
    to_pixel = axes * decentred
    by_xy = to_pixel @ mapped_xy * pairs.sign[:, None, None]
    x, y = (xy * pairs.sign[:, None] - parameters[1:3]).T

    jacobian = np.zeros((len(radius), 2, _NUM_PARAMETERS))
    jacobian[:, :, 0] = np.einsum("nij,nj->ni", by_xy, np.stack([-y, x], axis=-1))
    jacobian[:, :, 1:3] = by_xy
    jacobian[:, 1, 4] = distorted[:, 1]
    jacobian[:, 0, 5] = jacobian[:, 1, 6] = 1.0
    direction = np.einsum("nij,nj->ni", to_pixel, xy / radius[:, None])
    jacobian[:, :, _CURVE] = direction[:, :, None] * powers[:, None, :]
    square = np.sum(mapped**2, axis=-1)[:, None, None]
    jacobian[:, :, 13:15] = axes * (square * eye + 2.0 * mapped[:, :, None] * mapped[:, None, :])
    return jacobian


def _prior(mean: np.ndarray, factor: float) -> _Prior:
    f = max(mean[3], 1.0)
    units = np.ones(_NUM_PARAMETERS)
    units[_CURVE], units[13:15] = f, 1.0 / f
    return _Prior(mean, factor * _PRIOR_SD * units)


def _errors(parameters: np.ndarray, pairs: _Pairs) -> np.ndarray:
    return np.linalg.norm(_project(parameters, pairs) - pairs.uv, axis=-1)


def _rms(parameters: np.ndarray, pairs: _Pairs) -> float:
    return float(np.sqrt(np.mean(_errors(parameters, pairs) ** 2))) if len(pairs.depth) else float("nan")


def _spread_subset(pairs: _Pairs, allowed: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Indices of at most `_MAX_FIT_POINTS` allowed pairs, taken in turn from the cells of a grid over the image."""
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


def _image_sd(parameters: np.ndarray, pairs: _Pairs, prior: _Prior, widest_rad: float) -> float:
    """Largest predicted standard deviation, pixels, of a projection between the axis and `widest_rad`.

    From the covariance of the fit at its own residual: it is small where the pairs, or the exactness of the model,
    determine the curve, and large where a narrow range of angles leaves it open.
    """
    jacobian = _project_jacobian(parameters, pairs).reshape(-1, _NUM_PARAMETERS)
    noise = max(_rms(parameters, pairs) / np.sqrt(2), 1e-5)
    jacobian = np.concatenate([jacobian / noise, np.diag(1.0 / prior.sd)])
    scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)
    R = np.linalg.qr(jacobian / scale, mode="r")
    angle = np.linspace(0.02, widest_rad, 12)[:, None]
    around = np.linspace(0.0, 2 * np.pi, 8, endpoint=False)
    in_camera = np.sin(angle)[..., None] * np.stack([np.cos(around), np.sin(around)], axis=-1)
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    across = (in_camera.reshape(-1, 2) - parameters[1:3]) @ np.array([[c, -s], [s, c]])
    depth = np.repeat(np.cos(angle), len(around))
    grid = _Pairs(across, depth, np.zeros_like(across), np.zeros(len(depth), int), np.ones(len(depth)))
    sensitivity = _project_jacobian(parameters, grid).reshape(-1, _NUM_PARAMETERS) / scale
    solved, *_ = np.linalg.lstsq(R.T, sensitivity.T, rcond=None)
    return float(np.sqrt(np.max(np.sum(solved**2, axis=0))))


def _camera(parameters: np.ndarray, size: np.ndarray) -> cameras.Camera:
    f, aspect = parameters[3:5]
    return cameras.fisheye62(
        focal_px=(f, f * aspect),
        center_px=parameters[5:7],
        k=parameters[7:13] / f,
        p=parameters[13:15] * f,
        size_px=size,
    )


def _transform(parameters: np.ndarray, pose: _Pose) -> np.ndarray:
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    T_cam_headset = np.eye(4)
    T_cam_headset[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ pose.basis
    T_cam_headset[:3, 3] = *parameters[1:3], pose.tz_m
    return T_cam_headset


def _parameters_of(rig: Rig, view: int) -> _Default:
    camera = rig.cameras
    parameters = np.zeros(_NUM_PARAMETERS)
    fx, fy = np.asarray(camera.focal_px[view], np.float64)
    parameters[3:5], parameters[5:7] = (fx, fy / fx), camera.center_px[view]
    parameters[7:13], parameters[13:15] = fx * camera.radial[view], camera.tangential[view] / fx
    return _Default(parameters, np.asarray(rig.T_cam_headset[view], np.float64))


def _with_pose(default: _Default, pose: _Pose) -> np.ndarray:
    """The default's parameters with its pose expressed about the measured optical axis."""
    turned = default.T_cam_headset[:2, :3] @ pose.basis[:2].T
    parameters = default.parameters.copy()
    parameters[0] = np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])
    parameters[1:3] = default.T_cam_headset[:2, 3]
    return parameters


def _fallback(size: np.ndarray, default: _Default | None, num_points: int, verdict: str) -> CameraFit:
    nan = float("nan")
    parameters = np.zeros(_NUM_PARAMETERS)
    parameters[3:7] = 0.375 * size[0], 1.0, *(0.5 * (size - 1))
    return CameraFit(
        camera=_camera(parameters if default is None else default.parameters, size),
        T_cam_headset=(np.eye(4) if default is None else default.T_cam_headset).astype(np.float32),
        rms_px=nan,
        held_out_rms_px=nan,
        image_sd_px=nan,
        angle_range_rad=(nan, nan),
        num_points=num_points,
        verdict=verdict,
    )
