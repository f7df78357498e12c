"""Kalibr's camchain.yaml: cam0, cam1, ... with T_cam_imu (IMU to camera) or T_cn_cnm1 (previous camera to this one)."""

import dataclasses
import re

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import (
    CalibratedCamera,
    Document,
    Row,
    image_size,
    inverse,
    known_fields,
    numbers,
    rigid,
)
from epfv2_jax.data.calibration.formats.lenses import Lens

_CAMERA = re.compile(r"cam\d{1,4}")
# Names of the same models in Kalibr, EuRoC and tools beside them.
_DISTORTION = {
    "none": "none",
    "radtan": "radtan",
    "radial-tangential": "radtan",
    "plumb_bob": "radtan",
    "rational": "rational",
    "rational_polynomial": "rational",
    "equidistant": "equidistant",
    "equi": "equidistant",
    "fov": "fov",
    "fisheye62": "fisheye62",
    "fisheye624": "fisheye624",
}
_PINHOLE = ("fu", "fv", "pu", "pv")
# Camera model -> names of its intrinsics.
_INTRINSICS = {
    "pinhole": _PINHOLE,
    "fisheye62": _PINHOLE,
    "fisheye624": _PINHOLE,
    "omni": ("xi", *_PINHOLE),
    "ds": ("xi", "alpha", *_PINHOLE),
    "eucm": ("alpha", "beta", *_PINHOLE),
}
_FISHEYE = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
# Distortion model -> names of its coefficients.
_COEFFICIENTS = {
    "none": (),
    "radtan": lenses.OPENCV[:4],
    "equidistant": ("k1", "k2", "k3", "k4"),
    "fov": ("w",),
    "fisheye62": _FISHEYE,
    "fisheye624": (*_FISHEYE, "s1", "s2", "s3", "s4"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """The lens, in Kalibr's fields."""

    camera_model: str
    intrinsics: tuple[float, ...]
    distortion_model: str = "none"
    distortion_coeffs: tuple[float, ...] = ()
    resolution: tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Camera(Intrinsics):
    T_cam_imu: tuple[Row, Row, Row, Row] | None = None
    T_cn_cnm1: tuple[Row, Row, Row, Row] | None = None


def recognises(document: Document) -> bool:
    """Returns whether the content has cameras cam0, cam1, ..."""
    return any(isinstance(key, str) and _CAMERA.fullmatch(key) for key in document.has)


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the cameras; the body is the IMU, or cam0 where no camera has T_cam_imu."""
    names = sorted((key for key in document.has if isinstance(key, str) and _CAMERA.fullmatch(key)), key=_number)
    fields = [known_fields(_Camera, document.content[name], name) for name in names]
    with_imu = any(camera.T_cam_imu is not None for camera in fields)
    T_body_cam = None if with_imu else np.eye(4)
    cameras = []
    for i, (name, camera) in enumerate(zip(names, fields, strict=True)):
        if camera.T_cam_imu is not None:
            T_body_cam = inverse(rigid(camera.T_cam_imu, f"{name}.T_cam_imu"))
        elif camera.T_cn_cnm1 is not None and T_body_cam is not None and i > 0:
            T_body_cam = T_body_cam @ inverse(rigid(camera.T_cn_cnm1, f"{name}.T_cn_cnm1"))
        elif i > 0 or with_imu:
            raise ValueError(
                f"{name}: no T_cam_imu, nor T_cn_cnm1 after a camera whose pose is known; give the whole file of "
                "kalibr_calibrate_cameras or kalibr_calibrate_imu_camera"
            )
        lens, refit_px = lens_of(camera, name)
        size = image_size(*camera.resolution, f"{name}.resolution")
        cameras.append(CalibratedCamera(name=name, camera=lens, size_wh=size, T_body_cam=T_body_cam, refit_px=refit_px))
    return cameras


def lens_of(camera: Intrinsics, path: str) -> Lens:
    """Returns the lens of a camera in Kalibr's fields and the error of its refit, pixels."""
    size = image_size(*camera.resolution, f"{path}.resolution")
    checks.one_of(_INTRINSICS, **{f"{path}.camera_model": camera.camera_model})
    checks.one_of(_DISTORTION, **{f"{path}.distortion_model": camera.distortion_model})
    model, distortion = camera.camera_model, _DISTORTION[camera.distortion_model]
    if model.startswith("fisheye"):
        distortion = model
    given = numbers(camera.intrinsics, _INTRINSICS[model], f"{path}.intrinsics")
    focal, center, own = given[-4:-2], given[-2:], given[:-4]
    values = camera.distortion_coeffs
    if distortion in _COEFFICIENTS:
        values = numbers(values, _COEFFICIENTS[distortion], f"{path}.distortion_coeffs")
    pair = f"{path}.distortion_model of camera_model {model}"
    with checks.naming(path):
        if model == "omni":
            checks.one_of(("none", "radtan"), **{pair: distortion})
            return lenses.omni(focal, center, own[0], values if len(values) else np.zeros(4), size)
        if model in ("ds", "eucm"):
            checks.one_of(("none",), **{pair: distortion})
            return (lenses.double_sphere if model == "ds" else lenses.extended_unified)(focal, center, *own, size)
        if distortion == "none":
            return lenses.pinhole(focal, center, size)
        if distortion in ("radtan", "rational"):
            return lenses.opencv(focal, center, values, size)
        if distortion == "equidistant":
            return lenses.kannala_brandt4(focal, center, values, size)
        if distortion == "fov":
            return lenses.field_of_view(focal, center, values[0], size)
        return lenses.fisheye(focal, center, values, size)


def _number(name: str) -> int:
    return int(name[3:])
