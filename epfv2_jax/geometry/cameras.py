"""Pinhole and fisheye cameras (Kannala-Brandt 4, Fisheye62, FISHEYE624): projection, its inverse, cropping and turning.

All fisheye models are one formula with some coefficients zero. With the angle th of a point from the optical axis and
the unit direction e of its (x, y):

    m = e th (1 + k1 th^2 + k2 th^4 + ... + k6 th^12)
    d = m + |m|^2 p + 2 (p . m) m + (s1 |m|^2 + s2 |m|^4, s3 |m|^2 + s4 |m|^4)
    pixel = focal * d + center

This is Project Aria's FISHEYE624, and without s and with two focal lengths the Fisheye62 of EgoBody3M. p, (s1, s3) and
(s2, s4) are vectors in the image plane, so they turn with it. The camera frame has +x along image columns, +y along
image rows and +z along the optical axis. Integer pixel coordinates are the centres of pixels: the image covers [-0.5,
width - 0.5].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.core import checks, linalg
from epfv2_jax.geometry import series

#: Points of smaller depth count as behind the camera, metres.
MIN_DEPTH_M = 1e-3
#: Largest angle from the optical axis in any model: points must lie in front of the camera.
MAX_ANGLE_RAD = np.pi / 2 - 1e-3
# Clamped points nearer to the optical axis than this move toward the image centre, metres: the axis has no direction.
_MIN_RADIUS_M = 1e-2
_NEWTON_STEPS = 8
_ANGLE_STEPS = 24


class Camera(struct.PyTreeNode):
    """One camera, or many with leading axes (...,), and the size of its image."""

    focal_px: jax.Array  # (..., 2) fx, fy
    center_px: jax.Array  # (..., 2) cx, cy
    radial: jax.Array  # (..., 6) k1..k6
    tangential: jax.Array  # (..., 2) p1, p2
    thin_prism: jax.Array  # (..., 4) s1..s4
    size_px: jax.Array  # (..., 2) width, height
    max_angle_rad: jax.Array  # (...,) the model is valid below this angle from the optical axis
    model: str = struct.field(pytree_node=False, default="fisheye")  # "pinhole" (no distortion) or "fisheye"


def pinhole(*, focal_px, center_px, size_px, max_angle_rad: float = np.deg2rad(85.0), dtype=np.float32) -> Camera:
    """Returns a camera without distortion; arguments as in `fisheye624`. Valid up to 85 degrees (our choice)."""
    given = {"focal_px": focal_px, "center_px": center_px, "size_px": size_px, "k": (), "p": (), "s": ()}
    camera = _build("pinhole", given, num_radial=0, dtype=dtype)
    return camera.replace(max_angle_rad=np.full_like(camera.max_angle_rad, min(max_angle_rad, MAX_ANGLE_RAD)))


def kannala_brandt4(*, focal_px, center_px, k, size_px, dtype=np.float32) -> Camera:
    """Returns a Kannala-Brandt camera with four radial coefficients (cv2.fisheye); arguments as in `fisheye624`."""
    given = {"focal_px": focal_px, "center_px": center_px, "size_px": size_px, "k": k, "p": (), "s": ()}
    return _build("fisheye", given, num_radial=4, dtype=dtype)


def fisheye62(*, focal_px, center_px, k, p, size_px, dtype=np.float32) -> Camera:
    """Returns the camera of EgoBody3M: six radial and two tangential coefficients; arguments as in `fisheye624`."""
    return fisheye624(focal_px=focal_px, center_px=center_px, k=k, p=p, s=(), size_px=size_px, dtype=dtype)


def fisheye624(*, focal_px, center_px, k, p, s, size_px, dtype=np.float32) -> Camera:
    """Returns a camera with six radial, two tangential and four thin-prism coefficients, as numpy arrays.

    Arguments (host arrays, leading axes broadcast): `focal_px` (..., 2) fx, fy or one number; `center_px` (..., 2);
    `k` (..., 6), `p` (..., 2), `s` (..., 4) (`p` and `s` may be empty); `size_px` (..., 2) width, height. The camera is
    valid up to the turning point of the radial curve, and below 90 degrees.

    Raises:
      ValueError: a coefficient is not finite, a focal length or size is not positive, or a shape is wrong.
    """
    given = {"focal_px": focal_px, "center_px": center_px, "size_px": size_px, "k": k, "p": p, "s": s}
    return _build("fisheye", given, num_radial=6, dtype=dtype)


def turning_angle(radial: np.ndarray) -> np.ndarray:
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


def without_turning_limit(camera: Camera) -> Camera:
    """Returns the camera with its formula valid for every point in front of it, also past the turning point.

    Only for reading or writing files whose pixels follow the formula everywhere: past the turning point two directions
    share a pixel.
    """
    xp = _array_module(camera)
    return camera.replace(max_angle_rad=xp.full_like(camera.max_angle_rad, MAX_ANGLE_RAD))


def project(camera: Camera, points_cam_m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns pixels (..., N, 2) and validity (..., N) of points (..., N, 3) in the camera frame, metres.

    The camera's leading axes broadcast with the points' axes before N. A point is valid if it lies in front of the
    camera and below `max_angle_rad` from the optical axis, inside the image or not (see `inside_image`). An invalid
    point is moved to `max_angle_rad` in its own direction round the axis, so pixels and gradients are always finite.
    """
    chex.assert_axis_dimension(points_cam_m, -1, 3)
    dtype = jnp.result_type(points_cam_m, camera.focal_px, jnp.float32)
    points = jnp.asarray(points_cam_m).astype(dtype)
    lead = jnp.broadcast_shapes(camera.focal_px.shape[:-1], points.shape[:-2])
    points = jnp.broadcast_to(points, (*lead, *points.shape[-2:]))
    focal, center, radial, tangential, thin_prism = (
        _per_point(x, lead, dtype)
        for x in (camera.focal_px, camera.center_px, camera.radial, camera.tangential, camera.thin_prism)
    )
    max_angle = _per_point(camera.max_angle_rad[..., None], lead, dtype)

    xy, z = points[..., :2], points[..., 2:]
    radius2 = jnp.sum(xy**2, axis=-1, keepdims=True)
    valid = (z > MIN_DEPTH_M) & (radius2 < (jnp.tan(max_angle) * z) ** 2)
    radius2_valid, z_valid = jnp.where(valid, radius2, 0.0), jnp.where(valid, z, 1.0)
    clamped_scale = 1.0 / jnp.sqrt(jnp.maximum(radius2, _MIN_RADIUS_M**2))
    if camera.model == "pinhole":
        distorted = xy * jnp.where(valid, 1.0 / z_valid, jnp.tan(max_angle) * clamped_scale)
    else:
        angle_per_radius = series.atan2_ratio(radius2_valid, z_valid)
        scale = angle_per_radius * _radial_gain(radial, angle_per_radius**2 * radius2_valid)
        clamped = max_angle * _radial_gain(radial, max_angle**2) * clamped_scale
        mapped = xy * jnp.where(valid, scale, clamped)
        distorted = mapped + _decentering(mapped, tangential, thin_prism)
    return focal * distorted + center, valid[..., 0]


def unproject(camera: Camera, uv_px: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns unit rays (..., N, 3) in the camera frame and validity (..., N) of pixels (..., N, 2).

    Inverts `project` up to `max_angle_rad`; a pixel beyond is invalid and gets the ray at that angle. Not
    made for gradients.
    """
    chex.assert_axis_dimension(uv_px, -1, 2)
    dtype = jnp.result_type(uv_px, camera.focal_px, jnp.float32)
    lead = jnp.broadcast_shapes(camera.focal_px.shape[:-1], uv_px.shape[:-2])
    uv = jnp.broadcast_to(jnp.asarray(uv_px).astype(dtype), (*lead, *uv_px.shape[-2:]))
    focal, center, radial, tangential, thin_prism = (
        _per_point(x, lead, dtype)
        for x in (camera.focal_px, camera.center_px, camera.radial, camera.tangential, camera.thin_prism)
    )
    max_angle = _per_point(camera.max_angle_rad[..., None], lead, dtype)
    distorted = (uv - center) / focal

    if camera.model == "pinhole":
        mapped = distorted
        length = linalg.norm(mapped)[..., None]
        angle = jnp.minimum(jnp.arctan(length), max_angle)
        valid = length < jnp.tan(max_angle)
    else:
        mapped = _remove_decentering(distorted, tangential, thin_prism)
        length = linalg.norm(mapped)[..., None]
        limit = max_angle * _radial_gain(radial, max_angle**2)
        angle = _invert_radial(radial, jnp.minimum(length, limit), max_angle)
        valid = length < limit
    # Far outside any image the decentring is not invertible, and Newton's method may diverge.
    finite = jnp.isfinite(length)
    direction = jnp.where(finite, mapped, 0.0) / jnp.where(finite & (length > 0), length, 1.0)
    angle = jnp.where(finite, angle, 0.0)
    rays = jnp.concatenate([direction * jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return rays, (valid & finite)[..., 0]


def inside_image(camera: Camera, uv_px: jax.Array) -> jax.Array:
    """Returns whether pixels (..., N, 2) lie inside the image, (..., N); leading axes broadcast as in `project`."""
    normalized = normalized_uv(camera, uv_px)
    return jnp.all(jnp.abs(normalized) <= 1.0, axis=-1)


def normalized_uv(camera: Camera, uv_px: jax.Array) -> jax.Array:
    """Returns pixels (..., N, 2) scaled so that the image's outer edges are at -1 and 1: (..., N, 2)."""
    chex.assert_axis_dimension(uv_px, -1, 2)
    lead = jnp.broadcast_shapes(camera.size_px.shape[:-1], uv_px.shape[:-2])
    uv = jnp.broadcast_to(jnp.asarray(uv_px), (*lead, *uv_px.shape[-2:]))
    return (uv + 0.5) * 2.0 / _per_point(camera.size_px, lead, uv.dtype) - 1.0


def crop(camera: Camera, x0: int, y0: int, width: int, height: int) -> Camera:
    """Returns the camera of a window that starts at column `x0` and row `y0`; it may exceed the image (padding)."""
    return _with_window(camera, [x0, y0], [width, height])


def resize(camera: Camera, width: int, height: int) -> Camera:
    """Returns the camera of the image resized to `width` x `height`; the two scales may differ."""
    size = np.broadcast_to(np.asarray([width, height], camera.size_px.dtype), camera.size_px.shape)
    scale = size / camera.size_px
    return camera.replace(
        focal_px=camera.focal_px * scale, center_px=(camera.center_px + 0.5) * scale - 0.5, size_px=size
    )


def rotate90(camera: Camera, k: int) -> tuple[Camera, np.ndarray]:
    """Returns the camera of ``np.rot90(image, k)`` and the rotation R_new_old (3, 3) of the camera frame.

    Coordinates turn with the image: points_new = R_new_old @ points_old, and T_new_headset = R_new_old @ T_old_headset.
    """
    R_new_old = np.eye(3, dtype=np.float32)
    quarter = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)  # x_new = y_old, y_new = -x_old
    xp = _array_module(camera)
    for _ in range(k % 4):
        width = camera.size_px[..., 0]
        s1, s2, s3, s4 = (camera.thin_prism[..., i] for i in range(4))
        camera = camera.replace(
            focal_px=camera.focal_px[..., ::-1],
            center_px=xp.stack([camera.center_px[..., 1], width - 1 - camera.center_px[..., 0]], axis=-1),
            tangential=xp.stack([camera.tangential[..., 1], -camera.tangential[..., 0]], axis=-1),
            thin_prism=xp.stack([s3, s4, -s1, -s2], axis=-1),
            size_px=camera.size_px[..., ::-1],
        )
        R_new_old = quarter @ R_new_old
    return camera, R_new_old


def mirror(camera: Camera) -> Camera:
    """Returns the camera of the image flipped left-right, which projects points with x negated."""
    xp = _array_module(camera)
    cx, cy = camera.center_px[..., 0], camera.center_px[..., 1]
    s1, s2, s3, s4 = (camera.thin_prism[..., i] for i in range(4))
    return camera.replace(
        center_px=xp.stack([camera.size_px[..., 0] - 1 - cx, cy], axis=-1),
        tangential=xp.stack([-camera.tangential[..., 0], camera.tangential[..., 1]], axis=-1),
        thin_prism=xp.stack([-s1, -s2, s3, s4], axis=-1),
    )


def stack(cameras: Sequence[Camera]) -> Camera:
    """Returns the given cameras, which must be of one model, as one camera with a new last leading axis V.

    Raises:
      ValueError: no camera, or cameras of different models.
    """
    models = sorted({camera.model for camera in cameras})
    if len(models) != 1:
        raise ValueError(f"cameras to stack must be of one model, got {models or 'none'}")
    xp = _array_module(cameras[0])
    axis = np.ndim(cameras[0].max_angle_rad)
    return jax.tree.map(lambda *leaves: xp.stack(leaves, axis=axis), *cameras)


def _build(model: str, given: Mapping[str, Any], num_radial: int, dtype) -> Camera:
    arrays = {name: np.asarray(value, np.float64) for name, value in given.items()}
    if arrays["focal_px"].ndim == 0:
        arrays["focal_px"] = np.repeat(arrays["focal_px"], 2)
    widths = {"focal_px": (2,), "center_px": (2,), "size_px": (2,), "k": (num_radial,), "p": (2, 0), "s": (4, 0)}
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[-1] not in widths[name]:
            raise ValueError(f"camera {name}: expected {widths[name][0]} numbers, got shape {array.shape}")
        checks.finite(f"camera {name}", array, f"got {array.tolist()}")
    for name in ("focal_px", "size_px"):
        for number in arrays[name].ravel():
            checks.above(0, **{f"camera {name}": number})
    lead = np.broadcast_shapes(*(array.shape[:-1] for array in arrays.values()))

    def padded(name: str, width: int) -> np.ndarray:
        array = np.broadcast_to(arrays[name], (*lead, arrays[name].shape[-1]))
        zeros = np.zeros((*lead, width - array.shape[-1]))
        return np.concatenate([array, zeros], axis=-1).astype(dtype)

    radial = padded("k", 6)
    return Camera(
        focal_px=padded("focal_px", 2),
        center_px=padded("center_px", 2),
        radial=radial,
        tangential=padded("p", 2),
        thin_prism=padded("s", 4),
        size_px=padded("size_px", 2),
        max_angle_rad=turning_angle(radial).astype(dtype),
        model=model,
    )


def _array_module(camera: Camera):
    return np if isinstance(camera.focal_px, np.ndarray) else jnp


def _with_window(camera: Camera, origin: Sequence[int], size: Sequence[int]) -> Camera:
    dtype = camera.center_px.dtype
    return camera.replace(
        center_px=camera.center_px - np.broadcast_to(np.asarray(origin, dtype), camera.center_px.shape),
        size_px=np.broadcast_to(np.asarray(size, dtype), camera.size_px.shape),
    )


def _per_point(x: jax.Array, lead: tuple[int, ...], dtype) -> jax.Array:
    """Returns camera parameters (..., C) as (*lead, 1, C), which broadcast with points (*lead, N, C')."""
    return jnp.broadcast_to(jnp.asarray(x).astype(dtype), (*lead, x.shape[-1]))[..., None, :]


def _radial_gain(radial: jax.Array, angle2: jax.Array) -> jax.Array:
    gain = jnp.zeros_like(angle2)
    for i in reversed(range(6)):
        gain = (gain + radial[..., i : i + 1]) * angle2
    return 1.0 + gain


def _decentering(mapped: jax.Array, tangential: jax.Array, thin_prism: jax.Array) -> jax.Array:
    square = jnp.sum(mapped**2, axis=-1, keepdims=True)
    along = jnp.sum(tangential * mapped, axis=-1, keepdims=True)
    prism = thin_prism[..., 0::2] * square + thin_prism[..., 1::2] * square**2
    return square * tangential + 2.0 * along * mapped + prism


def _remove_decentering(distorted: jax.Array, tangential: jax.Array, thin_prism: jax.Array) -> jax.Array:
    p1, p2 = tangential[..., 0], tangential[..., 1]

    def step(_, mapped):
        u, v = mapped[..., 0], mapped[..., 1]
        square = u * u + v * v
        prism = 2.0 * thin_prism[..., 0::2] + 4.0 * thin_prism[..., 1::2] * square[..., None]
        a = 1.0 + 6.0 * p1 * u + 2.0 * p2 * v + prism[..., 0] * u
        b = 2.0 * (p1 * v + p2 * u) + prism[..., 0] * v
        c = 2.0 * (p1 * v + p2 * u) + prism[..., 1] * u
        d = 1.0 + 2.0 * p1 * u + 6.0 * p2 * v + prism[..., 1] * v
        error = mapped + _decentering(mapped, tangential, thin_prism) - distorted
        du = (d * error[..., 0] - b * error[..., 1]) / (a * d - b * c)
        dv = (a * error[..., 1] - c * error[..., 0]) / (a * d - b * c)
        return mapped - jnp.stack([du, dv], axis=-1)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, distorted)


def _invert_radial(radial: jax.Array, length: jax.Array, max_angle: jax.Array) -> jax.Array:
    """Returns the angle whose radial map is `length`.

    Newton's method within a shrinking bracket, since the slope is zero at the turning point.
    """
    slope_radial = radial * jnp.broadcast_to(2.0 * jnp.arange(6, dtype=radial.dtype) + 3.0, radial.shape)

    def step(_, state):
        low, high, angle = state
        error = angle * _radial_gain(radial, angle**2) - length
        low, high = jnp.where(error < 0, angle, low), jnp.where(error < 0, high, angle)
        slope = _radial_gain(slope_radial, angle**2)
        newton = angle - error / jnp.where(slope > 0, slope, 1.0)
        inside = (slope > 0) & (newton > low) & (newton < high)
        return low, high, jnp.where(inside, newton, 0.5 * (low + high))

    high = jnp.broadcast_to(max_angle, length.shape)
    start = jnp.minimum(length, 0.5 * high)
    return jax.lax.fori_loop(0, _ANGLE_STEPS, step, (jnp.zeros_like(length), high, start))[2]
