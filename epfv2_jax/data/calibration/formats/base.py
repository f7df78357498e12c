"""What the formats of calibration files share: the camera that they give, and checked pieces of a document."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.cameras import Camera

T = TypeVar("T")
Row = tuple[float, float, float, float]

_MAX_SIZE = 100_000  # pixels of a side of an image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CalibratedCamera:
    """One camera of a calibration file."""

    name: str
    camera: Camera  # of the stored image, float32 numpy; pixel centres at integers
    size_wh: tuple[int, int]
    T_body_cam: np.ndarray | None  # (4, 4) float64, camera to body coordinates, metres; None: the file has none
    refit_px: float  # largest error in the image where the lens was refitted to Fisheye62; 0: the model is the file's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A calibration file after parsing."""

    path: pathlib.Path
    content: Any  # of YAML, JSON or OpenCV's XML; of other text its lines without comments
    model: str | None  # the lens model that the user named where the file does not

    @property
    def has(self) -> frozenset:
        """The keys of the content; none where it is no mapping."""
        return frozenset(self.content) if isinstance(self.content, Mapping) else frozenset()


def known_fields(cls: type[T], content: Any, path: str) -> T:
    """Returns the dataclass from the fields that it has of a mapping; others are left alone, files of others have many.

    Raises:
      ValueError: a field is missing or no value of its type; the message starts with the dotted key.
    """
    checks.instance(path or "content", content, Mapping, "a mapping")
    names = {field.name for field in dataclasses.fields(cls)}
    return config_lib.from_mapping(cls, {key: value for key, value in content.items() if key in names}, path)


def image_size(width: int, height: int, path: str) -> tuple[int, int]:
    """Returns width and height after checking them."""
    checks.within(1, _MAX_SIZE, **{f"{path}, width": width, f"{path}, height": height})
    return width, height


def numbers(values: Sequence[float], names: Sequence[str], path: str) -> np.ndarray:
    """Returns values of a list as float64 after checking that there are as many as names; the message lists these."""
    checks.equal(f"{path}, number of values ({', '.join(names)})", len(values), len(names))
    return np.asarray(values, np.float64)


def rigid(T_a_b: Any, path: str) -> np.ndarray:
    """Returns a 4x4 transform, rows or 16 numbers row by row, as float64 after checking that it is rigid.

    Its rotation is replaced by the nearest one: files hold few digits.
    """
    T_a_b = np.asarray(T_a_b, np.float64)
    T_a_b = T_a_b.reshape(4, 4) if T_a_b.size == 16 else T_a_b
    transforms.check_rigid(T_a_b, path)
    U, _, Vt = np.linalg.svd(T_a_b[:3, :3])
    return _matrix(U @ Vt, T_a_b[:3, 3])


def pose(quaternion_xyzw: Sequence[float], position_m: Sequence[float], path: str) -> np.ndarray:
    """Returns the 4x4 transform of a quaternion and a position, float64, after checking the quaternion's length."""
    quaternion = np.asarray(quaternion_xyzw, np.float64)
    checks.within(0.999, 1.001, **{f"{path}, length of the quaternion": float(np.linalg.norm(quaternion))})
    return _matrix(Rotation.from_quat(quaternion).as_matrix(), np.asarray(position_m, np.float64))


def inverse(T_a_b: np.ndarray) -> np.ndarray:
    """Returns T_b_a of a rigid transform, float64."""
    R_b_a = T_a_b[:3, :3].T
    return _matrix(R_b_a, -R_b_a @ T_a_b[:3, 3])


def _matrix(rotation: np.ndarray, position_m: np.ndarray) -> np.ndarray:
    T_a_b = np.eye(4)
    T_a_b[:3, :3], T_a_b[:3, 3] = rotation, position_m
    return T_a_b
