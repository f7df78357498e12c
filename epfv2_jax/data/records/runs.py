"""A run of consecutive frames and its bytes: msgpack with plain arrays, no pickle."""

import dataclasses

import numpy as np
from flax import serialization

from epfv2_jax.core import checks
from epfv2_jax.data import images as images_lib
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.structs import Rig

RECORD_VERSION = 2

_ARRAYS = ("frame_index", "time_s", "T_world_headset", "joints_world_m", "joint_valid", "view_valid")
_FIELDS = {"version", "sequence", "split", "jpegs", "cameras", "T_cam_headset", *_ARRAYS}
_CAMERA_FIELDS = tuple(field.name for field in dataclasses.fields(Camera))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameRun:
    """Consecutive frames of one sequence: n frames, V views, J joints; images upright, lengths in metres."""

    sequence: str
    split: str
    frame_index: np.ndarray  # (n,) int32, each one more than the last
    time_s: np.ndarray  # (n,) float64, seconds from the start of the sequence, strictly increasing
    jpegs: tuple[tuple[bytes, ...], ...]  # [n][V] monochrome JPEG, b"" where the view is missing
    T_world_headset: np.ndarray  # (n, 4, 4) float32
    joints_world_m: np.ndarray  # (n, J, 3) float32
    joint_valid: np.ndarray  # (n, J) bool
    view_valid: np.ndarray  # (n, V) bool, False where the view is missing
    rig: Rig  # numpy arrays with a leading V; its size_px is the size of the images

    def __post_init__(self):
        where = f"run of {self.sequence}"
        checks.array(f"{where}: frame_index", self.frame_index, (None,), np.int32)
        n, V = len(self.frame_index), self.num_views
        checks.at_least(1, **{f"{where}: number of frames": n})
        checks.array(f"{where}: time_s", self.time_s, (n,), np.float64)
        checks.array(f"{where}: joint_valid", self.joint_valid, (n, None), np.bool_)
        checks.array(f"{where}: joints_world_m", self.joints_world_m, (n, self.num_joints, 3), np.float32)
        checks.array(f"{where}: T_world_headset", self.T_world_headset, (n, 4, 4), np.float32)
        checks.array(f"{where}: view_valid", self.view_valid, (n, V), np.bool_)
        if np.any(np.diff(self.frame_index) != 1):
            raise ValueError(f"{where}: frame_index has a gap; split the run there")
        checks.finite(f"{where}: time_s", self.time_s, "leave out frames without a time")
        if np.any(late := np.diff(self.time_s) <= 0):
            i = int(np.argmax(late))
            raise ValueError(
                f"{where}: time_s of frame {self.frame_index[i + 1]} is {self.time_s[i + 1]}, not later than "
                f"{self.time_s[i]} of the frame before it; sort the frames by time and leave out repeated ones"
            )
        if len(self.jpegs) != n or any(len(frame) != V for frame in self.jpegs):
            raise ValueError(f"{where}: jpegs must be {n} frames of {V} views")
        present = np.array([[bool(data) for data in frame] for frame in self.jpegs])
        if np.any(self.view_valid & ~present):
            frame, view = np.argwhere(self.view_valid & ~present)[0]
            raise ValueError(f"{where}: frame {self.frame_index[frame]} view {view} is marked valid but has no image")

    @property
    def num_frames(self) -> int:
        """n."""
        return len(self.frame_index)

    @property
    def num_views(self) -> int:
        """V."""
        return self.rig.T_cam_headset.shape[0]

    @property
    def num_joints(self) -> int:
        """J."""
        return self.joint_valid.shape[1]

    @property
    def camera_model(self) -> str:
        """The lens model of all views, as in `geometry.cameras.Camera`."""
        return self.rig.cameras.model

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels, one size for all views."""
        sizes = np.asarray(self.rig.cameras.size_px)
        if np.any(sizes != sizes[:1]):
            raise ValueError(f"run of {self.sequence}: views differ in size {sizes.tolist()}; convert them to one size")
        width, height = sizes[0]
        return int(height), int(width)


def encode(run: FrameRun) -> bytes:
    """Returns the bytes of a record."""
    cameras = {name: getattr(run.rig.cameras, name) for name in _CAMERA_FIELDS}
    return serialization.msgpack_serialize(
        {
            "version": RECORD_VERSION,
            "sequence": run.sequence,
            "split": run.split,
            "frame_index": run.frame_index,
            "time_s": run.time_s,
            "jpegs": [list(frame) for frame in run.jpegs],
            "T_world_headset": run.T_world_headset,
            "joints_world_m": run.joints_world_m,
            "joint_valid": run.joint_valid,
            "view_valid": run.view_valid,
            "cameras": {k: v if isinstance(v, str) else np.asarray(v) for k, v in cameras.items()},
            "T_cam_headset": np.asarray(run.rig.T_cam_headset),
        }
    )


def decode(data: bytes) -> FrameRun:
    """Returns the run that `encode` wrote.

    Raises:
      ValueError: the bytes are not a record, are of another version, or a field is missing, unknown or misshapen.
    """
    try:
        fields = serialization.msgpack_restore(data)
    except Exception as error:  # msgpack raises its own family of exceptions, ValueError and TypeError
        raise _unusable(f"{len(data)} bytes are not a record ({error})") from error
    if not isinstance(fields, dict) or "version" not in fields:
        raise _unusable("no version field")
    if fields["version"] != RECORD_VERSION:
        raise _unusable(f"version {fields['version']}, this code reads {RECORD_VERSION}")
    if set(fields) != _FIELDS:
        raise _unusable(f"missing or unknown fields {sorted(set(fields) ^ _FIELDS)}")
    cameras = fields["cameras"]
    if not isinstance(cameras, dict) or set(cameras) != set(_CAMERA_FIELDS):
        raise _unusable(f"cameras must have the fields {sorted(_CAMERA_FIELDS)}")
    checks.array("record: T_cam_headset", fields["T_cam_headset"], (None, 4, 4), np.floating, "convert the data again")
    return FrameRun(
        sequence=fields["sequence"],
        split=fields["split"],
        jpegs=tuple(tuple(frame) for frame in fields["jpegs"]),
        rig=Rig(cameras=Camera(**cameras), T_cam_headset=fields["T_cam_headset"]),
        **{name: fields[name] for name in _ARRAYS},
    )


def frame_gaps(time_s: np.ndarray, frame_s: float, before_s: float | None = None) -> np.ndarray:
    """Returns (n,) int32 frame times since the previous frame, rounded and at least 1.

    Args:
      time_s: (n,) of the frames.
      frame_s: the nominal frame time.
      before_s: time of the frame before the first; None: there is none, and the first gap is 1.
    """
    first_s = time_s[:1] - frame_s if before_s is None else before_s
    gaps = np.rint(np.diff(time_s, prepend=first_s) / frame_s)
    return np.clip(gaps, 1, np.iinfo(np.int32).max).astype(np.int32)


def decode_images(run: FrameRun, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (n, V, H, W) uint8 and view_valid (n, V) bool of frames [start, stop) of a run.

    A view that is missing, or whose JPEG is damaged or of another size, is a black image with view_valid False: one bad
    image never ends a pass over the data.
    """
    height, width = run.image_size_hw
    jpegs = run.jpegs[start:stop]
    valid = run.view_valid[start:stop].copy()
    images = np.zeros((len(jpegs), run.num_views, height, width), np.uint8)
    for i, v in np.argwhere(valid):
        try:
            image = images_lib.decode_grey(jpegs[i][v], max_pixels=height * width)
        except ValueError:
            valid[i, v] = False
            continue
        if image.shape == (height, width):
            images[i, v] = image
        else:
            valid[i, v] = False
    return images, valid


def _unusable(problem: str) -> ValueError:
    return ValueError(f"record: {problem}; convert the data again")
