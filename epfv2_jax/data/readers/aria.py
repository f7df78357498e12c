"""What data sets recorded with Project Aria's glasses share: two SLAM cameras in a VRS file, a trajectory, their runs.

The body frame of trajectories and cameras is Aria's device. The headset is Aria's central pupil frame, which has our
axes; its place in the device is that of the CAD model. VRS files need the extra `aria`; all else is plain text.
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterator

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks, files
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import formats
from epfv2_jax.data.calibration.formats import CalibratedCamera, lenses
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.structs import Rig

#: A quarter turn makes the images of the SLAM cameras upright.
LAYOUT = RigLayout(name="aria_slam", view_names=("left", "right"), upright_turns=(-1, -1), mirror=(1, 0))
#: Nominal frame time, seconds. Recordings of 15 frames a second have gaps of two.
FRAME_S = 1 / 30
#: Farthest that a pose, or joints, may be from a frame: nanoseconds, our choice.
MAX_GAP_NS = 20_000_000
#: Farthest that the right image may be from the left one: nanoseconds, our choice. They are 12 ns apart in the data.
MAX_SKEW_NS = 5_000_000
#: Largest trajectory that is read, bytes: our choice, two hours at 1 kHz.
MAX_TRAJECTORY_BYTES = 4_000_000_000

# Label and stream of each view.
_STREAMS = (("camera-slam-left", "1201-1"), ("camera-slam-right", "1201-2"))
_COLUMNS = (
    "tracking_timestamp_us",
    *(f"t{axis}_world_device" for axis in "xyz"),
    *(f"q{axis}_world_device" for axis in "wxyz"),
    *(f"gravity_{axis}_world" for axis in "xyz"),
)


class Vrs:
    """The two SLAM cameras of a VRS file. Times are those of the device, nanoseconds.

    Args:
      path: of the file.
      calibration: an online_calibration.jsonl, whose first line is taken for the cameras; without it, and where there
        is no such file, they are as the factory calibrated them.

    Raises:
      ValueError: a file is missing, damaged or lacks a camera, or the extra is not installed.
    """

    def __init__(self, path: pathlib.Path, calibration: pathlib.Path | None = None):
        files.check_file(path, "download it again")
        checks.extra_installed("projectaria_tools", "aria", f"{path}: reading VRS")
        from projectaria_tools.core import calibration as calibration_lib
        from projectaria_tools.core import data_provider, sensor_data
        from projectaria_tools.core.stream_id import StreamId

        self.path = path
        with checks.naming(f"{path}: not a readable VRS file", (RuntimeError, ValueError), "download it again"):
            self._provider = data_provider.create_vrs_data_provider(os.fspath(path))
            checks.instance("content", self._provider, data_provider.VrsDataProvider, "recordings of Aria")
            device = self._provider.get_device_calibration()
            checks.instance("calibration", device, calibration_lib.DeviceCalibration, "that of the device")
            found = [device.get_camera_calib(label) for label, _ in _STREAMS]
            for (label, _), camera in zip(_STREAMS, found, strict=True):
                checks.instance(
                    f"calibration of {label}", camera, calibration_lib.CameraCalibration, "that of a camera"
                )
            self._streams = tuple(StreamId(stream) for _, stream in _STREAMS)
            clock = sensor_data.TimeDomain.DEVICE_TIME
            #: (n,) int64 of the images of each view.
            self.stamps_ns = tuple(
                np.array(self._provider.get_timestamps_ns(stream, clock), np.int64) for stream in self._streams
            )
            #: Calibration of each view.
            self.cameras = tuple(map(camera_of, found))
            #: (4, 4), headset to device.
            self.T_device_headset = np.asarray(device.get_transform_device_cpf().to_matrix())
        if calibration is not None and calibration.is_file():
            online = {camera.name: camera for camera in formats.read(calibration)}
            for label, _ in _STREAMS:
                checks.one_of(online, **{f"{calibration}: camera": label})
            self.cameras = tuple(online[label] for label, _ in _STREAMS)

    def image(self, view: int, row: int) -> np.ndarray:
        """Returns the image (H, W) uint8 of a row; ValueError where it is damaged."""
        with checks.naming(f"{self.path}: image {row} of {_STREAMS[view][0]}", (RuntimeError, IndexError, ValueError)):
            image, _ = self._provider.get_image_data_by_index(self._streams[view], row)
            array = image.to_numpy_array()
            checks.array("pixels", array, (None, None), np.uint8)
            checks.within(1, images.MAX_PIXELS, **{"number of pixels": array.size})
        return array

    def device_ns(self, timecode_ns: np.ndarray) -> np.ndarray:
        """Returns the device's times (n,) int64 of times (n,) int64 of the clock that the devices of a set-up share."""
        convert = self._provider.convert_from_timecode_to_device_time_ns
        with checks.naming(f"{self.path}: shared time codes", RuntimeError):
            return np.array([convert(int(time)) for time in timecode_ns], np.int64)


def camera_of(calibration) -> CalibratedCamera:
    """Returns the camera of projectaria_tools' CameraCalibration; it sees what Aria says that the lens does."""
    name, (focal, *rest) = calibration.get_label(), calibration.get_projection_params().tolist()
    checks.equal(f"{name}: number of parameters, of FISHEYE624", len(rest), 14)
    size = tuple(int(n) for n in calibration.get_image_size())
    lens, _ = lenses.fisheye((focal, focal), rest[:2], rest[2:], size)
    lens = lenses.within_circle(lens, calibration.get_valid_radius(), calibration.get_max_solid_angle())
    T_body_cam = np.asarray(calibration.get_transform_device_camera().to_matrix())
    return CalibratedCamera(name=name, camera=lens, size_wh=size, T_body_cam=T_body_cam, refit_px=0.0)


def read_trajectory(path: pathlib.Path) -> tracks.PoseTrack:
    """Returns the poses of the device in aria_trajectory.csv or closed_loop_trajectory.csv, in a world whose y is up.

    Raises:
      ValueError: naming the file, and the row or column where it is damaged.
    """
    files.check_file(path, "download it again")
    checks.within(1, MAX_TRAJECTORY_BYTES, **{f"{path}: bytes": path.stat().st_size})
    with checks.naming(f"{path}", remedy="download it again"), warnings.catch_warnings(action="ignore"):
        with path.open(encoding="utf-8") as file:
            names = [name.strip() for name in file.readline(10_000).split(",")]
        for column in _COLUMNS:
            checks.one_of(names, column=column)
        columns = [names.index(column) for column in _COLUMNS]
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=columns, ndmin=2, comments=None, encoding="utf-8")
        checks.not_empty("rows", rows, "the file ends after its header")
        stamps_us, positions_m, quaternions, gravity = np.split(rows, (1, 4, 8), axis=1)
        for name, values in {"position": positions_m, "quaternion": quaternions, "gravity": gravity}.items():
            checks.finite(name, values, "it is damaged")
        checks.within(0, 2**50, **{f"{_COLUMNS[0]}, {end}": float(getattr(stamps_us, end)()) for end in ("min", "max")})
        late = np.flatnonzero(np.diff(stamps_us[:, 0]) <= 0)
        checks.equal(f"{_COLUMNS[0]}: rows that are not later than the one before", late[:5].tolist(), [])
        far_m = float(np.abs(positions_m).max())
        checks.within(0, records.MAX_POSITION_M, **{"largest coordinate of the device, m": far_m})
        lengths = np.linalg.norm(quaternions, axis=-1)
        checks.within(
            0.99, 1.01, **{f"length of a quaternion, {end}": getattr(lengths, end)() for end in ("min", "max")}
        )
        down = np.median(gravity, axis=0)
        checks.within(9, 10.5, **{"gravity, m/s^2": float(np.linalg.norm(down))})
    turn = Rotation.align_vectors([[0.0, 1.0, 0.0]], [-down])[0]
    return tracks.PoseTrack(
        path=path,
        stamps_ns=(1000 * stamps_us[:, 0]).astype(np.int64),
        positions_m=turn.apply(positions_m),
        quaternions=(turn * Rotation.from_quat(quaternions, scalar_first=True)).as_quat(scalar_first=True),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """Poses and joints at the n images of the left camera."""

    has_pose: np.ndarray  # (n,) bool
    T_world_headset: np.ndarray  # (n, 4, 4), y up
    joints_world_m: np.ndarray  # (n, J, 3), zeros where not valid
    joint_valid: np.ndarray  # (n, J) bool


def runs(
    source: base.SourceSequence, vrs: Vrs, motion: Motion, config: ConversionConfig, report: base.ReadReport
) -> Iterator[records.FrameRun]:
    """Yields the runs of the frames that have a pose; a frame is an image of the left camera."""
    report.num_frames = len(vrs.stamps_ns[0])
    for frame in np.flatnonzero(~motion.has_pose):
        reason = f"no pose within {MAX_GAP_NS / 1e6:g} ms of {vrs.stamps_ns[0][frame]} ns"
        report.quarantined_frames.append(base.QuarantinedFrame(frame=int(frame), reason=reason))
    frame_index = np.flatnonzero(motion.has_pose).astype(np.int32)
    checks.not_empty(f"{vrs.path}: images with a pose", frame_index, "are trajectory and images of one recording?")
    rig = _rig(vrs, config)
    rows = [tracks.nearest_rows(stamps_ns, vrs.stamps_ns[0]) for stamps_ns in vrs.stamps_ns]
    for part in base.split_runs(frame_index, config.record_frames):
        frames = frame_index[part]
        jpegs = tuple(_jpegs(vrs, rows, int(frame), config, report) for frame in frames)
        yield records.FrameRun(
            sequence=source.sequence,
            split=source.split,
            frame_index=frames,
            time_s=(vrs.stamps_ns[0][frames] - vrs.stamps_ns[0][0]) / 1e9,
            jpegs=jpegs,
            T_world_headset=motion.T_world_headset[frames].astype(np.float32),
            joints_world_m=motion.joints_world_m[frames].astype(np.float32),
            joint_valid=motion.joint_valid[frames],
            view_valid=np.array([[bool(data) for data in views] for views in jpegs]),
            rig=rig,
        )


def _rig(vrs: Vrs, config: ConversionConfig) -> Rig:
    T_cam_headset = np.stack([np.linalg.inv(camera.T_body_cam) @ vrs.T_device_headset for camera in vrs.cameras])
    lens = cameras.stack([camera.camera for camera in vrs.cameras])
    stored = Rig(cameras=lens, T_cam_headset=T_cam_headset.astype(np.float32))
    return jax.tree.map(np.asarray, rig_lib.upright(stored, LAYOUT, config.image_size_hw))


def _jpegs(
    vrs: Vrs, rows: list[np.ndarray], frame: int, config: ConversionConfig, report: base.ReadReport
) -> tuple[bytes, ...]:
    """Returns the upright images of both views of a frame; b"" for one that is bad, which the report then holds."""
    views = []
    for view, camera in enumerate(vrs.cameras):
        row = int(rows[view][frame])
        try:
            away_ms = abs(int(vrs.stamps_ns[view][row] - vrs.stamps_ns[0][frame])) / 1e6
            checks.within(
                0, MAX_SKEW_NS / 1e6, **{f"{vrs.path}: {camera.name}: time to the nearest image, ms": away_ms}
            )
            stored = vrs.image(view, row)
            checks.equal(f"{vrs.path}: {camera.name}: width and height", stored.shape[::-1], camera.size_wh)
            views.append(base.upright_jpeg(stored, LAYOUT.upright_turns[view], config))
        except ValueError as error:
            views.append(b"")
            report.bad_views.append(base.BadView(frame=frame, view=view, reason=str(error)))
    return tuple(views)
