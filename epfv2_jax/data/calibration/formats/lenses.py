"""Lens models that calibration files name, as `Camera`s: exact where the package has the model, else refitted.

Each function takes two focal lengths and the optical centre (cx, cy) in pixels, the model's coefficients in the order
of the files, and the image size. It returns the camera and the error of a refit in pixels, 0 where the model is exact.
"""

from collections.abc import Sequence

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import refit
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.cameras import Camera

Lens = tuple[Camera, float]
Pair = Sequence[float]
Size = tuple[int, int]

#: What OpenCV's coefficients are called, by their number.
OPENCV = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4", "taux", "tauy")
OPENCV_COUNTS = (4, 5, 8, 12, 14)


def pinhole(focal_px: Pair, center_px: Pair, size_wh: Size) -> Lens:
    """A lens without distortion."""
    return cameras.pinhole(focal_px=focal_px, center_px=center_px, size_px=size_wh), 0.0


def opencv(
    focal_px: Pair, center_px: Pair, coefficients: Sequence[float], size_wh: Size, max_radius: float = np.inf
) -> Lens:
    """OpenCV's normal model, also called radtan, plumb bob and rational, with 4, 5, 8, 12 or 14 coefficients.

    `max_radius` is the largest x / z, y / z that the model holds for (rpmax of Azure Kinect and Windows MR).
    """
    checks.one_of(OPENCV_COUNTS, **{"number of distortion coefficients": len(coefficients)})
    k1, k2, p1, p2, *rest = coefficients
    k3, k4, k5, k6, s1, s2, s3, s4, *tilt = np.pad(rest, (0, 10 - len(rest)))
    checks.equal("taux, tauy", list(tilt), [0.0, 0.0], "tilted sensors are not supported; calibrate without")
    lens = {"k": (k1, k2, k3, k4, k5, k6), "p": (p2, p1), "s": (s1, s2, s3, s4)}
    camera = cameras.rational(focal_px=focal_px, center_px=center_px, size_px=size_wh, **lens)
    return cameras.limited(camera, float(np.arctan(max_radius))), 0.0


def kannala_brandt4(focal_px: Pair, center_px: Pair, k: Sequence[float], size_wh: Size) -> Lens:
    """Kannala-Brandt with k1..k4: equidistant of Kalibr and ROS, cv2.fisheye."""
    return cameras.kannala_brandt4(focal_px=focal_px, center_px=center_px, k=k, size_px=size_wh), 0.0


def fisheye(focal_px: Pair, center_px: Pair, coefficients: Sequence[float], size_wh: Size) -> Lens:
    """Fisheye62 (k1..k6, p1, p2) or FISHEYE624 (and s1..s4)."""
    k, p, s = coefficients[:6], coefficients[6:8], coefficients[8:]
    return cameras.fisheye624(focal_px=focal_px, center_px=center_px, k=k, p=p, s=s, size_px=size_wh), 0.0


def double_sphere(focal_px: Pair, center_px: Pair, xi: float, alpha: float, size_wh: Size) -> Lens:
    """The double sphere model (Usenko et al. 2018)."""
    checks.within(-1, 1, xi=xi)
    checks.within(0, 1, alpha=alpha)

    def denominator(x, y, z):
        shifted = xi + z  # of unit directions
        return alpha * np.sqrt(x * x + y * y + shifted**2) + (1 - alpha) * shifted

    return _refitted(denominator, focal_px, center_px, size_wh)


def extended_unified(focal_px: Pair, center_px: Pair, alpha: float, beta: float, size_wh: Size) -> Lens:
    """The extended unified camera model (Khomutenko et al. 2016); with beta = 1 the unified one (ucm)."""
    checks.within(0, 1, alpha=alpha)
    checks.within(1e-3, 1e3, beta=beta)

    def denominator(x, y, z):
        return alpha * np.sqrt(beta * (x * x + y * y) + z * z) + (1 - alpha) * z

    return _refitted(denominator, focal_px, center_px, size_wh)


def omni(focal_px: Pair, center_px: Pair, xi: float, coefficients: Sequence[float], size_wh: Size) -> Lens:
    """The unified model with mirror parameter xi (Mei and Rives 2007) and OpenCV's k1, k2, p1, p2."""
    checks.within(0, 100, xi=xi)
    k1, k2, p1, p2 = coefficients

    def bent(m: np.ndarray) -> np.ndarray:
        r2 = np.sum(m**2, axis=-1, keepdims=True)
        p = np.array([p2, p1])
        return m * (1 + k1 * r2 + k2 * r2**2) + p * r2 + 2 * m * np.sum(p * m, axis=-1, keepdims=True)

    return _refitted(lambda x, y, z: z + xi, focal_px, center_px, size_wh, bent)


def field_of_view(focal_px: Pair, center_px: Pair, w: float, size_wh: Size) -> Lens:
    """The FOV model (Devernay and Faugeras 2001) with angle `w`, radians."""
    checks.within(1e-3, np.pi - 1e-3, w=w)

    def bent(m: np.ndarray) -> np.ndarray:
        r = np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-9)
        return m * np.arctan(2 * r * np.tan(w / 2)) / (w * r)

    return _refitted(lambda x, y, z: z, focal_px, center_px, size_wh, bent)


def ocam(
    polynomial: Sequence[float], center_px: Pair, affine: Sequence[float], size_wh: Size, radius_px: float = np.inf
) -> Lens:
    """Scaramuzza's model: radius in the image by the angle above the image plane (`invpol`, lowest power first).

    Args:
      polynomial: its coefficients.
      center_px: (column, row) of the optical centre.
      affine: (c, d, e), which maps (row, column) by [[c, d], [e, 1]].
      size_wh: of the image.
      radius_px: of the image circle.
    """
    checks.not_empty("inverse polynomial", polynomial, "the file is no complete calibration")
    c, d, e = affine

    def project(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = directions.T
        side = np.hypot(x, y)
        radius = np.polynomial.polynomial.polyval(np.arctan2(-z, side), polynomial)
        # On the axis, the polynomial of a real file leaves a fraction of a pixel without direction.
        row, column = (radius * v / np.where(side > 0, side, 1) for v in (y, x))
        uv = np.stack([e * row + column, c * row + d * column], axis=-1) + np.asarray(center_px, np.float64)
        return uv, radius <= radius_px

    step = 1e-3  # radians from the axis
    curve = np.polynomial.polynomial.polyval(np.array([0.0, step]) - np.pi / 2, polynomial)
    slope = float(np.diff(curve)[0] / step)
    checks.above(0, **{"slope of the inverse polynomial at the axis, px per radian": slope})
    return refit.fisheye62(project, slope, size_wh)


def within_circle(camera: Camera, radius_px: float | None, max_angle_rad: float | None = None) -> Camera:
    """Returns the camera valid up to an angle and up to a circle about the optical centre in its image, where given."""
    if max_angle_rad is not None:
        checks.above(0, **{"largest angle": max_angle_rad})
        camera = cameras.limited(camera, max_angle_rad)
    if radius_px is not None:
        checks.above(0, **{"radius of the image circle": radius_px})
        around = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        circle_px = camera.center_px + radius_px * np.stack([np.cos(around), np.sin(around)], axis=-1)
        rays = np.asarray(jax.jit(cameras.unproject)(camera, circle_px.astype(np.float32))[0])
        camera = cameras.limited(camera, float(np.arccos(np.clip(rays[:, 2], -1, 1)).min()))
    return camera


def _refitted(denominator, focal_px: Pair, center_px: Pair, size_wh: Size, bent=lambda m: m) -> Lens:
    """Refits a lens that divides (x, y) of unit directions by a denominator, and bends the plane of the results."""
    focal_px, center_px = np.asarray(focal_px, np.float64), np.asarray(center_px, np.float64)
    checks.above(0, fx=focal_px[0], fy=focal_px[1])

    def project(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        below = denominator(*directions.T)
        ahead = below > 1e-6
        return bent(directions[:, :2] / np.where(ahead, below, 1.0)[:, None]) * focal_px + center_px, ahead

    on_axis = float(denominator(*np.array([[0.0], [0.0], [1.0]]))[0])
    checks.above(0, **{"denominator on the optical axis": on_axis})
    return refit.fisheye62(project, float(focal_px[0]) / on_axis, size_wh)
