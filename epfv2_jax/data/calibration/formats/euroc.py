"""The sensor.yaml of a camera in EuRoC's ASL layout: Kalibr's fields, and T_BS, which maps the sensor to the body."""

import dataclasses
from collections.abc import Mapping

from epfv2_jax.data.calibration.formats import kalibr, lenses
from epfv2_jax.data.calibration.formats.base import CalibratedCamera, Document, Row, image_size, known_fields, rigid


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A matrix as OpenCV and EuRoC store it, row by row."""

    data: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rows:
    T_BS: tuple[Row, Row, Row, Row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Circle:
    valid_radius_px: float | None = None  # of ours: pixels farther from the optical centre see nothing


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
    radius_px = known_fields(_Circle, content, "").valid_radius_px
    T_body_cam = None
    if isinstance(content.get("T_BS"), Mapping):
        T_body_cam = rigid(known_fields(_Stored, content["T_BS"], "T_BS").data, "T_BS")
    elif "T_BS" in content:
        T_body_cam = rigid(known_fields(_Rows, content, "").T_BS, "T_BS")
    return [
        CalibratedCamera(
            name=document.path.absolute().parent.name or document.path.stem,
            camera=lens if radius_px is None else lenses.within_circle(lens, radius_px),
            size_wh=image_size(*fields.resolution, "resolution"),
            T_body_cam=T_body_cam,
            refit_px=refit_px,
        )
    ]
