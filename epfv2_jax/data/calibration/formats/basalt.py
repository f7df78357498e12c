"""Basalt's calibration.json, and its forks': T_imu_cam maps each camera to the IMU, which is the body."""

import dataclasses
from typing import Any

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, known_fields, pose
from epfv2_jax.data.calibration.formats.lenses import Lens

_FISHEYE = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4")
# Type of camera -> names of its parameters besides fx, fy, cx, cy.
_PARAMETERS = {
    "pinhole": (),
    "kb4": _FISHEYE[:4],
    "ds": ("xi", "alpha"),
    "eucm": ("alpha", "beta"),
    "ucm": ("alpha",),
    "fov": ("w",),
    "pinhole-radtan8": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye62": _FISHEYE[:8],
    "fisheye624": _FISHEYE,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pose:
    px: float
    py: float
    pz: float
    qx: float
    qy: float
    qz: float
    qw: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Intrinsics:
    camera_type: str
    intrinsics: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Calibration:
    T_imu_cam: tuple[Any, ...]
    intrinsics: tuple[Any, ...]
    resolution: tuple[tuple[int, int], ...]  # width, height


def recognises(document: Document) -> bool:
    """Returns whether the content is a value of cereal with Basalt's poses."""
    content = document.content.get("value0") if document.has else None
    return isinstance(content, dict) and "T_imu_cam" in content


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the cameras, named cam0, cam1, ..."""
    calibration = known_fields(_Calibration, document.content["value0"], "value0")
    for name in ("intrinsics", "resolution"):
        given = len(getattr(calibration, name))
        checks.equal(f"value0.{name}, number of cameras", given, len(calibration.T_imu_cam))
    cameras = []
    for i, (T, lens, size) in enumerate(
        zip(calibration.T_imu_cam, calibration.intrinsics, calibration.resolution, strict=True)
    ):
        T = known_fields(_Pose, T, f"value0.T_imu_cam[{i}]")
        size = image_size(*size, f"value0.resolution[{i}]")
        camera, refit_px = _lens(known_fields(_Intrinsics, lens, f"value0.intrinsics[{i}]"), size, i)
        T_body_cam = pose((T.qx, T.qy, T.qz, T.qw), (T.px, T.py, T.pz), f"value0.T_imu_cam[{i}]")
        cameras.append(
            CalibratedCamera(name=f"cam{i}", camera=camera, size_wh=size, T_body_cam=T_body_cam, refit_px=refit_px)
        )
    return cameras


def _lens(lens: _Intrinsics, size: tuple[int, int], i: int) -> Lens:
    where = f"value0.intrinsics[{i}]"
    checks.one_of(_PARAMETERS, **{f"{where}.camera_type": lens.camera_type})
    with checks.naming(f"{where}.intrinsics, parameter missing", KeyError):
        focal, center = ((lens.intrinsics[f"{a}x"], lens.intrinsics[f"{a}y"]) for a in "fc")
        values = [lens.intrinsics[name] for name in _PARAMETERS[lens.camera_type]]
    with checks.naming(where):
        match lens.camera_type:
            case "pinhole":
                return lenses.pinhole(focal, center, size)
            case "kb4":
                return lenses.kannala_brandt4(focal, center, values, size)
            case "ds":
                return lenses.double_sphere(focal, center, *values, size)
            case "eucm":
                return lenses.extended_unified(focal, center, *values, size)
            case "ucm":
                return lenses.extended_unified(focal, center, *values, 1.0, size)
            case "fov":
                return lenses.field_of_view(focal, center, *values, size)
            case "pinhole-radtan8":
                rpmax = lens.intrinsics.get("rpmax", 0.0)  # 0: no limit is known
                return lenses.opencv(focal, center, values, size, rpmax if rpmax > 0 else float("inf"))
            case _:
                return lenses.fisheye(focal, center, values, size)
