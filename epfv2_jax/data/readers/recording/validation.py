"""Checks of the files of a recording: what each found, and the likely mistake.

Those of `MUST` say whether the files can be used at all; those of `SHOULD`, whether enough of them fits together. What
cameras, poses and joints say about one another is checked by `geometry.plausibility`.
"""

from collections.abc import Callable, Iterator

import numpy as np

from epfv2_jax.core.findings import Finding
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.data.readers.recording.pictures import Pictures
from epfv2_jax.data.readers.recording.sequence import Content

#: Largest difference of a quaternion's length from 1.
MAX_QUATERNION_ERROR = 1e-3
#: Least share of the frames that have a pose, joints, or an image of each other view.
MIN_COVERED = 0.5

_MS = 1_000_000
_TRIED_IMAGES = 20


def stamps(content: Content) -> Iterator[Finding]:
    """Yields whether the stamps of each table increase."""
    tables = {pictures.folder / "data.csv": pictures.stamps_ns for pictures in content.pictures}
    tables[content.poses.path] = content.poses.stamps_ns
    if content.joints is not None:
        tables[content.joints.path] = content.joints.stamps_ns
    for path, stamps_ns in tables.items():
        late = np.flatnonzero(np.diff(stamps_ns) <= 0)
        yield Finding(
            check="stamps",
            value=f"{path.relative_to(content.files.folder)}: {len(stamps_ns)} rows",
            limit="each later than the last",
            problem=f"{path} row {late[0] + 1}: timestamp {stamps_ns[late[0] + 1]} is not later than "
            f"{stamps_ns[late[0]]}; sort the rows and leave out repeated ones"
            if len(late)
            else "",
        )


def image_size(content: Content) -> Iterator[Finding]:
    """Yields whether the first readable image of each view has the size of its calibration."""
    for pictures, camera in zip(content.pictures, content.cameras, strict=True):
        found, error = _first_size(pictures)
        wanted = tuple(map(int, camera.size_wh))
        problem = ""
        if found is None:
            problem = f"no image of {pictures.folder} is readable; the first: {error}"
        elif found != wanted:
            remedy = "scale the calibration or give the full images"
            if found == wanted[::-1]:
                remedy = "they are turned: set resolution as the images are stored, and use upright_turns"
            problem = (
                f"{pictures.folder}: images are {found[0]}x{found[1]}, the calibration says {wanted[0]}x{wanted[1]} "
                f"(width x height); {remedy}"
            )
        yield Finding(
            check="image_size",
            value=f"{pictures.folder.name}: {'none' if found is None else f'{found[0]}x{found[1]}'}",
            limit=f"{wanted[0]}x{wanted[1]}",
            problem=problem,
        )


def quat_norm(content: Content) -> Iterator[Finding]:
    """Yields whether the quaternions have the length 1."""
    length = np.linalg.norm(content.poses.quaternions, axis=-1)
    row = int(np.abs(length - 1).argmax())
    problem = f"{content.poses.path} row {row}: the quaternion has length {length[row]:.3g}; are the columns others?"
    yield Finding(
        check="quat_norm",
        value=f"length {length[row]:.6g}",
        limit=f"1 within {MAX_QUATERNION_ERROR:g}",
        problem=problem if abs(length[row] - 1) > MAX_QUATERNION_ERROR else "",
    )


def sync(content: Content) -> Iterator[Finding]:
    """Yields how far the images of each other view are from the frames in time."""
    limit_ms = content.headset.max_skew_ms
    for pictures in content.pictures[1:]:
        away_ms = np.abs(pictures.stamps_ns[matching_rows(content, pictures.stamps_ns)] - content.frames_ns) / _MS
        problem = (
            f"{pictures.folder.name} is {_ms(away_ms)} from {content.pictures[0].folder.name} at row "
            f"{int(away_ms.argmax())}: not triggered together, or of another clock"
        )
        yield _coverage("sync", f"{pictures.folder.name}: {_ms(away_ms)}", away_ms <= limit_ms, limit_ms, problem)


def coverage(content: Content) -> Iterator[Finding]:
    """Yields how many of the frames have a pose and joints."""
    limit_ms = content.headset.max_pose_gap_ms
    for check, track in (("pose_coverage", content.poses), ("joint_coverage", content.joints)):
        if track is None:
            continue
        covered = tracks.distance_ns(track.stamps_ns, content.frames_ns) <= limit_ms * _MS
        start_s = (track.stamps_ns[0] - content.frames_ns[0]) / 1e9
        problem = (
            f"{track.path} covers {covered.sum()} of {len(covered)} frames (starts {abs(start_s):.3g} s "
            f"{'after' if start_s > 0 else 'before'} the frames, which last {np.ptp(content.frames_ns) / 1e9:.3g} s): "
            "of another clock, microseconds in a column of nanoseconds, or gaps?"
        )
        yield _coverage(check, f"{covered.sum()} of {len(covered)} frames", covered, limit_ms, problem)


MUST: tuple[Callable[[Content], Iterator[Finding]], ...] = (stamps, quat_norm, image_size)
SHOULD: tuple[Callable[[Content], Iterator[Finding]], ...] = (sync, coverage)


def matching_rows(content: Content, stamps_ns: np.ndarray) -> np.ndarray:
    """Returns the row of a view that is nearest in time to each frame."""
    return tracks.nearest_rows(stamps_ns, content.frames_ns)


def _coverage(check: str, value: str, covered: np.ndarray, limit_ms: float, problem: str) -> Finding:
    """Returns an error where most frames are not covered, a warning where some are not."""
    return Finding(
        check=check,
        value=value,
        limit=f"within {limit_ms:g} ms",
        problem="" if covered.all() else problem,
        is_error=bool(covered.mean() < MIN_COVERED),
    )


def _first_size(pictures: Pictures) -> tuple[tuple[int, int] | None, str]:
    """Returns (width, height) of the first readable image of the first ones, or None and why the first is not."""
    error = ""
    for row in range(min(len(pictures.stamps_ns), _TRIED_IMAGES)):
        try:
            height, width = pictures.read(row).shape
        except ValueError as reason:
            error = error or str(reason)
            continue
        return (width, height), ""
    return None, error


def _ms(away_ms: np.ndarray) -> str:
    return f"{away_ms.max():.3g} ms"
