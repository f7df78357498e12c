"""Copies on this machine's disk of files in object stores, for libraries that read disks only.

A copy is named by its content, or by the version that the store gives, so that all processes and runs of a machine
share it and it never goes out of date. Copies lie in `epfv2_jax/copies` under XDG_CACHE_HOME or ~/.cache. They fill the
disk but for a tenth; then those that were opened longest ago make room.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

from epfv2_jax.core import checks, files, stores

_log = logging.getLogger(__name__)

_FREE_SHARE = 10  # a tenth of the disk stays free
_IN_USE_S = 60.0  # a copy this young may not be open yet: it stays


def checked(path: str | os.PathLike, sha256: str, num_bytes: int, remedy: str) -> pathlib.Path:
    """Returns where a file is on disk: itself, or a copy of an object in a store. Open it within a minute.

    Args:
      path: of the file.
      sha256: of its content. A file on disk is not checked.
      num_bytes: its size.
      remedy: what to do where the object is damaged.

    Raises:
      ValueError: the object has another content.
      OSError: it is absent, or there is no room for a copy.
    """
    copy = place(path, sha256)
    if files.is_remote(path):
        with _fetched(path, copy, num_bytes) as own:
            if own is not None:
                checks.equal(f"{path}: sha256", files.sha256(own), sha256, remedy)
    return copy


def newest(path: str | os.PathLike) -> pathlib.Path:
    """Returns where a file is on disk, as `checked`, in the version that the store has now.

    Raises:
      OSError: it is absent, or there is no room for a copy.
    """
    if not files.is_remote(path):
        return pathlib.Path(path)
    version, num_bytes = stores.version(path)
    copy = place(path, hashlib.sha256(f"{os.fspath(path)} {version}".encode()).hexdigest())
    with _fetched(path, copy, num_bytes):
        return copy


def place(path: str | os.PathLike, sha256: str) -> pathlib.Path:
    """Returns where `checked` puts a file, whether it is there yet or not."""
    if not files.is_remote(path):
        return pathlib.Path(path)
    return folder() / f"{sha256}{pathlib.PurePosixPath(os.fspath(path)).suffix}"


@functools.cache
def folder() -> pathlib.Path:
    """Returns the folder of the copies, and makes it where it is absent."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    found = pathlib.Path(base) / "epfv2_jax" / "copies"
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


@contextlib.contextmanager
def _fetched(path: str | os.PathLike, copy: pathlib.Path, num_bytes: int) -> Iterator[pathlib.Path | None]:
    """Gives a new copy to check, which becomes `copy` when the block ends, or None where there is one."""
    if _used(copy):
        yield None
        return
    # One process fetches it, and others wait. The lock holds between threads, too, as each opens the file itself.
    with copy.with_name(f".{copy.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _used(copy):
            yield None
            return
        _make_room(num_bytes)
        with files.publishing(copy) as own:
            stores.download(path, own)
            yield own


def _used(copy: pathlib.Path) -> bool:
    """Returns whether there is a copy; if so, notes that it is used now."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


def _make_room(num_bytes: int) -> None:
    """Removes the copies that were opened longest ago, as far as that is needed. Who has one open keeps it."""
    usage = shutil.disk_usage(folder())
    missing = num_bytes + usage.total // _FREE_SHARE - usage.free
    if missing <= 0:
        return
    copies = {path: path.stat() for path in folder().iterdir() if not path.name.startswith(".")}
    for path, stat in sorted(copies.items(), key=lambda item: item[1].st_mtime):
        if missing <= 0 or stat.st_mtime > time.time() - _IN_USE_S:
            break
        _log.warning("%s is removed: the disk is full, and it was opened longest ago", path)
        path.unlink(missing_ok=True)
        missing -= stat.st_size
