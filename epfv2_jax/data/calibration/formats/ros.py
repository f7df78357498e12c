"""ROS's CameraInfo as YAML: as camera_calibration writes it, or as `topic echo` prints the message; no extrinsics."""

import dataclasses
from typing import Any

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses, opencv
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, known_fields, numbers

# Model -> number of coefficients; plumb_bob may come with four.
_MODELS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
    "fisheye": (4,),
}
# Keys of the message in ROS 1 and ROS 2 -> of the file.
_KEYS = {
    "width": "image_width",
    "height": "image_height",
    **dict.fromkeys("Kk", "camera_matrix"),
    **dict.fromkeys("Dd", "distortion_coefficients"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    image_width: int
    image_height: int
    camera_matrix: Any
    distortion_coefficients: Any
    distortion_model: str
    camera_name: str = ""


def recognises(document: Document) -> bool:
    """Returns whether the content has a model as ROS states it, and a matrix."""
    return "distortion_model" in document.has and bool(document.has & {"camera_matrix", "K", "k"})


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the one camera of the raw images, named as the file says or like it."""
    file = known_fields(_File, {_KEYS.get(key, key): value for key, value in document.content.items()}, "")
    size = image_size(file.image_width, file.image_height, "image")
    focal, center = opencv.pinhole_of(opencv.matrix(file.camera_matrix, "camera_matrix"), "camera_matrix")
    values = opencv.matrix(file.distortion_coefficients, "distortion_coefficients")
    checks.one_of(_MODELS, distortion_model=file.distortion_model)
    counts = _MODELS[file.distortion_model]
    checks.one_of(counts, **{f"distortion_coefficients, number for {file.distortion_model}": len(values)})
    with checks.naming("distortion_coefficients"):
        if file.distortion_model in ("equidistant", "fisheye"):
            lens, refit_px = lenses.kannala_brandt4(focal, center, numbers(values, ("k1", "k2", "k3", "k4"), ""), size)
        else:
            lens, refit_px = lenses.opencv(focal, center, values, size)
    name = file.camera_name or document.path.stem
    return [CalibratedCamera(name=name, camera=lens, size_wh=size, T_body_cam=None, refit_px=refit_px)]
