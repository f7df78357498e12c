"""The predicted motion of a sequence, kept in files until it is written in the formats of other programs."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

import epfv2_jax
from epfv2_jax.geometry.skeleton import Skeleton

#: Frames that are read, converted and written at a time.
CHUNK_FRAMES = 1024

#: (dtype, shape of a row) of arrays by name; a row is a frame.
Columns = Mapping[str, tuple[type, tuple[int, ...]]]

_FRAMES = (
    "world: y up, floor near y = 0. headset: x to the wearer's left, y up, z forward, origin between the eyes. "
    "T_world_headset maps headset to world coordinates. cholesky_headset_m: lower-triangular L of the scale matrix "
    "L L^T of a Student-t about each joint, headset axes. covariance_world_m2: L L^T in world axes; with nu > 2 "
    "degrees of freedom the variance is nu / (nu - 2) times that. Of models with a body: root_rotation R_headset_root, "
    "root_position_m (headset), joint_rotations R_parent_joint, bone_scales relative to the model's rest pose."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What a motion is, of which sequence and from which model: the metadata of its files."""

    sequence: str
    split: str
    skeleton: Skeleton
    view_names: tuple[str, ...]
    frame_s: float  # nominal time from one frame to the next
    model: str  # its kind
    model_step: int  # of training
    model_sha256: str
    degrees_of_freedom: float | None  # of the Student-t of each joint; None: the model states no uncertainty

    def metadata(self) -> dict[str, Any]:
        """Returns text, numbers and tuples of them by name, as the files carry them."""
        uncertain = {} if self.degrees_of_freedom is None else {"degrees_of_freedom": self.degrees_of_freedom}
        return {
            "sequence": self.sequence,
            "split": self.split,
            "joint_names": self.skeleton.joint_names,
            "joint_parents": self.skeleton.parents,
            "view_names": self.view_names,
            "coordinate_frames": _FRAMES,
            "units": "metres, seconds, radians",
            "frame_s": self.frame_s,
            "frame_rate_hz": 1 / self.frame_s,
            "model": self.model,
            "model_step": self.model_step,
            "model_sha256": self.model_sha256,
            "epfv2_jax_version": epfv2_jax.__version__,
            **uncertain,
        }


def columns(num_joints: int, num_views: int, uncertain: bool, body: bool) -> Columns:
    """Returns the columns of a motion, with those of the uncertainty and of `structs.BodyParameters` or without."""
    J = num_joints
    found = {
        "frame_index": (np.int32, ()),  # as in the recording
        "time_s": (np.float64, ()),  # from the start of the sequence
        # False where the headset had no usable pose, or the prediction is not finite: the pose is NaN.
        "frame_valid": (np.bool_, ()),
        "view_valid": (np.bool_, (num_views,)),  # the views that the model saw
        "T_world_headset": (np.float32, (4, 4)),
        "joints_headset_m": (np.float32, (J, 3)),
        "joints_world_m": (np.float32, (J, 3)),
    }
    if uncertain:
        found |= {"cholesky_headset_m": (np.float32, (J, 3, 3)), "covariance_world_m2": (np.float32, (J, 3, 3))}
    if body:
        found |= {"root_rotation": (np.float32, (3, 3)), "root_position_m": (np.float32, (3,))}
        found |= {"joint_rotations": (np.float32, (J, 3, 3)), "bone_scales": (np.float32, (J,))}
    return found


def blank_rows(columns: Columns, num_rows: int) -> dict[str, np.ndarray]:
    """Returns rows in which nothing is known: NaN, 0 and False."""
    return {
        name: np.full((num_rows, *shape), np.nan if np.issubdtype(dtype, np.floating) else 0, dtype)
        for name, (dtype, shape) in columns.items()
    }


class Motion:
    """The motion of one sequence: F rows of each of `columns`, in files, so that memory does not grow with F."""

    def __init__(self, folder: pathlib.Path, about: About, columns: Columns):
        """Takes a folder on disk for the files, which must be empty, what the motion is, and its columns."""
        self.about, self.columns = about, columns
        self.num_frames = 0
        self._paths = {name: pathlib.Path(folder) / name for name in self.columns}

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Adds rows (n, ...) of every column."""
        count = len(rows["frame_index"])
        for name, (dtype, shape) in self.columns.items():
            assert rows[name].shape == (count, *shape), name
            with self._paths[name].open("ab") as file:
                file.write(np.ascontiguousarray(rows[name], dtype).tobytes())
        self.num_frames += count

    def chunks(self, names: Collection[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Yields rows of these columns (None: all), at most `CHUNK_FRAMES` at a time."""
        names = list(self.columns if names is None else names)
        with contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context(self._paths[name].open("rb")) for name in names} if len(self) else {}
            for start in range(0, len(self), CHUNK_FRAMES):
                count = min(CHUNK_FRAMES, len(self) - start)
                yield {name: self._take(name, file, count) for name, file in opened.items()}

    def __len__(self) -> int:
        return self.num_frames

    def _take(self, name: str, file: Any, count: int) -> np.ndarray:
        dtype, shape = self.columns[name]
        values = np.fromfile(file, dtype, count * int(np.prod(shape, dtype=np.int64)))
        return values.reshape(count, *shape)
