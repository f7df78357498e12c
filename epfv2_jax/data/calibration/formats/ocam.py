"""OCamCalib's calib_results.txt, and its JSON in the data sets UnrealEgo and Ego4View; without extrinsics.

The text states the optical centre as row and column, and the affine part of its pixels. The authors of the JSON files
state the centre as column and row and do not use the affine part when they project.
"""

import dataclasses

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, image_size, known_fields, numbers

_MAX_COEFFICIENTS = 64
_LINES = ("polynomial", "inverse polynomial", "centre", "affine part", "image size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _File:
    size: tuple[int, int]  # the two sides are equal in all known files
    image_center: tuple[float, float]  # column, row
    polynomialW2C: tuple[float, ...]  # noqa: N815  (the file's name of it)
    imageCircleRadius: float | None = None  # noqa: N815


def recognises(document: Document) -> bool:
    """Returns whether the lines are five of numbers, or the content has the inverse polynomial."""
    if isinstance(document.content, list):
        return len(document.content) == len(_LINES) and document.content[0][:1].isdigit()
    return "polynomialW2C" in document.has


def read(document: Document) -> list[CalibratedCamera]:
    """Returns the one camera, named like its file."""
    if isinstance(document.content, list):
        lens, size = _text(document.content)
    else:
        file = known_fields(_File, document.content, "")
        size = image_size(*file.size, "size")
        checks.within(1, _MAX_COEFFICIENTS, **{"polynomialW2C, number": len(file.polynomialW2C)})
        radius_px = np.inf if file.imageCircleRadius is None else file.imageCircleRadius
        lens = lenses.ocam(file.polynomialW2C, file.image_center, (1.0, 0.0, 0.0), size, radius_px)
    camera, refit_px = lens
    return [CalibratedCamera(name=document.path.stem, camera=camera, size_wh=size, T_body_cam=None, refit_px=refit_px)]


def _text(lines: list[str]) -> tuple[lenses.Lens, tuple[int, int]]:
    found = {}
    for name, line in zip(_LINES, lines, strict=True):
        with checks.naming(name):
            found[name] = np.array([float(word) for word in line.split()])
        checks.finite(name, found[name], "the file is damaged")
    for name in _LINES[:2]:
        count, *values = found[name]
        checks.within(1, _MAX_COEFFICIENTS, **{f"{name}, number": count})
        checks.equal(f"{name}, number of coefficients", len(values), int(count))
        found[name] = np.array(values)
    row, column = numbers(found["centre"], ("row", "column"), "centre")
    affine = numbers(found["affine part"], ("c", "d", "e"), "affine part")
    height, width = numbers(found["image size"], ("height", "width"), "image size")
    size = image_size(int(width), int(height), "image size")
    return lenses.ocam(found["inverse polynomial"], (column, row), affine, size), size
