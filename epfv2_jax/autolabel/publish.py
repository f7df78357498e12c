"""Publishes the files of units: each appears whole, and the first to publish a unit wins."""

import dataclasses
import errno
import os
import pathlib
import socket
import tempfile
import time
import uuid

from etils import epath

from epfv2_jax.autolabel import progress
from epfv2_jax.autolabel.rows import UnitRows
from epfv2_jax.core import files, stores
from epfv2_jax.data import labels, records

_TEMPORARY_FOLDER = "tmp"
_MAX_LISTED_ROWS = 1000  # bad rows in a footer
# What file systems without hard links answer.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitReport:
    """The outcome of a unit."""

    unit: int
    num_frames: int
    published: bool  # False where another process was first
    counts: tuple[int, ...] = (0,) * len(labels.Status)  # rows by Status; all zero where another process was first


class Publisher:
    """Writes and publishes units in the directory of a pass."""

    def __init__(self, out_dir: str | os.PathLike):
        """Makes the folders of `out_dir` and removes the unfinished files of this machine's dead processes."""
        self.out_dir = files.locate(out_dir)
        self.worker = f"{socket.gethostname()}-{os.getpid()}"
        for folder in (labels.UNIT_FOLDER, labels.PROGRESS_FOLDER):
            (self.out_dir / folder).mkdir(parents=True, exist_ok=True)
        if files.is_remote(self.out_dir):
            self._local_disk = tempfile.TemporaryDirectory(prefix="epfv2_labels_")
            self._temporary_dir = pathlib.Path(self._local_disk.name)
        else:
            self._temporary_dir = _temporary_dir(pathlib.Path(self.out_dir))

    def path(self, unit: int) -> epath.Path:
        """Returns where a unit is published."""
        return self.out_dir / labels.UNIT_FOLDER / labels.unit_file(unit)

    def publish(self, unit: int, rows: UnitRows, seconds: float) -> UnitReport:
        """Writes the rows of a unit, which took `seconds` to make, and publishes them unless another process has.

        Raises:
          OSError: the file could not be written; nothing is published.
        """
        target = self.path(unit)
        path = self._temporary_dir / f"{unit:08d}-{self.worker}-{uuid.uuid4().hex}{records.SHARD_SUFFIX}"
        try:
            footer = labels.write_unit(path, unit, rows.runs(), rows.bad_rows[:_MAX_LISTED_ROWS])
            by_another = UnitReport(unit=unit, num_frames=footer.num_rows, published=False)
            if target.exists():
                return by_another
            # The progress entry comes first, so that every published unit has one.
            entry = progress.Entry(
                unit=unit,
                worker=self.worker,
                frames=footer.num_rows,
                counts=footer.counts,
                seconds=round(seconds, 3),
                finished_unix_s=round(time.time(), 3),
            )
            progress.write(self.out_dir, entry)
            if not publish(path, target):
                return by_another
            return UnitReport(unit=unit, num_frames=footer.num_rows, published=True, counts=footer.counts)
        finally:
            path.unlink(missing_ok=True)


def publish(path: pathlib.Path, target: epath.Path) -> bool:
    """Moves the file at `path` to `target` unless there is one; returns whether it did. `path` is gone afterwards.

    On a local disk this is a hard link, in an object store a conditional write: one atomic step, and the first to
    publish wins. On a file system without hard links the file also appears whole, by renaming. But there, looking for
    an existing file and publishing are two steps: of two processes that label a unit at the same time the last one then
    wins. Both files are whole and of the same plan.
    """
    try:
        if files.is_remote(target):
            return stores.create(target, path.read_bytes())
        try:
            os.link(path, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                return False
            os.replace(path, target)
        _sync_directory(target.parent)
        return True
    finally:
        path.unlink(missing_ok=True)


def _temporary_dir(out_dir: pathlib.Path) -> pathlib.Path:
    """Returns the folder for unfinished files. It is on the disk of the published ones, which links require.

    Removes what dead processes of this machine left there.
    """
    folder = out_dir / _TEMPORARY_FOLDER
    folder.mkdir(exist_ok=True)
    host = socket.gethostname()
    for path in folder.iterdir():
        owner = path.name.split("-", 1)[-1].rsplit("-", 1)[0]
        name, _, pid = owner.rpartition("-")
        if name == host and pid.isdecimal() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)
    return folder


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # of a predecessor with the same number, as in a restarted container
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_directory(path: epath.Path) -> None:
    descriptor = os.open(os.fspath(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
