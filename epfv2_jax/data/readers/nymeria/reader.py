"""Nymeria for the conversion: the suit's body, brought into the world of the glasses."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.core import checks, files
from epfv2_jax.core.findings import Finding
from epfv2_jax.data import records
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import aria, base
from epfv2_jax.data.readers.nymeria import momentum
from epfv2_jax.data.readers.nymeria.handeye import hand_eye
from epfv2_jax.data.readers.nymeria.sequence import SequenceFolder, find_sequences
from epfv2_jax.data.readers.nymeria.xsens import JOINTS, PARTS, Xsens, read_xsens
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.geometry import skeleton
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

#: The alignment of suit and glasses takes every so many rows, and motions over so many of these: a twentieth and a
#: tenth of a second, our choice.
ROWS, STRIDE = 12, 2
#: How far the motions of suit and glasses may be from rigid over a tenth of a second, radians and metres: our choice. A
#: warning tells what is farther.
MAX_ALIGNMENT_RAD, MAX_ALIGNMENT_M = 0.05, 0.02
#: How far joints of the Momentum body may be from the same joints of the suit, median metres: our choice. Momentum
#: wrote animations without the scales of joints at one time.
MAX_MOMENTUM_OFF_M = 0.1
#: Fewest joints by name for which the Momentum body is taken: our choice, more than the suit gives.
MIN_NAMED_JOINTS = 20
# glTF's axes (y up) in the suit's world (z up).
_R_WORLD_GLTF = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


@dataclasses.dataclass(frozen=True)
class Nymeria:
    """Reads the folders of a download; a `readers.base.Reader`."""

    source_dir: str | os.PathLike

    skeleton: ClassVar[Skeleton] = skeleton.EGOBODY3M
    layout: ClassVar[RigLayout] = aria.LAYOUT
    camera_model: ClassVar[str] = "fisheye"

    def find_sequences(self) -> list[SequenceFolder]:
        """Returns the sequences; see `sequence.find_sequences`."""
        return find_sequences(self.source_dir)

    def frame_s(self, sequences: Sequence[SequenceFolder]) -> float:
        """Returns the frame time of the SLAM cameras."""
        return aria.FRAME_S

    def read(
        self, source: SequenceFolder, config: ConversionConfig, report: base.ReadReport
    ) -> Iterator[records.FrameRun]:
        """Yields the runs of a sequence.

        Raises:
          ValueError: a file is missing or damaged, suit and glasses cannot be aligned, or no image has a pose.
        """
        _check_metadata(source)
        suit = read_xsens(source.xsens)
        report.findings.append(_finding("xsens", suit.repaired or "nothing was repaired", "", ""))
        names, joints_suit_m = _joints(source, suit, report)
        trajectory = aria.read_trajectory(source.trajectory)
        vrs = aria.Vrs(source.vrs, source.calibration)
        suit_ns = vrs.device_ns(suit.timecode_ns)
        head = _head(suit)
        with checks.naming(f"{source.xsens}: alignment with {source.trajectory.name}"):
            T_device_head = _align(suit_ns, head, trajectory, report)
        in_head_m = np.einsum("fji,fnj->fni", head[:, :3, :3], joints_suit_m - head[:, None, :3, 3])
        track = tracks.JointTrack(
            path=source.xsens,
            sensor=tracks.JointSensor(sensor_type="joints", frame="headset", unit="m", names=names),
            stamps_ns=suit_ns,
            positions_m=in_head_m @ T_device_head[:3, :3].T + T_device_head[:3, 3],
        )
        yield from aria.runs(source, vrs, _motion(vrs, trajectory, track, self.skeleton), config, report)


def _check_metadata(source: SequenceFolder) -> None:
    """Raises ValueError where metadata.json says that the body, the trajectory or a common clock is missing."""
    content = files.read_json(source.metadata, "download it again", max_bytes=10_000_000)
    checks.instance(f"{source.metadata}: content", content, dict, "an object")
    for name in ("body_motion", "head_slam", "timesync"):
        checks.one_of((True,), **{f"{source.metadata}: {name}": content.get(name, True)})


def _joints(source: SequenceFolder, suit: Xsens, report: base.ReadReport) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns names of joints, and these (F, names, 3) in the suit's world: the Momentum body's, else the suit's."""
    problem = f"{source.momentum}: no such file"
    if source.momentum.is_file():
        try:
            found = momentum.names_in(source.momentum)
            checks.at_least(MIN_NAMED_JOINTS, **{f"{source.momentum}: nodes of EgoBody3M's names": len(found)})
            names = tuple(sorted(found, key=skeleton.EGOBODY3M.index))
            joints_m = momentum.read_motion(source.momentum, names, len(suit.timecode_ns)) @ _R_WORLD_GLTF.T
            shared = [names.index(name) for name in JOINTS if name in names]
            of_suit_m = suit.positions_m[:, [PARTS.index(JOINTS[names[j]]) for j in shared]]
            off_m = float(np.median(np.linalg.norm(joints_m[:, shared] - of_suit_m, axis=-1)))
            checks.within(0, MAX_MOMENTUM_OFF_M, **{f"{source.momentum}: median distance to the suit's joints": off_m})
        except ValueError as error:
            problem = str(error)
        else:
            report.findings.append(_finding("momentum", f"{len(names)} joints, {off_m:.3f} m off the suit's", "", ""))
            return names, joints_m
    problem += f"; the {len(JOINTS)} joints of the suit are taken"
    report.findings.append(_finding("momentum", "not used", f"at least {MIN_NAMED_JOINTS} joints by name", problem))
    return tuple(JOINTS), suit.positions_m[:, [PARTS.index(part) for part in JOINTS.values()]]


def _finding(check: str, value: str, limit: str, problem: str) -> Finding:
    return Finding(check=check, value=value, limit=limit, problem=problem, is_error=False)


def _head(suit: Xsens) -> np.ndarray:
    """Returns T_suitworld_head (F, 4, 4) of the suit's head segment."""
    i = PARTS.index("Head")
    T = np.tile(np.eye(4), (len(suit.timecode_ns), 1, 1))
    T[:, :3, :3] = Rotation.from_quat(suit.quaternions[:, i], scalar_first=True).as_matrix()
    T[:, :3, 3] = suit.positions_m[:, i]
    return T


def _align(suit_ns: np.ndarray, head: np.ndarray, trajectory: tracks.PoseTrack, report: base.ReadReport) -> np.ndarray:
    """Returns T_device_head (4, 4), one for the sequence, from the motions of both where both are known."""
    near = tracks.distance_ns(trajectory.stamps_ns, suit_ns) <= aria.MAX_GAP_NS
    checks.at_least(2, **{"rows of the suit at times of the trajectory": int(near.sum())})
    first, last = np.flatnonzero(near)[[0, -1]]
    rows = np.arange(first, last + 1, ROWS)
    T_device_head, off_rad, off_m = hand_eye(trajectory.at(suit_ns[rows]), head[rows], STRIDE)
    value, limit = f"{off_rad:.3g} rad, {off_m:.3g} m rms", f"{MAX_ALIGNMENT_RAD} rad, {MAX_ALIGNMENT_M} m"
    bad = off_rad > MAX_ALIGNMENT_RAD or off_m > MAX_ALIGNMENT_M
    problem = f"suit and glasses move {value} apart; are their clocks the same, and do the glasses sit still?" * bad
    report.findings.append(_finding("alignment", value, limit, problem))
    return T_device_head


def _motion(vrs: aria.Vrs, trajectory: tracks.PoseTrack, track: tracks.JointTrack, body: Skeleton) -> aria.Motion:
    """Returns poses and joints at the images' times; the joints of the track are in the device's frame."""
    frames_ns = vrs.stamps_ns[0]
    T_world_device = trajectory.at(frames_ns)
    found_m, known = track.at(frames_ns)
    has_pose = tracks.distance_ns(trajectory.stamps_ns, frames_ns) <= aria.MAX_GAP_NS
    known &= (tracks.distance_ns(track.stamps_ns, frames_ns) <= aria.MAX_GAP_NS)[:, None]
    places = [body.index(name) for name in track.sensor.names]
    joints_m = np.zeros((len(frames_ns), body.num_joints, 3))
    valid = np.zeros(joints_m.shape[:2], bool)
    joints_m[:, places] = np.einsum("nij,nkj->nki", T_world_device[:, :3, :3], found_m) + T_world_device[:, None, :3, 3]
    valid[:, places] = known
    return aria.Motion(
        has_pose=has_pose,
        T_world_headset=T_world_device @ vrs.T_device_headset,
        joints_world_m=np.where(valid[..., None], joints_m, 0.0),
        joint_valid=valid,
    )
