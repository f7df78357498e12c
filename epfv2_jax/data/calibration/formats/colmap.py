"""COLMAP's cameras.txt, without extrinsics. Its first pixel's centre is 0.5, so half a pixel is subtracted."""

import re

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, numbers
from epfv2_jax.data.calibration.formats.lenses import Lens

_LINE = re.compile(r"\d+\s+[A-Z][A-Z_]+\s+\d+\s+\d+\s")
_ONE, _TWO = ("f", "cx", "cy"), ("fx", "fy", "cx", "cy")
# Model -> names of its parameters.
_PARAMETERS = {
    "SIMPLE_PINHOLE": _ONE,
    "PINHOLE": _TWO,
    "SIMPLE_RADIAL": (*_ONE, "k1"),
    "RADIAL": (*_ONE, "k1", "k2"),
    "OPENCV": (*_TWO, "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": (*_TWO, *lenses.OPENCV[:8]),
    "SIMPLE_RADIAL_FISHEYE": (*_ONE, "k1"),
    "RADIAL_FISHEYE": (*_ONE, "k1", "k2"),
    "OPENCV_FISHEYE": (*_TWO, "k1", "k2", "k3", "k4"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (*_TWO, "k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3"),
    "FOV": (*_TWO, "omega"),
}


def recognises(document: Document) -> bool:
    """Returns whether the lines name cameras, models and sizes."""
    lines = document.content
    return isinstance(lines, list) and bool(lines) and bool(_LINE.match(f"{lines[0]} "))


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the cameras, named cam and their number."""
    cameras = []
    for line in document.content:
        words = line.split()
        where = f"camera {words[0]}"
        if len(words) < 4 or not _LINE.match(f"{line} "):
            raise ValueError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS..., got {line[:80]!r}")
        checks.one_of(_PARAMETERS, **{f"{where}: model": words[1]})
        size = image_size(*(int(word[:9]) for word in words[2:4]), where)
        names = _PARAMETERS[words[1]]
        with checks.naming(f"{where}: parameters"):
            values = numbers([float(word) for word in words[4:]], names, words[1])
            lens, refit_px = _lens(words[1], names, values, size)
        cameras.append(
            CalibratedCamera(name=f"cam{words[0]}", camera=lens, size_wh=size, T_body_cam=None, refit_px=refit_px)
        )
    return cameras


def _lens(model: str, names: tuple[str, ...], values: np.ndarray, size: tuple[int, int]) -> Lens:
    at = names.index("cx")
    focal, center, rest = np.repeat(values[:at], 3 - at), values[at : at + 2] - 0.5, values[at + 2 :]
    if model == "RAD_TAN_THIN_PRISM_FISHEYE":
        return lenses.fisheye(focal, center, rest, size)
    if model.endswith("FISHEYE"):
        return lenses.kannala_brandt4(focal, center, np.pad(rest, (0, 4 - len(rest))), size)
    if model.endswith("PINHOLE"):
        return lenses.pinhole(focal, center, size)
    if model == "FOV":
        return lenses.field_of_view(focal, center, float(rest[0]), size)
    return lenses.opencv(focal, center, rest if len(rest) >= 4 else np.pad(rest, (0, 4 - len(rest))), size)
