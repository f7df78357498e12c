"""The sensor.yaml of a camera in EuRoC's ASL layout: Kalibr's fields, and T_BS, which maps the sensor to the body."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from epfv2_jax.data.calibration.formats import kalibr, lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, Row, image_size, known_fields, rigid
from epfv2_jax.geometry.cameras import Camera


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A matrix as OpenCV and EuRoC store it, row by row."""

    data: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    T_BS: tuple[Row, Row, Row, Row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Limits:
    """Fields of ours: what lies beyond is not seen."""

    valid_radius_px: float | None = None  # from the optical centre
    max_angle_rad: float | None = None  # from the optical axis


def sensor(camera: Camera, T_body_cam: np.ndarray) -> dict[str, Any]:
    """Returns the plain content of a sensor.yaml that `read` reads as this camera with this pose (4, 4), metres."""
    k1, k2, k3, k4, k5, k6 = camera.radial.tolist()
    p, s = camera.tangential.tolist(), camera.thin_prism.tolist()
    model, distortion, coefficients = {
        "pinhole": ("pinhole", "none", []),
        "fisheye": ("fisheye624", "fisheye624", [k1, k2, k3, k4, k5, k6, *p, *s]),
        "rational": ("pinhole", "rational", [k1, k2, p[1], p[0], k3, k4, k5, k6, *s]),
    }[camera.model]
    return {
        "sensor_type": "camera",
        "T_BS": {"rows": 4, "cols": 4, "data": np.asarray(T_body_cam, np.float64).ravel().tolist()},
        "resolution": [int(n) for n in camera.size_px],
        "camera_model": model,
        "intrinsics": [*camera.focal_px.tolist(), *camera.center_px.tolist()],
        "distortion_model": distortion,
        "distortion_coefficients": coefficients,
        "max_angle_rad": float(camera.max_angle_rad),
    }


def recognises(document: Document) -> bool:
    """Returns whether the content is one camera in Kalibr's fields."""
    return {"camera_model", "intrinsics"} <= document.has


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the one camera, named like its folder."""
    content = dict(document.content)
    if "distortion_coefficients" in content:  # EuRoC's name of it
        content.setdefault("distortion_coeffs", content["distortion_coefficients"])
    fields = known_fields(kalibr.Intrinsics, content, "")
    lens, refit_px = kalibr.lens_of(fields, "")
    limits = known_fields(_Limits, content, "")
    T_body_cam = None
    if isinstance(content.get("T_BS"), Mapping):
        T_body_cam = rigid(known_fields(_Stored, content["T_BS"], "T_BS").data, "T_BS")
    elif "T_BS" in content:
        T_body_cam = rigid(known_fields(_Rows, content, "").T_BS, "T_BS")
    return [
        CalibratedCamera(
            name=document.path.absolute().parent.name or document.path.stem,
            camera=lenses.within_circle(lens, limits.valid_radius_px, limits.max_angle_rad),
            size_wh=image_size(*fields.resolution, "resolution"),
            T_body_cam=T_body_cam,
            refit_px=refit_px,
        )
    ]
