"""A run of consecutive frames and its bytes: msgpack with plain arrays, no pickle."""

import contextlib
import dataclasses

import numpy as np
from flax import serialization

from epfv2_jax.core import checks
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images as images_lib
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.cameras import Camera, Model
from epfv2_jax.structs import Rig

RECORD_VERSION = 2
#: Largest coordinate of a headset or a joint in the world, metres: our choice, where float32 resolves 0.06 mm. What is
#: farther away needs an origin nearer to it.
MAX_POSITION_M = 1000.0
#: Largest height or width of an image, pixels: our choice.
MAX_IMAGE_SIZE = 2048

_REMEDY = "convert the data again"
_ARRAYS = ("frame_index", "time_s", "T_world_headset", "joints_world_m", "joint_valid", "view_valid")
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
        checks.at_least(1, **{f"{where}: number of frames": n, f"{where}: number of views": V})
        sizes = np.asarray(self.rig.cameras.size_px)
        checks.array(f"{where}: size_px", sizes, (V, 2), np.floating)
        for size in (sizes.min(), sizes.max()):
            checks.within(1, MAX_IMAGE_SIZE, **{f"{where}: size_px": float(size)})
        if np.any(sizes != sizes[:1]):
            raise ValueError(f"{where}: views differ in size {sizes.tolist()}; convert them to one size")
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

    def check_motion(self) -> None:
        """Raises unless all poses are as `check_headset` asks, and all valid joints finite and within MAX_POSITION_M.

        A label pass does without: it leaves out single frames.
        """
        with contextlib.suppress(ValueError):
            self._check_motion(slice(None))
            return
        for i in range(self.num_frames):  # once more, to say which
            with checks.naming(f"frame {self.frame_index[i]} of {self.sequence}"):
                self._check_motion(slice(i, i + 1))

    def _check_motion(self, frames: slice) -> None:
        check_headset(self.T_world_headset[frames])
        joints_m = self.joints_world_m[frames][self.joint_valid[frames]]
        checks.finite("joints_world_m", joints_m, "mark them invalid")
        checks.within(0, MAX_POSITION_M, **{"largest coordinate of a joint, m": float(np.abs(joints_m).max(initial=0))})

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
    def camera_model(self) -> Model:
        """The lens model of all views, as in `geometry.cameras.Camera`."""
        return self.rig.cameras.model

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels, one size for all views."""
        width, height = np.asarray(self.rig.cameras.size_px)[0]
        return int(height), int(width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cameras:
    """The fields of a `Camera` with leading axis V."""

    focal_px: np.ndarray
    center_px: np.ndarray
    radial: np.ndarray
    tangential: np.ndarray
    thin_prism: np.ndarray
    size_px: np.ndarray
    max_angle_rad: np.ndarray
    model: Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Message:
    """The fields of a record, as in `FrameRun`."""

    version: int
    sequence: str
    split: str
    frame_index: np.ndarray
    time_s: np.ndarray
    jpegs: tuple[tuple[bytes, ...], ...]
    T_world_headset: np.ndarray
    joints_world_m: np.ndarray
    joint_valid: np.ndarray
    view_valid: np.ndarray
    cameras: _Cameras
    T_cam_headset: np.ndarray

    def __post_init__(self):
        checks.array("T_cam_headset", self.T_cam_headset, (None, 4, 4), np.floating)


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
    # Exception: msgpack raises its own classes.
    with checks.naming(f"record: {len(data)} bytes are not a record", Exception, _REMEDY):
        fields = serialization.msgpack_restore(data)
    with checks.naming("record", remedy=_REMEDY):
        version = fields.get("version") if isinstance(fields, dict) else None
        checks.equal("version", version, RECORD_VERSION)
        message = config_lib.from_mapping(_Message, fields, "")
        return FrameRun(
            sequence=message.sequence,
            split=message.split,
            jpegs=message.jpegs,
            rig=Rig(cameras=Camera(**vars(message.cameras)), T_cam_headset=message.T_cam_headset),
            **{name: getattr(message, name) for name in _ARRAYS},
        )


def check_headset(T_world_headset: np.ndarray, name: str = "the pose of the headset") -> None:
    """Raises ValueError unless poses (..., 4, 4) are finite rigid transforms within MAX_POSITION_M of the origin."""
    transforms.check_rigid(T_world_headset, name)
    far = float(np.abs(T_world_headset[..., :3, 3]).max(initial=0))
    checks.within(0, MAX_POSITION_M, **{f"{name}: largest coordinate, m": far})


def headset_faults(T_world_headset: np.ndarray) -> dict[int, str]:
    """Returns what is wrong with poses (n, 4, 4) by index: why `check_headset` refuses them."""
    name = "the pose of the headset"
    with contextlib.suppress(ValueError):
        check_headset(T_world_headset, name)
        return {}
    faults = {}
    for i, pose in enumerate(T_world_headset):
        try:
            check_headset(pose, name)
        except ValueError as error:
            faults[i] = str(error)
    return faults


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
