"""The suit's body: poses of 23 segments at 240 Hz in xdata.npz."""

import dataclasses
import io
import pathlib
import zipfile

import numpy as np

from epfv2_jax.core import checks, files

#: Segments, in the order of the files. The origin of one is the joint by which it hangs on its parent.
PARTS: tuple[str, ...] = (
    *("Pelvis", "L5", "L3", "T12", "T8", "Neck", "Head"),
    *(f"{side}_{part}" for side in "RL" for part in ("Shoulder", "UpperArm", "Forearm", "Hand")),
    *(f"{side}_{part}" for side in "RL" for part in ("UpperLeg", "LowerLeg", "Foot", "Toe")),
)
_SIDE = {
    "arm": "UpperArm",
    "forearm": "Forearm",
    "wrist": "Hand",
    "upleg": "UpperLeg",
    "leg": "LowerLeg",
    "talocrural": "Foot",
    "foot_twist": "Foot",
}
#: Joint of EgoBody3M -> the segment whose origin is the same point. Head, neck, shoulders and spine are other points.
JOINTS: dict[str, str] = {f"b_{s}_{ours}": f"{s.upper()}_{theirs}" for s in "lr" for ours, theirs in _SIDE.items()}
#: Nominal time between two rows, microseconds.
STEP_US = 1e6 / 240
#: Farthest that a step may be from the nominal one before it is replaced by that, microseconds: as the official code.
MAX_STEP_ERROR_US = 1000.0
#: Farthest that the last time may move by it, microseconds: as the official code.
MAX_DRIFT_US = 10_000.0
#: Largest array that is read, bytes: our choice, several hours.
MAX_ARRAY_BYTES = 4_000_000_000

_REMEDY = "download it again"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Xsens:
    """The segments (F rows) in the suit's own world: right-handed, z up, metres."""

    timecode_ns: np.ndarray  # (F,) int64, the clock that the devices of a set-up share
    positions_m: np.ndarray  # (F, 23, 3) float64
    quaternions: np.ndarray  # (F, 23, 4) float64, w x y z, none near zero
    repaired: str  # what was repaired, "" if nothing


def read_xsens(path: pathlib.Path) -> Xsens:
    """Returns the content of an xdata.npz, with the repairs that the official code makes.

    Steps of time that are off by more than a millisecond become nominal; where a quaternion is zero, as in rows that
    the suit lost, the last one stays.

    Raises:
      ValueError: the file is missing or damaged, or its times cannot be repaired; the message names file and array.
    """
    files.check_file(path, _REMEDY)
    # Exception: zipfile, numpy and zlib raise their own classes.
    with checks.naming(f"{path}", Exception, _REMEDY), zipfile.ZipFile(path) as archive:
        (rate_hz,) = _array(archive, "frameRate").astype(np.float64).ravel()
        checks.equal("frameRate", float(rate_hz), 240.0)
        times_us = _array(archive, "timestamps_us").ravel()
        F = len(times_us)
        checks.at_least(2, **{"timestamps_us, number": F})
        positions_m = _array(archive, "segment_tXYZ").reshape(F, len(PARTS), 3).astype(np.float64)
        quaternions = _array(archive, "segment_qWXYZ").reshape(F, len(PARTS), 4).astype(np.float64)
        times_us, late = _repaired_times(times_us)
        checks.within(0, 1e4, **{"segment_tXYZ, largest coordinate": float(np.abs(positions_m).max())})  # NaN is not
        checks.finite("segment_qWXYZ", quaternions, "it is damaged")
        lengths = np.linalg.norm(quaternions, axis=-1)
        checks.within(0, 1.1, **{"segment_qWXYZ, largest length": float(lengths.max())})
        lost = lengths < 0.5
        checks.within(0, 0.5, **{"segment_qWXYZ, share of zeros": float(lost.mean())})
    quaternions[0, lost[0]] = (1.0, 0.0, 0.0, 0.0)
    lost[0] = False
    last = np.maximum.accumulate(np.where(lost, 0, np.arange(F)[:, None]), axis=0)
    notes = [f"{n} {what}" for n, what in ((late, "times"), (int(lost.sum()), "rotations")) if n]
    return Xsens(
        timecode_ns=np.rint(times_us * 1000).astype(np.int64),
        positions_m=positions_m,
        quaternions=np.take_along_axis(quaternions, last[..., None], axis=0),
        repaired=" and ".join(notes),
    )


def _repaired_times(times_us: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns increasing times (F,), microseconds, and how many steps were replaced."""
    checks.one_of("iuf", **{"timestamps_us, kind of numbers": times_us.dtype.kind})
    checks.finite("timestamps_us", times_us, "it is damaged")
    for end in (times_us.min(), times_us.max()):
        checks.within(0, 2**52, timestamps_us=float(end))
    steps_us = np.diff(times_us.astype(np.float64))
    wrong = np.abs(steps_us - STEP_US) > MAX_STEP_ERROR_US
    if not wrong.any():
        return times_us.astype(np.float64), 0
    steps_us[wrong] = STEP_US
    repaired_us = times_us[0] + np.concatenate([[0.0], np.cumsum(steps_us)])
    moved_us = float(abs(repaired_us[-1] - times_us[-1]))
    checks.within(0, MAX_DRIFT_US, **{"timestamps_us, by how much repairs of steps move the last": moved_us})
    return repaired_us, int(wrong.sum())


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Returns an array of numbers; it takes as much memory as the zip declares, whatever its header says."""
    info = archive.getinfo(f"{name}.npy")
    checks.within(1, MAX_ARRAY_BYTES, **{f"{name}, declared bytes": info.file_size})
    member = io.BytesIO(archive.read(info))
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    checks.one_of(headers, **{f"{name}, version of the array": version})
    shape, fortran_order, dtype = headers[version](member)
    checks.one_of("iuf", **{f"{name}, kind of numbers": dtype.kind})
    return np.frombuffer(member.read(), dtype).reshape(shape, order="F" if fortran_order else "C")
