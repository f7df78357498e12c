"""Writes what Project Aria's data sets have besides VRS files, and stands in for these: VRS can only be read."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks
from epfv2_jax.data.calibration.formats import CalibratedCamera
from epfv2_jax.data.readers import adt
from epfv2_jax.geometry import cameras, skeleton

BODY = skeleton.EGOBODY3M
START_NS = 87_551_000_000_000
FRAME_NS = 33_328_000
SIZE_WH = (40, 30)
# Headset (x left, y up, z forward) to device (x right, y down, z forward), tilted by 0.3 rad.
T_DEVICE_HEADSET = np.eye(4)
T_DEVICE_HEADSET[:3, :3] = Rotation.from_euler("x", 0.3).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
T_DEVICE_HEADSET[:3, 3] = (0.065, 0.01, -0.02)
# Camera to device: image right is down, as the cameras lie on their sides; the right one is 13 cm to the right.
_R = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def camera(view: int) -> CalibratedCamera:
    lens = cameras.fisheye624(
        focal_px=15.0,
        center_px=(19.5, 14.5),
        k=(-0.02, 0.01, 0, 0, 0, 0),
        p=(1e-4, 0),
        s=(0, 1e-5, 0, 0),
        size_px=SIZE_WH,
    )
    T_body_cam = np.eye(4)
    T_body_cam[:3, :3], T_body_cam[0, 3] = _R, 0.13 * view
    return CalibratedCamera(
        name=("left", "right")[view], camera=lens, size_wh=SIZE_WH, T_body_cam=T_body_cam, refit_px=0.0
    )


class FakeVrs:
    """Six frames, of which the last image is damaged; the right images are 12 ns late."""

    device_minus_timecode_ns = -5_000_000_000

    def __init__(self, path: pathlib.Path, calibration: pathlib.Path | None = None):
        checks.one_of((True,), **{f"{path}: exists": path.is_file()})
        self.path = path
        stamps_ns = START_NS + FRAME_NS * np.arange(6)
        self.stamps_ns = (stamps_ns, stamps_ns + 12)
        self.cameras = (camera(0), camera(1))
        self.T_device_headset = T_DEVICE_HEADSET

    def image(self, view: int, row: int) -> np.ndarray:
        if (view, row) == (1, 5):
            raise ValueError(f"{self.path}: image 5 of right: damaged")
        return np.tile(np.arange(SIZE_WH[0], dtype=np.uint8) * 5, (SIZE_WH[1], 1))  # brighter to the right

    def device_ns(self, timecode_ns: np.ndarray) -> np.ndarray:
        return timecode_ns + self.device_minus_timecode_ns


def pose(time_ns: float) -> np.ndarray:
    """T_world_headset with y up: turns and walks at constant rates, so that slerp and lerp are exact."""
    seconds = (time_ns - START_NS) / 1e9
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(np.array([0.2, 0.9, 0.1]) * seconds).as_matrix()
    T[:3, 3] = (0.3 * seconds, 1.6, 0.5 * seconds)
    return T


def joints(time_ns: float) -> np.ndarray:
    """The 26 joints (J, 3) in the world: the rest pose, moving along with the headset and rising at a constant rate."""
    seconds = (time_ns - START_NS) / 1e9
    return BODY.rest_joints_headset_m() + pose(time_ns)[:3, 3] + [0.0, 0.2 * seconds, 0.0]


def write_trajectory(
    path: pathlib.Path,
    R_world_yup: np.ndarray,
    step_ns: int = 10_000_000,
    start_ns: int = START_NS - 15_000_000,
    duration_ns: int = 220_000_000,
    pose_at: Callable[[float], np.ndarray] = pose,
) -> None:
    """Writes the device's poses, in a world that `R_world_yup` (3, 3) turns ours to."""
    names = ["graph_uid", "tracking_timestamp_us", "utc_timestamp_ns"]
    names += [f"t{a}_world_device" for a in "xyz"] + [f"q{a}_world_device" for a in "xyzw"]
    names += [f"gravity_{a}_world" for a in "xyz"] + ["quality_score"]
    lines = [",".join(names)]
    for time_ns in range(start_ns, start_ns + duration_ns, step_ns):
        T = pose_at(time_ns) @ np.linalg.inv(T_DEVICE_HEADSET)
        position = R_world_yup @ T[:3, 3]
        quaternion = Rotation.from_matrix(R_world_yup @ T[:3, :3]).as_quat()
        gravity = R_world_yup @ [0.0, -9.81, 0.0]
        numbers = [time_ns // 1000, -1, *position, *quaternion, *gravity, 0.9]
        lines.append(",".join(["f2705772-c4a9", *map(str, numbers)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_adt(folder: pathlib.Path, num_frames: int = 28, step_ns: int = 8_333_000) -> None:
    """Writes a sequence of Aria Digital Twin, with the skeleton at another rate than the images."""
    write_trajectory(folder / "aria_trajectory.csv", np.eye(3))
    (folder / "video.vrs").write_bytes(b"VisionRe")
    entry = {"AssociatedDeviceSerial": "1WM", "SkeletonId": 7, "SkeletonName": "Skeleton_T"}
    (folder / "skeleton_aria_association.json").write_text(json.dumps({"SkeletonMetadata": [entry]}))
    (folder / "metadata.json").write_text(json.dumps({"serial": "1WM", "scene": "Apartment", "num_skeletons": 1}))
    frames = []
    for time_ns in range(START_NS - 10_000_000, START_NS - 10_000_000 + num_frames * step_ns, step_ns):
        points, placed = np.full((51, 3), 0.5), joints(time_ns)
        for ours, theirs in adt.JOINTS.items():
            points[adt.LABELS.index(theirs)] = placed[BODY.index(ours)]
        frames.append({"markers": [[0.0, 0.0, 0.0]], "joints": points.tolist(), "timestamp_ns": time_ns})
    content = {"dt_optitrack_minus_device_ns": {"1WM": 1}, "frames": frames}
    (folder / "Skeleton_T.json").write_text(json.dumps(content))
