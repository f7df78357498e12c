"""Meta's camera_calibration_v2.json (Rift S, Quest): DeviceFromCamera maps each camera to the device, the body."""

import dataclasses
from typing import Any

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import (
    CalibratedCamera,
    Document,
    image_size,
    known_fields,
    numbers,
    rigid,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
    Model: str
    Coefficients: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Camera:
    Id: Any  # a number or a text
    ImageSize: tuple[int, int]  # width, height
    DeviceFromCamera: tuple[float, ...]  # row by row
    Projection: Any
    Distortion: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    CameraCalibration: tuple[Any, ...]


def recognises(document: Document) -> bool:
    """Returns whether the content has Meta's list of cameras."""
    return "CameraCalibration" in document.has


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the cameras, named cam and their Id."""
    cameras = []
    for i, content in enumerate(known_fields(_File, document.content, "").CameraCalibration):
        where = f"CameraCalibration[{i}]"
        camera = known_fields(_Camera, content, where)
        projection = known_fields(_Model, camera.Projection, f"{where}.Projection")
        distortion = known_fields(_Model, camera.Distortion, f"{where}.Distortion")
        checks.one_of(("PinholeSymmetric",), **{f"{where}.Projection.Model": projection.Model})
        checks.one_of(("Fisheye62",), **{f"{where}.Distortion.Model": distortion.Model})
        checks.instance(f"{where}.Id", camera.Id, (int, str), "a number or a text")
        f, *center = numbers(projection.Coefficients, ("f", "cx", "cy"), f"{where}.Projection.Coefficients")
        names = (*(f"k{k}" for k in range(1, 7)), "p1", "p2")
        values = numbers(distortion.Coefficients, names, f"{where}.Distortion.Coefficients")
        size = image_size(*camera.ImageSize, f"{where}.ImageSize")
        with checks.naming(where):
            lens, refit_px = lenses.fisheye(np.array([f, f]), center, values, size)
        T_body_cam = rigid(camera.DeviceFromCamera, f"{where}.DeviceFromCamera")
        cameras.append(
            CalibratedCamera(
                name=f"cam{camera.Id}", camera=lens, size_wh=size, T_body_cam=T_body_cam, refit_px=refit_px
            )
        )
    return cameras
