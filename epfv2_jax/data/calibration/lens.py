"""The parametrised lens of the fit: the pixels that its fifteen parameters give, and their derivatives.

The fit uses parameters in which the radial curve is linear, else weakly seen coefficients make a curved valley: angle
about the optical axis, tx, ty (metres), f = fx, aspect fy / fx, cx, cy, f k1..f k6, p1 / f, p2 / f.
"""

import dataclasses

import numpy as np

from epfv2_jax.geometry import cameras
from epfv2_jax.structs import Rig

NUM_PARAMETERS = 15
#: The parameters of the radial curve.
CURVE = [3, *range(7, 13)]

_POWERS = 2 * np.arange(7) + 1


@dataclasses.dataclass(frozen=True)
class Pose:
    """The part of a camera's pose that the depths determine: its optical axis and where it stands along that."""

    basis: np.ndarray  # (3, 3), headset frame; rows: two directions across the axis, the axis
    tz_m: float


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Usable pairs in the axes of `Pose.basis`."""

    across: np.ndarray  # (N, 2), metres
    depth: np.ndarray  # (N,), metres, positive
    uv: np.ndarray  # (N, 2), pixels
    joint: np.ndarray  # (N,)
    sign: np.ndarray  # (N,) -1 for a point behind the camera, whose stored pixel is that of its mirror image

    def take(self, index: np.ndarray) -> "Pairs":
        """Returns the pairs of an index or mask."""
        fields = (self.across, self.depth, self.uv, self.joint, self.sign)
        return Pairs(*(field[index] for field in fields))


@dataclasses.dataclass(frozen=True)
class Default:
    """A camera of a similar headset."""

    parameters: np.ndarray  # intrinsics; its pose entries are filled in once the axis is known
    T_cam_headset: np.ndarray


def project(parameters: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Returns pixels (N, 2) of the pairs: the formula of `epfv2_jax.geometry.cameras` without validity, in float64."""
    return np.array([1.0, parameters[4]]) * _map(parameters, pairs)[-1] + parameters[5:7]


def project_jacobian(parameters: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Returns the derivatives (N, 2, P) of `project` by the parameters."""
    xy, radius, powers, gain, mapped, distorted = _map(parameters, pairs)
    q = parameters[13:15]
    axes = np.array([1.0, parameters[4]])[:, None]
    eye = np.eye(2)
    slope = (powers / powers[:, :1]) @ (parameters[CURVE] * _POWERS)
    gain_slope = (slope * pairs.depth / (radius**2 + pairs.depth**2) - gain) / radius
    mapped_xy = gain[:, None, None] * eye + (gain_slope / radius)[:, None, None] * xy[:, :, None] * xy[:, None, :]
    along = (mapped @ q)[:, None, None]
    decentred = (1.0 + 2.0 * along) * eye + 2.0 * (q[None, :, None] * mapped[:, None, :] + mapped[:, :, None] * q)
    to_pixel = axes * decentred
    by_xy = to_pixel @ mapped_xy * pairs.sign[:, None, None]
    x, y = (xy * pairs.sign[:, None] - parameters[1:3]).T

    jacobian = np.zeros((len(radius), 2, NUM_PARAMETERS))
    jacobian[:, :, 0] = np.einsum("nij,nj->ni", by_xy, np.stack([-y, x], axis=-1))
    jacobian[:, :, 1:3] = by_xy
    jacobian[:, 1, 4] = distorted[:, 1]
    jacobian[:, 0, 5] = jacobian[:, 1, 6] = 1.0
    direction = np.einsum("nij,nj->ni", to_pixel, xy / radius[:, None])
    jacobian[:, :, CURVE] = direction[:, :, None] * powers[:, None, :]
    square = np.sum(mapped**2, axis=-1)[:, None, None]
    jacobian[:, :, 13:15] = axes * (square * eye + 2.0 * mapped[:, :, None] * mapped[:, None, :])
    return jacobian


def in_camera(parameters: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Returns x and y of the pairs in the camera frame (N, 2), metres; mirrored where the point lies behind."""
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    a, b = pairs.across.T
    x, y = c * a - s * b + parameters[1], s * a + c * b + parameters[2]
    return np.stack([x, y], axis=-1) * pairs.sign[:, None]


def _map(parameters: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, ...]:
    """Returns the steps of the projection: (x, y), their length, powers of the angle, gain, and both distorted maps."""
    xy = in_camera(parameters, pairs)
    radius = np.maximum(np.linalg.norm(xy, axis=-1), 1e-9)
    powers = np.arctan2(radius, pairs.depth)[:, None] ** _POWERS
    gain = powers @ parameters[CURVE] / radius
    mapped = xy * gain[:, None]
    q = parameters[13:15]
    square = np.sum(mapped**2, axis=-1, keepdims=True)
    distorted = mapped + square * q + 2 * (mapped @ q)[:, None] * mapped
    return xy, radius, powers, gain, mapped, distorted


def errors_px(parameters: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Returns the distance (N,) of each pair's pixel from its projection."""
    return np.linalg.norm(project(parameters, pairs) - pairs.uv, axis=-1)


def rms_px(parameters: np.ndarray, pairs: Pairs) -> float:
    """Returns the root mean square of `errors_px`; NaN without pairs."""
    return float(np.sqrt(np.mean(errors_px(parameters, pairs) ** 2))) if len(pairs.depth) else float("nan")


def camera_of(parameters: np.ndarray, size: np.ndarray) -> cameras.Camera:
    """Returns the camera of the parameters for images of `size` (width, height)."""
    f, aspect = parameters[3:5]
    return cameras.fisheye62(
        focal_px=(f, f * aspect),
        center_px=parameters[5:7],
        k=parameters[7:13] / f,
        p=parameters[13:15] * f,
        size_px=size,
    )


def T_cam_headset_of(parameters: np.ndarray, pose: Pose) -> np.ndarray:
    """Returns the pose (4, 4) of the headset in the camera."""
    c, s = np.cos(parameters[0]), np.sin(parameters[0])
    T_cam_headset = np.eye(4)
    T_cam_headset[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ pose.basis
    T_cam_headset[:3, 3] = *parameters[1:3], pose.tz_m
    return T_cam_headset


def parameters_of(rig: Rig, view: int) -> Default:
    """Returns one camera of a rig as parameters."""
    camera = rig.cameras
    parameters = np.zeros(NUM_PARAMETERS)
    fx, fy = np.asarray(camera.focal_px[view], np.float64)
    parameters[3:5], parameters[5:7] = (fx, fy / fx), camera.center_px[view]
    parameters[7:13], parameters[13:15] = fx * camera.radial[view], camera.tangential[view] / fx
    return Default(parameters, np.asarray(rig.T_cam_headset[view], np.float64))


def with_pose(default: Default, pose: Pose) -> np.ndarray:
    """Returns the default's parameters with its pose expressed about the measured optical axis."""
    turned = default.T_cam_headset[:2, :3] @ pose.basis[:2].T
    parameters = default.parameters.copy()
    parameters[0] = np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])
    parameters[1:3] = default.T_cam_headset[:2, 3]
    return parameters
