"""Object stores, gs:// and s3://: what they offer in place of locks, links, renames and appending.

gcsfs and s3fs (the extras `gcs` and `s3`) do the work; they find credentials and endpoints by their own rules.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from epfv2_jax.core import checks

#: Shortest time between two writes of one object; Google's store takes one a second.
_REWRITE_S = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Store:
    """What one kind of store needs."""

    library: str  # for fsspec
    extra: str
    login: str  # how to give credentials
    list_one: Callable[[Any, str, str], Any]  # (file system, bucket, prefix): asks for one name; raises what is wrong


_STORES = {
    "gs": _Store(
        library="gcsfs",
        extra="gcs",
        login="run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS",
        list_one=lambda fs, bucket, prefix: fs.call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1),
    ),
    "s3": _Store(
        library="s3fs",
        extra="s3",
        login="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        list_one=lambda fs, bucket, prefix: fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1),
    ),
}

# Buckets that are there and open to us.
_answered: set[tuple[str, str]] = set()


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path names an object store (gs://, s3://)."""
    return "://" in os.fspath(path)


def connect(path: str | os.PathLike) -> Any:
    """Returns the fsspec file system of a path in a store. Asks a bucket once whether it is there and open to us.

    Raises:
      ValueError: no such kind of store, or its library is not installed.
      OSError: no such bucket, no credentials, or no permission.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    checks.one_of(_STORES, **{f"{path}: kind of store": scheme})
    store, (bucket, _, prefix) = _STORES[scheme], rest.partition("/")
    if not bucket:
        raise ValueError(f"{path}: names no bucket; write {scheme}://BUCKET/FOLDER")
    checks.extra_installed(store.library, store.extra, os.fspath(path))
    fs = _file_system(scheme)
    if (scheme, bucket) not in _answered:
        _ask(scheme, bucket, prefix)
        _answered.add((scheme, bucket))
    return fs


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes an object whole, replacing an old one."""
    fs = connect(path)
    with _explained(path):
        fs.pipe_file(os.fspath(path), data)


def create(path: str | os.PathLike, data: bytes) -> bool:
    """Writes an object unless there is one, in one step; returns whether it did: of several writers the first wins.

    The store decides (ifGenerationMatch = 0, If-None-Match = *). Where an answer is lost on its way and the request
    repeated, the writer that was first may hear False.
    """
    fs = connect(path)
    with _explained(path):
        try:
            fs.pipe_file(os.fspath(path), data, mode="create")
        except FileExistsError:
            return False
    return True


def sizes(folder: str | os.PathLike) -> dict[str, int]:
    """Returns the bytes of the objects right in a folder by name, from one listing; empty where there is none."""
    fs = connect(folder)
    with _explained(folder):
        try:
            found = fs.ls(os.fspath(folder), detail=True)
        except FileNotFoundError:
            return {}
    return {info["name"].rpartition("/")[2]: info["size"] for info in found if info["type"] == "file"}


def version(path: str | os.PathLike) -> tuple[str, int]:
    """Returns (text that differs for each content that an object has had, its bytes).

    Raises:
      FileNotFoundError: there is none.
    """
    fs = connect(path)
    with _explained(path):
        info = fs.info(os.fspath(path))
    tags = [str(info.get(name)) for name in ("generation", "ETag", "etag", "size")]
    return " ".join(tags), int(info["size"])


def upload(local: str | os.PathLike, path: str | os.PathLike) -> None:
    """Copies a file, or all files in a folder, into a store."""
    fs, local, target = connect(path), pathlib.Path(local), os.fspath(path)
    pairs = [(local, target)]
    if local.is_dir():
        inner = sorted(file for file in local.rglob("*") if file.is_file())
        pairs = [(file, f"{target}/{file.relative_to(local).as_posix()}") for file in inner]
    with _explained(path):
        for file, name in pairs:
            fs.put_file(os.fspath(file), name)


def download(path: str | os.PathLike, local: pathlib.Path) -> None:
    """Copies an object, or all below a folder, to a disk.

    Raises:
      FileNotFoundError: there is nothing at `path`.
    """
    fs, source = connect(path), os.fspath(path).rstrip("/")
    with _explained(path):
        if fs.isfile(source):
            fs.get_file(source, os.fspath(local))
            return
        names = fs.find(source)
        if not names:
            raise FileNotFoundError(f"{path}: nothing is there")
        for name in names:
            target = local / _below(path, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, os.fspath(target))


def move(path: str | os.PathLike, to: str | os.PathLike) -> None:
    """Moves a folder within a store: all is copied, then the old one removed."""
    fs = connect(path)
    with _explained(path):
        for name in fs.find(os.fspath(path)):
            fs.cp_file(name, f"{os.fspath(to)}/{_below(path, name)}")
    remove(path)


def remove(path: str | os.PathLike) -> None:
    """Removes a folder, if it is there."""
    fs = connect(path)
    with _explained(path), contextlib.suppress(FileNotFoundError):
        fs.rm(os.fspath(path), recursive=True)


class GrowingObject:
    """An object that grows by lines. Stores cannot append, so it is written whole, in the background.

    It is written at most once a second: who kills the process loses the lines of the last second.
    """

    def __init__(self, path: str | os.PathLike, content: bytes):
        """Continues an object with this content."""
        self._path, self._content = path, content
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._timer: threading.Timer | None = None
        self._last_s, self._error = -_REWRITE_S, None

    def append(self, line: bytes) -> None:
        """Adds a line.

        Raises:
          OSError: an earlier line could not be written.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            self._content += line
            if self._timer is None:
                wait_s = max(0.0, self._last_s + _REWRITE_S - time.monotonic())
                self._timer = threading.Timer(wait_s, self._rewrite)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Waits until all lines are written; errors as in `append`."""
        with self._lock:
            timer = self._timer
        if timer is not None:
            timer.cancel()
            self._rewrite()
        if self._error is not None:
            raise self._error

    def _rewrite(self) -> None:
        with self._writing:
            with self._lock:
                content, self._timer, self._last_s = self._content, None, time.monotonic()
            try:
                write(self._path, content)
            except OSError as error:
                self._error = error


@functools.cache
def _file_system(scheme: str) -> Any:
    """Returns the file system of a kind of store, without fsspec's cache of listings: other processes write too."""
    import fsspec

    for protocol in {"gs": ("gs", "gcs"), "s3": ("s3",)}[scheme]:
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    options = {"finalize_on_close": True} if scheme == "gs" else {}  # as epath, which then shares this one
    return fsspec.filesystem("gcs" if scheme == "gs" else scheme, **options)


def _ask(scheme: str, bucket: str, prefix: str) -> None:
    """Raises OSError with what is wrong with a bucket."""
    with _explained(f"{scheme}://{bucket}/{prefix}"):
        try:
            _STORES[scheme].list_one(_file_system(scheme), bucket, prefix)
        except FileNotFoundError as error:
            raise OSError(f"there is no bucket {bucket!r}; create it, or correct the path") from error


@contextlib.contextmanager
def _explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns what the libraries raise into an OSError that names the path; absent and existing objects pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # of fsspec, aiohttp, botocore or Google's libraries
        store = _STORES[os.fspath(path).partition("://")[0]]
        text = " ".join(str(error).split())[:300] or type(error).__name__
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"NoCredentialsError", "GoogleAuthError", "PartialCredentialsError"} or _status(error) == 401:
            text = f"no credentials for the store ({text}); {store.login}"
        elif isinstance(error, PermissionError) or text.startswith("Forbidden") or _status(error) == 403:
            text = f"permission denied ({text}); ask for the right to list, read and write objects there"
        raise OSError(f"{path}: {text}") from error


def _below(folder: str | os.PathLike, name: str) -> str:
    """Returns the part below a folder of an object's name as `find` gives it."""
    return name.removeprefix(os.fspath(folder).partition("://")[2].rstrip("/") + "/")


def _status(error: Exception) -> int:
    """Returns the HTTP status of an error of gcsfs, 0 for others."""
    code = str(getattr(error, "code", ""))
    return int(code) if code.isdecimal() else 0
