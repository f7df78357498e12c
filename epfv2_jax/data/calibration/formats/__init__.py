"""Reads the calibration files that headset engineers have. One module a format; the content tells the format.

cameras = formats.read("camchain.yaml")
"""

import os
import pathlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import jax
import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data.calibration.formats import aria, basalt, colmap, euroc, kalibr, meta, ocam, opencv, refit, ros
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document
from epfv2_jax.geometry import cameras as cameras_lib
from epfv2_jax.geometry.cameras import MAX_ANGLE_RAD, Camera

__all__ = ["FORMATS", "CalibratedCamera", "alike", "describe", "read"]

#: By the name in messages. Of two that recognise a document, the first reads it.
FORMATS: dict[str, ModuleType] = {
    "Kalibr camchain.yaml": kalibr,
    "EuRoC sensor.yaml": euroc,
    "Basalt calibration.json": basalt,
    "Meta camera_calibration_v2.json": meta,
    "Aria factory or online calibration": aria,
    "OpenCV YAML or XML": opencv,
    "ROS CameraInfo YAML": ros,
    "COLMAP cameras.txt": colmap,
    "OCamCalib text or JSON": ocam,
}

_MAX_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 28  # of a file of many lines, of which the first is read
_PLAIN_LINE = re.compile(r"[\s\d.eE+-]+|\d+\s+[A-Z][A-Z_]+\s+\d+\s+\d+(\s.*)?")


def read(path: str | os.PathLike) -> tuple[CalibratedCamera, ...]:
    """Returns the cameras of a calibration file, in its order. `FORMATS` lists what can be read.

    A lens of a model that the package does not have (double sphere, EUCM, omni, FOV, OCam) becomes the nearest
    Fisheye62; `CalibratedCamera.refit_px` is the error.

    Args:
      path: of the file; for an OpenCV file that does not say its lens model, `FILE:fisheye` or `FILE:normal` does.

    Raises:
      ValueError: the format is not known, a field is missing or impossible, a lens sees more than 180 degrees or cannot
        be refitted to half a pixel; the message names file, field and value, and what to do.
    """
    text = os.fspath(path)
    file, _, model = text.rpartition(":")
    if not (file and model in opencv.MODELS):
        file, model = text, None
    data = files.read_bytes(file, "give a calibration file", max_bytes=_MAX_FILE_BYTES)
    too_large = checks.naming("a number is too large", FloatingPointError, "check the file")
    with checks.naming(file), too_large, np.errstate(over="raise"):
        document = Document(path=pathlib.Path(file), content=_parse(data), model=model)
        found = [module for module in FORMATS.values() if module.recognises(document)]
        if not found:
            raise ValueError(f"this is no calibration file of a known format: {', '.join(FORMATS)}")
        cameras = found[0].read(document)
        names = [camera.name for camera in cameras]
        checks.equal("number of different names of cameras", len(set(names)), len(names))
        for camera in cameras:
            _check(camera)
    return tuple(cameras)


def alike(cameras: Sequence[CalibratedCamera]) -> tuple[CalibratedCamera, ...]:
    """Returns the cameras of one headset with one lens model: where they differ, all become Fisheye62.

    Raises:
      ValueError: a lens cannot be refitted to half a pixel.
    """
    if len({camera.camera.model for camera in cameras}) == 1:
        return tuple(cameras)
    return tuple(camera if camera.camera.model == "fisheye" else _as_fisheye(camera) for camera in cameras)


def describe(cameras: Sequence[CalibratedCamera]) -> str:
    """Returns a line for each camera: size, lens model, largest angle and the error of its refit."""
    lines = []
    for camera in cameras:
        (width, height), lens = camera.size_wh, camera.camera
        refitted = f", refitted to {camera.refit_px:.4f} px" if camera.refit_px else ""
        angle = np.rad2deg(float(lens.max_angle_rad))
        lines.append(f"{camera.name:16s} {width}x{height} {lens.model} to {angle:.1f} degrees{refitted}")
    return "\n".join(lines)


def _as_fisheye(camera: CalibratedCamera) -> CalibratedCamera:
    lens, refit_px = refit.of_camera(camera.camera)
    refitted = CalibratedCamera(**{**vars(camera), "camera": lens, "refit_px": refit_px})
    _check(refitted)
    return refitted


def _check(camera: CalibratedCamera) -> None:
    """Raises ValueError if the camera cannot be used."""
    with checks.naming(f"camera {camera.name}"):
        if not camera.refit_px <= refit.MAX_REFIT_PX:
            raise ValueError(
                f"the nearest Fisheye62 lens is {camera.refit_px:.2f} px off, allowed are {refit.MAX_REFIT_PX}; "
                "calibrate with another model, such as Kannala-Brandt (equidistant), or crop the images"
            )
        if _wider_than_180(camera.camera):
            raise ValueError(
                "the image is wider or higher than 180 degrees, and lenses are used up to 90 degrees from the axis; "
                "crop the images to what lies within, and shift the optical centre likewise"
            )


def _wider_than_180(camera: Camera) -> bool:
    """Returns whether directions across the optical axis fall into the image on two opposite sides."""
    if camera.max_angle_rad < MAX_ANGLE_RAD - 1e-6:
        return False
    sine, cosine = np.sin(MAX_ANGLE_RAD - 1e-5), np.cos(MAX_ANGLE_RAD - 1e-5)
    across = np.array([[sine, 0, cosine], [-sine, 0, cosine], [0, sine, cosine], [0, -sine, cosine]], np.float32)
    uv_px = np.asarray(jax.jit(cameras_lib.project)(camera, across)[0])
    inside = np.all((uv_px >= -0.5) & (uv_px <= np.asarray(camera.size_px) - 0.5), axis=-1)
    return bool(inside[:2].all() or inside[2:].all())


def _parse(data: bytes) -> Any:
    """Returns mappings and lists of JSON, YAML or OpenCV's XML, of other text the lines without comments."""
    if data.lstrip().startswith(b"{"):
        first, _, rest = data.partition(b"\n")
        if first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{"):  # JSON lines
            data = first
        checks.within(0, _MAX_BYTES, bytes=len(data))
        return files.parse_json(data, "content")
    checks.within(0, _MAX_BYTES, bytes=len(data))
    with checks.naming("not text"):
        text = data.decode()
    if text.lstrip().startswith("<"):
        return _opencv_xml(text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and all(_PLAIN_LINE.fullmatch(line) for line in lines):
        return lines
    # OpenCV begins its files with a directive that YAML does not have, and tags its matrices.
    text = re.sub(r"\A%YAML[^\n]*\n", "", text).replace("!!opencv-matrix", "")
    return files.parse_yaml(text, "content")


def _opencv_xml(text: str) -> dict[str, Any]:
    """Returns the content of OpenCV's XML as its YAML would give it."""
    with checks.naming("not valid XML", ElementTree.ParseError):
        root = ElementTree.fromstring(text)

    def value(node: ElementTree.Element) -> Any:
        if len(node):
            return {child.tag: value(child) for child in node}
        words = (node.text or "").split()
        found = [float(word) if re.fullmatch(r"[-+.\deE]+", word) else word for word in words]
        if node.tag == "data":
            return found
        return files.parse_yaml(node.text or "", node.tag) if len(found) == 1 else node.text

    return {node.tag: value(node) for node in root}
