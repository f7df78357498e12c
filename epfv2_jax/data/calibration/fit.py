"""Fits every camera of a sequence to its joints and their stored projections.

The EgoBody3M release holds no calibration, but each joint comes with its pixel and its depth in every camera. These
determine the cameras almost exactly: depth is linear in the joint's position, so its row of the extrinsics is a
linear fit; the rest (rotation about the optical axis, shift across it, Fisheye62 intrinsics) starts from Tsai's
radial alignment, which is linear too, and is refined by least squares over models of growing freedom: KB2, KB4,
Fisheye62.
"""

import dataclasses

import numpy as np

from epfv2_jax.data.calibration.lens import (
    NUM_PARAMETERS,
    Default,
    Pairs,
    Pose,
    T_cam_headset_of,
    camera_of,
    errors_px,
    in_camera,
    parameters_of,
    rms_px,
    with_pose,
)
from epfv2_jax.data.calibration.refine import (
    Prior,
    fit_robustly,
    image_sd_px,
    prior_around,
    radial_alignment,
    refine,
    spread_subset,
)
from epfv2_jax.geometry import cameras, plausibility
from epfv2_jax.structs import Rig

#: Pairs nearer to the plane of the optical centre are not used, metres: their pixels are ill-conditioned.
MIN_DEPTH_M = 0.01
MIN_POINTS = 60
#: Limits of a "good" verdict. Stored pixels are exact up to float32 rounding, about 1e-4 px; our choice is far above.
MAX_RMS_PX = 0.01
MAX_HELD_OUT_RMS_PX = 0.1
MAX_IMAGE_SD_PX = 0.5
_MAX_DEPTH_RMS_M = 1e-4
_MAX_OUTLIERS = 0.05
_HELD_OUT_STRIDE = 5
# Without a default rig the first guess is the mean of the prior, and is trusted this many times less.
_GUESS_SD = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraFit:
    """A fitted camera, and how good the fit is."""

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
        """Whether the fit is within all limits."""
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
        default = None if default_rig is None else parameters_of(default_rig, view)
        fits.append(_calibrate_view(points, uvz[:, view], size, default))
    return fits


def to_rig(fits: list[CameraFit]) -> Rig:
    """Returns the rig (numpy, leading axis V) of the fitted cameras of a sequence."""
    return Rig(
        cameras=cameras.stack([fit.camera for fit in fits]),
        T_cam_headset=np.stack([fit.T_cam_headset for fit in fits]),
    )


def _calibrate_view(points: np.ndarray, uvz: np.ndarray, size: np.ndarray, default: Default | None) -> CameraFit:
    """Returns the fit of one view from joints (F, J, 3) and their projections (F, J, 3)."""
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
        pairs = Pairs(in_axes[:, :2], np.abs(depth), uvz[away][:, :2], np.nonzero(away)[1], np.sign(depth))
        return _fit_lens(pairs, pose, size, default)
    except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
        return give_up(f"the least-squares fit failed ({error})")


def _fit_depth(points: np.ndarray, z: np.ndarray) -> tuple[Pose | None, float]:
    """Returns the pose that gives the depths z (N,), and the rms of its residual in metres; no pose for flat points."""
    mean = points.mean(axis=0)
    centred = points - mean
    spread = np.linalg.svd(centred, compute_uv=False) / np.sqrt(len(points))
    if spread[2] < 1e-3:
        return None, np.nan
    row, *_ = np.linalg.lstsq(centred, z - z.mean(), rcond=None)
    length = np.linalg.norm(row)
    if not 0.99 < length < 1.01:
        return Pose(np.eye(3), 0.0), np.inf
    axis = row / length
    tz = z.mean() - axis @ mean
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    rms = float(np.sqrt(np.mean((points @ axis + tz - z) ** 2)))
    return Pose(np.stack([first, np.cross(axis, first), axis]), float(tz)), rms


def _fit_lens(all_pairs: Pairs, pose: Pose, size: np.ndarray, default: Default | None) -> CameraFit:
    """Returns the fit of a camera whose optical axis is known."""
    front = all_pairs.take(all_pairs.sign > 0)
    guess = radial_alignment(front, size)
    prior = prior_around(guess, _GUESS_SD) if default is None else prior_around(with_pose(default, pose), 1.0)
    best, inliers, pairs = _best_parameters(guess, all_pairs, prior, size, has_default=default is not None)
    in_front = pairs.sign > 0
    rms = rms_px(best, pairs.take(inliers & in_front))
    held_out_rms = _held_out_rms_px(best, pairs, inliers, prior, size)
    angles = np.arctan2(np.linalg.norm(in_camera(best, front), axis=-1), front.depth)
    image_sd = image_sd_px(best, pairs.take(spread_subset(pairs, inliers, size)), prior, angles.max())
    outliers = 1.0 - float(inliers[in_front].mean())
    problems = []
    if outliers > _MAX_OUTLIERS:
        problems.append(f"{outliers:.0%} of the pairs do not fit the model")
    if not rms <= MAX_RMS_PX:
        problems.append(f"residual {rms:.3g} px")
    if not held_out_rms <= MAX_HELD_OUT_RMS_PX:
        problems.append(f"held-out residual {held_out_rms:.3g} px")
    if not image_sd <= MAX_IMAGE_SD_PX:
        problems.append(f"radial curve uncertain by {image_sd:.3g} px inside the image")
    num_points = len(front.depth)
    try:
        camera = camera_of(best, size)
        if reason := plausibility.off_centre(camera.center_px, size):
            problems.append(reason)
    except ValueError as error:
        problems.append(f"the fitted camera is impossible ({error})")
        return _fallback(size, default, num_points, f"poor: {', '.join(problems)}; not fitted")
    return CameraFit(
        camera=camera,
        T_cam_headset=T_cam_headset_of(best, pose).astype(np.float32),
        rms_px=rms,
        held_out_rms_px=held_out_rms,
        image_sd_px=image_sd,
        angle_range_rad=(float(angles.min()), float(angles.max())),
        num_points=num_points,
        verdict="poor: " + ", ".join(problems) if problems else "good",
    )


def _best_parameters(
    guess: np.ndarray, all_pairs: Pairs, prior: Prior, size: np.ndarray, has_default: bool
) -> tuple[np.ndarray, np.ndarray, Pairs]:
    """Returns the best parameters over several starts, the pairs that they were fitted to, and which of these agree."""
    front = all_pairs.take(all_pairs.sign > 0)
    best, inliers = fit_robustly(guess, front, prior, size)
    if has_default and not np.median(errors_px(best, front)) <= MAX_RMS_PX:
        other, other_inliers = fit_robustly(prior.mean, front, prior, size)
        if np.median(errors_px(other, front)) < np.median(errors_px(best, front)):
            best, inliers = other, other_inliers
    if len(front.depth) < len(all_pairs.depth):
        # The release writes a point behind the camera as its mirror image through the optical centre. These pairs reach
        # angles that the others do not; other writers may put anything there, so they are used only where they fit.
        both, both_inliers = fit_robustly(best, all_pairs, prior, size)
        if np.median(errors_px(both, front)) <= max(1.5 * np.median(errors_px(best, front)), 1e-3):
            return both, both_inliers, all_pairs
    return best, inliers, front


def _held_out_rms_px(best: np.ndarray, pairs: Pairs, inliers: np.ndarray, prior: Prior, size: np.ndarray) -> float:
    """Returns the error over every fifth joint (or pair) of a fit to the others."""
    held_out = pairs.joint % _HELD_OUT_STRIDE == _HELD_OUT_STRIDE - 1
    if min((inliers & held_out).sum(), (inliers & ~held_out).sum()) < MIN_POINTS // 4:
        held_out = np.arange(len(pairs.depth)) % _HELD_OUT_STRIDE == _HELD_OUT_STRIDE - 1
    blind = refine(best, pairs.take(spread_subset(pairs, inliers & ~held_out, size)), prior, last_stage_only=True)
    return rms_px(blind, pairs.take(held_out & inliers))


def _fallback(size: np.ndarray, default: Default | None, num_points: int, verdict: str) -> CameraFit:
    """Returns the default rig's camera, or a nominal one, where no fit is possible."""
    nan = float("nan")
    parameters = np.zeros(NUM_PARAMETERS)
    parameters[3:7] = 0.375 * size[0], 1.0, *(0.5 * (size - 1))
    return CameraFit(
        camera=camera_of(parameters if default is None else default.parameters, size),
        T_cam_headset=(np.eye(4) if default is None else default.T_cam_headset).astype(np.float32),
        rms_px=nan,
        held_out_rms_px=nan,
        image_sd_px=nan,
        angle_range_rad=(nan, nan),
        num_points=num_points,
        verdict=verdict,
    )
