"""Pinhole, fisheye and rational cameras: projection, its inverse, cropping and turning.

All fisheye models (Kannala-Brandt 4, Fisheye62, FISHEYE624) are one formula with some coefficients zero. With the angle
th of a point from the optical axis and the unit direction e of its (x, y):

    m = e th (1 + k1 th^2 + k2 th^4 + ... + k6 th^12)
    d = m + |m|^2 p + 2 (p . m) m + (s1 |m|^2 + s2 |m|^4, s3 |m|^2 + s4 |m|^4)
    pixel = focal * d + center

This is Project Aria's FISHEYE624, and without s and with two focal lengths the Fisheye62 of EgoBody3M. p, (s1, s3) and
(s2, s4) are vectors in the image plane, so they turn with it. The rational model is that of OpenCV's `projectPoints`
with 4, 5, 8 or 12 coefficients: decentring acts on m = (x, y) / z itself, whose length is r, and

    d = m (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + |m|^2 p + ...

The camera frame has +x along image columns, +y along image rows and +z along the optical axis. Integer pixel
coordinates are the centres of pixels: the image covers [-0.5, width - 0.5].
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.core import checks, linalg
from epfv2_jax.geometry import distortion, series
from epfv2_jax.geometry.distortion import MAX_ANGLE_RAD

#: What `Camera.model` can be; "pinhole" has no distortion.
Model = Literal["pinhole", "fisheye", "rational"]
#: Points of smaller depth count as behind the camera, metres.
MIN_DEPTH_M = 1e-3
# Clamped points nearer to the optical axis than this move toward the image centre, metres: the axis has no direction.
_MIN_RADIUS_M = 1e-2
# Models on the plane z = 1 end here, where no other limit is given: our choice.
_PLANE_ANGLE_RAD = np.deg2rad(85.0)


class Camera(struct.PyTreeNode):
    """One camera, or many with leading axes (...,), and the size of its image."""

    focal_px: jax.Array  # (..., 2) fx, fy
    center_px: jax.Array  # (..., 2) cx, cy
    radial: jax.Array  # (..., 6) k1..k6
    tangential: jax.Array  # (..., 2) p1, p2
    thin_prism: jax.Array  # (..., 4) s1..s4
    size_px: jax.Array  # (..., 2) width, height
    max_angle_rad: jax.Array  # (...,) the model is valid below this angle from the optical axis
    model: Model = struct.field(pytree_node=False, default="fisheye")


def pinhole(*, focal_px, center_px, size_px, max_angle_rad: float = _PLANE_ANGLE_RAD, dtype=np.float32) -> Camera:
    """Returns a camera without distortion; arguments as in `fisheye624`. Valid up to 85 degrees (our choice)."""
    given = {"focal_px": focal_px, "center_px": center_px, "size_px": size_px, "k": (), "p": (), "s": ()}
    return limited(_build("pinhole", given, num_radial=0, dtype=dtype), max_angle_rad)


def rational(
    *, focal_px, center_px, k, p, s, size_px, max_angle_rad: float = _PLANE_ANGLE_RAD, dtype=np.float32
) -> Camera:
    """Returns a camera of OpenCV's rational model; arguments as in `fisheye624`.

    OpenCV lists k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4. Here `k` is (k1, ..., k6), `s` is (s1, ..., s4), and `p` is
    OpenCV's (p2, p1). Valid as far as the map is one-to-one, at most up to `max_angle_rad`.
    """
    given = {"focal_px": focal_px, "center_px": center_px, "size_px": size_px, "k": k, "p": p, "s": s}
    return limited(_build("rational", given, num_radial=6, dtype=dtype), max_angle_rad)


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


def limited(camera: Camera, max_angle_rad: float) -> Camera:
    """Returns the camera valid up to a smaller angle, radians, where its own is larger; host arrays."""
    given = camera.max_angle_rad
    return camera.replace(max_angle_rad=np.minimum(given, given.dtype.type(max_angle_rad)))


def without_turning_limit(camera: Camera) -> Camera:
    """Returns the camera with its formula valid for every point in front of it, also past the turning point.

    Only for reading or writing files whose pixels follow the formula everywhere: past the turning point two directions
    share a pixel.
    """
    xp = _array_module(camera)
    return camera.replace(max_angle_rad=xp.full_like(camera.max_angle_rad, MAX_ANGLE_RAD))


@functools.partial(jax.jit, inline=True)
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
    if camera.model == "fisheye":
        angle_per_radius = series.atan2_ratio(radius2_valid, z_valid)
        scale = angle_per_radius * distortion.radial_gain(radial, angle_per_radius**2 * radius2_valid)
        clamped = max_angle * distortion.radial_gain(radial, max_angle**2) * clamped_scale
        mapped = xy * jnp.where(valid, scale, clamped)
        distorted = mapped + distortion.decentering(mapped, tangential, thin_prism)
    else:
        distorted = xy * jnp.where(valid, 1.0 / z_valid, jnp.tan(max_angle) * clamped_scale)
        if camera.model == "rational":
            distorted = distortion.rational(distorted, radial, tangential, thin_prism)
    return focal * distorted + center, valid[..., 0]


@functools.partial(jax.jit, inline=True)
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

    if camera.model == "fisheye":
        mapped = distortion.remove_decentering(distorted, tangential, thin_prism)
        length = linalg.norm(mapped)[..., None]
        limit = max_angle * distortion.radial_gain(radial, max_angle**2)
        angle = distortion.invert_radial(radial, jnp.minimum(length, limit), max_angle)
        valid = length < limit
    else:
        mapped, limit, valid = distorted, jnp.tan(max_angle), True
        if camera.model == "rational":
            mapped, valid = distortion.invert_rational(distorted, radial, tangential, thin_prism, limit)
        length = linalg.norm(mapped)[..., None]
        angle = jnp.minimum(jnp.arctan(length), max_angle)
        valid &= length < limit
    # Far outside any image the decentring is not invertible, and Newton's method may diverge.
    finite = jnp.isfinite(length)
    direction = jnp.where(finite, mapped, 0.0) / jnp.where(finite & (length > 0), length, 1.0)
    angle = jnp.where(finite, angle, 0.0)
    rays = jnp.concatenate([direction * jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return rays, (valid & finite)[..., 0]


@functools.partial(jax.jit, inline=True)
def inside_image(camera: Camera, uv_px: jax.Array) -> jax.Array:
    """Returns whether pixels (..., N, 2) lie inside the image, (..., N); leading axes broadcast as in `project`."""
    normalized = normalized_uv(camera, uv_px)
    return jnp.all(jnp.abs(normalized) <= 1.0, axis=-1)


@functools.partial(jax.jit, inline=True)
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
        with np.errstate(over="ignore"):
            checks.finite(f"camera {name}", array.astype(dtype), f"got {array.tolist()}")
    for name in ("focal_px", "size_px"):
        for number in arrays[name].ravel():
            checks.above(0, **{f"camera {name}": number})
    lead = np.broadcast_shapes(*(array.shape[:-1] for array in arrays.values()))

    def padded(name: str, width: int) -> np.ndarray:
        array = np.broadcast_to(arrays[name], (*lead, arrays[name].shape[-1]))
        zeros = np.zeros((*lead, width - array.shape[-1]))
        return np.concatenate([array, zeros], axis=-1).astype(dtype)

    lens = {"radial": padded("k", 6), "tangential": padded("p", 2), "thin_prism": padded("s", 4)}
    if model == "rational":
        max_angle_rad = distortion.rational_turning_angle(*lens.values())
    else:
        max_angle_rad = distortion.fisheye_turning_angle(lens["radial"])
    return Camera(
        focal_px=padded("focal_px", 2),
        center_px=padded("center_px", 2),
        **lens,
        size_px=padded("size_px", 2),
        max_angle_rad=max_angle_rad.astype(dtype),
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
