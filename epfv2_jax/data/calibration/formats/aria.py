"""Project Aria's factory calibration and online_calibration.jsonl, of which the first line is read.

T_Device_Camera maps each camera to the device, the body. Older files state no image sizes: then those of the sensors
at full resolution are taken, by the camera's label, as projectaria_tools does.
"""

import dataclasses
from typing import Any

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, known_fields, numbers, pose

_FISHEYE = (*(f"k{k}" for k in range(1, 7)), "p1", "p2", "s1", "s2", "s3", "s4")
_PARAMETERS = {
    "FisheyeRadTanThinPrism": ("f", "cx", "cy", *_FISHEYE),
    "Fisheye62": ("f", "cx", "cy", *_FISHEYE[:8]),
    "KannalaBrandtK3": ("fx", "fy", "cx", "cy", *_FISHEYE[:4]),
}
# Label -> width, height, largest angle (radians) and radius (pixels) of what the lens sees, None: no such limit.
_SENSORS = {
    **dict.fromkeys(("camera-slam-left", "camera-slam-right"), (640, 480, 1.4, 330.0)),
    "camera-rgb": (2880, 2880, 1.0, 1415.0),
    **dict.fromkeys(("camera-et-left", "camera-et-right"), (640, 480, 0.75, None)),
    **dict.fromkeys((f"slam-{a}-{b}" for a in ("front", "side") for b in ("left", "right")), (512, 512, 1.4, 300.0)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Projection:
    Name: str
    Params: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pose:
    Translation: tuple[float, float, float]
    UnitQuaternion: tuple[float, tuple[float, float, float]]  # w, (x, y, z)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    ImageWidth: int
    ImageHeight: int
    MaxSolidAngle: float
    ValidRadius: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Camera:
    Label: str
    Projection: Any
    T_Device_Camera: Any
    ConfigData: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    CameraCalibrations: tuple[Any, ...]
    ImageSizes: tuple[tuple[int, int], ...] = ()


def recognises(document: Document) -> bool:
    """Returns whether the content has Aria's list of cameras."""
    return "CameraCalibrations" in document.has


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the cameras, named by their labels."""
    file = known_fields(_File, document.content, "")
    if file.ImageSizes:
        checks.equal("ImageSizes, number", len(file.ImageSizes), len(file.CameraCalibrations))
    cameras = []
    for i, content in enumerate(file.CameraCalibrations):
        where = f"CameraCalibrations[{i}]"
        camera = known_fields(_Camera, content, where)
        projection = known_fields(_Projection, camera.Projection, f"{where}.Projection")
        checks.one_of(_PARAMETERS, **{f"{where}.Projection.Name": projection.Name})
        names = _PARAMETERS[projection.Name]
        values = numbers(projection.Params, names, f"{where}.Projection.Params")
        focal = values[:2] if names[0] == "fx" else values[[0, 0]]
        center, rest = values[names.index("cx") :][:2], values[names.index("k1") :]
        size, max_angle_rad, radius_px = _sensor(camera, file.ImageSizes[i] if file.ImageSizes else None, where)
        with checks.naming(where):
            make = lenses.kannala_brandt4 if len(rest) == 4 else lenses.fisheye
            lens, refit_px = make(focal, center, rest, size)
            lens = lenses.within_circle(lens, radius_px, max_angle_rad)
        T = known_fields(_Pose, camera.T_Device_Camera, f"{where}.T_Device_Camera")
        w, xyz = T.UnitQuaternion
        T_body_cam = pose((*xyz, w), T.Translation, f"{where}.T_Device_Camera")
        cameras.append(
            CalibratedCamera(name=camera.Label, camera=lens, size_wh=size, T_body_cam=T_body_cam, refit_px=refit_px)
        )
    return cameras


def _sensor(
    camera: _Camera, stated: tuple[int, int] | None, where: str
) -> tuple[tuple[int, int], float | None, float | None]:
    """Returns image size, largest angle and radius of the image circle, None where there is no such limit."""
    if camera.ConfigData is not None:
        config = known_fields(_Config, camera.ConfigData, f"{where}.ConfigData")
        size = image_size(config.ImageWidth, config.ImageHeight, f"{where}.ConfigData")
        return size, config.MaxSolidAngle, config.ValidRadius
    if camera.Label not in _SENSORS and stated is None:
        known = ", ".join(_SENSORS)
        raise ValueError(f"{where}: the file states no image size of {camera.Label!r}; known are those of {known}")
    width, height, max_angle_rad, radius_px = _SENSORS.get(camera.Label, (*(stated or ()), None, None))
    if stated is not None:
        scale = stated[0] / width
        width, height = image_size(*stated, f"ImageSizes of {camera.Label}")
        radius_px = None if radius_px is None else radius_px * scale
    return (width, height), max_angle_rad, radius_px
