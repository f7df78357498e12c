"""OpenCV's YAML and XML files: camera_matrix and distortion_coefficients, without extrinsics.

A file with four coefficients does not say whether they are those of `cv2.fisheye` or of the normal model.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, known_fields, numbers
from epfv2_jax.data.calibration.formats.lenses import Lens

#: What the user may name: `cv2.fisheye`, or the normal model (plumb bob, rational).
MODELS = ("fisheye", "normal")

_MATRIX = ("fx", "skew", "cx", "0", "fy", "cy", "0", "0", "1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix as OpenCV stores it, row by row."""

    data: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    image_width: int
    image_height: int
    camera_matrix: Any
    distortion_coefficients: Any


def recognises(document: Document) -> bool:
    """Returns whether the content has OpenCV's two matrices, and no model as ROS states it."""
    return "camera_matrix" in document.has and "distortion_model" not in document.has


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the one camera, named like its file."""
    file = known_fields(_File, document.content, "")
    size = image_size(file.image_width, file.image_height, "image")
    focal, center = pinhole_of(matrix(file.camera_matrix, "camera_matrix"), "camera_matrix")
    values = matrix(file.distortion_coefficients, "distortion_coefficients")
    lens, refit_px = _lens(focal, center, values, size, document.model)
    return [CalibratedCamera(name=document.path.stem, camera=lens, size_wh=size, T_body_cam=None, refit_px=refit_px)]


def matrix(content: Any, path: str) -> tuple[float, ...]:
    """Returns the numbers of a matrix, or of a list, row by row."""
    content = content if isinstance(content, Mapping) else {"data": content}
    return known_fields(Matrix, content, path).data


def pinhole_of(values: Sequence[float], path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns focal lengths and centre of a 3x3 camera matrix without skew."""
    fx, skew, cx, _, fy, cy, *_ = numbers(values, _MATRIX, path)
    checks.within(-1e-6 * abs(fx), 1e-6 * abs(fx), **{f"{path}, skew": skew})
    return np.array([fx, fy]), np.array([cx, cy])


def _lens(
    focal: np.ndarray, center: np.ndarray, values: Sequence[float], size: tuple[int, int], model: str | None
) -> Lens:
    if model is None and len(values) == 4:
        raise ValueError(
            "distortion_coefficients: four of them are those of cv2.fisheye or of the normal model, and the file does "
            "not say which; append ':fisheye' or ':normal' to its path"
        )
    with checks.naming("distortion_coefficients"):
        if model == "fisheye":
            names = ("k1", "k2", "k3", "k4")
            return lenses.kannala_brandt4(focal, center, numbers(values, names, "of cv2.fisheye"), size)
        return lenses.opencv(focal, center, values, size)
