"""Files, on disk and in object stores, that appear whole or not at all, and hashes of what is in them."""

import contextlib
import fcntl
import glob
import hashlib
import json
import logging
import os
import pathlib
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from etils import epath

from epfv2_jax.core import checks, stores
from epfv2_jax.core.stores import is_remote

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: The field of a JSON object that holds the SHA-256 of the rest of it.
CHECKSUM = "sha256"


@contextlib.contextmanager
def publishing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to; when the block ends, that file or folder is renamed to `path`.

    The temporary path lies in a folder of this process's own: when several processes publish the same file at once,
    each publishes a whole one. If the block raises, `path` stays as it was. For a path in an object store the temporary
    one is on disk; each of its files appears there whole, a folder file by file.
    """
    if is_remote(path):
        stores.connect(path)
        with tempfile.TemporaryDirectory(prefix="epfv2_") as own:
            yield pathlib.Path(own) / epath.Path(path).name
            stores.upload(pathlib.Path(own) / epath.Path(path).name, path)
        return
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
        yield pathlib.Path(own) / path.name
        os.replace(pathlib.Path(own) / path.name, path)


@contextlib.contextmanager
def owning(directory: str | os.PathLike, remedy: str) -> Iterator[None]:
    """Holds a directory on disk, made where absent, for this process, until the block or the process ends.

    The lock is a record lock of the system on `.lock`: it goes with its process, however that dies, and holds between
    machines where the file system passes locks on (NFS does). Object stores have no such locks: nothing is held there.

    Raises:
      ValueError: another process holds it; the message names that process and the remedy.
    """
    if is_remote(directory):
        yield
        return
    path = pathlib.Path(directory) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ValueError(f"{directory}: {holder} writes here; {remedy}") from error
        except OSError as error:
            _log.warning("%s: this file system has no locks (%s); start nothing twice", directory, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Writes a small file whole or not at all, replacing an old one. Object stores do this by themselves."""
    if is_remote(path):
        stores.write(path, data)
        return
    with publishing(path) as own, own.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Writes strict JSON (no NaN) whole or not at all, with a final newline."""
    write_atomic(path, (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike, remedy: str = "", max_bytes: int = 1 << 30) -> Any:
    """Returns the content of a JSON file.

    Raises:
      ValueError: the file is absent, larger than `max_bytes`, or not JSON; the message names it and ends with `remedy`.
    """
    return parse_json(read_bytes(path, remedy, max_bytes), os.fspath(path), remedy)


def _num_bytes(path: epath.Path) -> int:
    # Not epath's own `stat` for a local file: it looks up the owner's name, and in a container there may be none.
    return path.stat().length if is_remote(path) else os.stat(path).st_size


def parse_json(data: bytes | str, where: str, remedy: str = "", finite: bool = True) -> Any:
    """Returns the content of JSON; a ValueError names `where` it is from and the remedy.

    NaN and Infinity, which JSON does not have, are taken only where `finite` is False.
    """
    # ValueError: JSONDecodeError, UnicodeDecodeError; RecursionError: a million brackets.
    with checks.naming(f"{where}: not valid JSON", (ValueError, RecursionError), remedy):
        return json.loads(data, parse_constant=_refuse if finite else None)


def read_yaml(path: str | os.PathLike, remedy: str = "", max_bytes: int = 1 << 20) -> Any:
    """Returns the content of a YAML file, see `parse_yaml`.

    Raises:
      ValueError: the file is absent, larger than `max_bytes`, or not YAML; the message names it and ends with `remedy`.
    """
    return parse_yaml(read_bytes(path, remedy, max_bytes), os.fspath(path), remedy)


def parse_yaml(data: bytes | str, where: str, remedy: str = "") -> Any:
    """Returns the content of YAML: plain values only, numbers such as 1e-3 as YAML 1.2 reads them.

    Raises:
      ValueError: it is not YAML; the message names `where` it is from and ends with `remedy`.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # YAML 1.1, as PyYAML has it, takes 1e-3 for a text
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    # ValueError: a number of 5000 digits, a 13th month, bytes that are no UTF-8; RecursionError: a million brackets;
    # TypeError: a list as a key.
    errors = (yaml.YAMLError, ValueError, RecursionError, TypeError)
    with checks.naming(f"{where}: not valid YAML", errors, remedy):
        return yaml.load(data, Loader)


def write_yaml(path: str | os.PathLike, value: Any) -> None:
    """Writes plain values as YAML, whole or not at all; lists of plain values take one line."""
    import yaml

    write_atomic(path, yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=120).encode())


def read_bytes(path: str | os.PathLike, remedy: str = "", max_bytes: int = 1 << 30) -> bytes:
    """Returns the bytes of a file; raises ValueError if it is absent or larger than `max_bytes`."""
    path = locate(path)
    check_file(path, remedy)
    if (size := _num_bytes(path)) > max_bytes:
        raise ValueError(f"{path}: {size} bytes, at most {max_bytes} are read")
    return path.read_bytes()


def read_json_lines(path: str | os.PathLike, convert: Callable[[Any], T]) -> Iterator[tuple[bytes, T]]:
    """Yields (line, what `convert` makes of its JSON) for the lines of a file that grows; nothing if there is no file.

    A line that is not JSON (NaN may stand in it), or for which `convert` raises ValueError, is left out with a warning:
    a process that was killed may have been writing it.
    """
    path = locate(path)
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            content = convert(parse_json(line, "line", finite=False))
        except ValueError as error:
            _log.warning("%s: line %d is left out: %s", path, number, error)
            continue
        yield line, content


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON-ready content with its checksum in the field `sha256`, for a file that later steps trust."""
    return {**content, CHECKSUM: _digest(content)}


def without_checksum(content: Any) -> Any:
    """Returns content, which may be anything, without the checksum that `signed` added."""
    return {k: v for k, v in content.items() if k != CHECKSUM} if isinstance(content, dict) else content


def check_signature(content: Mapping[str, Any]) -> None:
    """Raises ValueError unless content is as `signed` returned it; content without a checksum, as of old, passes."""
    if CHECKSUM in content:
        found = _digest(without_checksum(content))
        checks.equal(f"{CHECKSUM} of the rest of the content", found, content[CHECKSUM], "it was changed or damaged")


def check_file(path: str | os.PathLike, remedy: str = "") -> None:
    """Raises ValueError unless there is a file at `path`."""
    if not locate(path).is_file():
        raise ValueError(f"{path}: no such file{'; ' if remedy else ''}{remedy}")


def check_folder(path: str | os.PathLike, remedy: str) -> None:
    """Raises ValueError unless there is a folder at `path`."""
    if not locate(path).is_dir():
        raise ValueError(f"{path}: no such folder; {remedy}")


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with locate(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: str | os.PathLike) -> int:
    """Returns the CRC-32 of a file: it finds damage, at a fraction of the time of a SHA-256."""
    value = 0
    with locate(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            value = zlib.crc32(chunk, value)
    return value


class _LocalPath(type(epath.Path("."))):
    """A local path in which `[`, `*` and `?` are plain characters: only the argument of `glob` is a pattern."""

    def glob(self, pattern: str) -> Iterator["_LocalPath"]:
        for found in glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)):
            yield type(self)(found)


def resolve(path: str | os.PathLike) -> epath.Path:
    """Returns the absolute path of a file or folder on disk or in an object store.

    Give it to libraries that take an `epath.Path`: its names may hold any character.
    """
    return locate(path if is_remote(path) else os.path.realpath(path))


def locate(path: str | os.PathLike) -> epath.Path:
    """Returns the path of a file or folder on disk or in an object store, relative where it is.

    Raises:
      ValueError, OSError: as `stores.connect`.
    """
    if not is_remote(path):
        return _LocalPath(path)
    stores.connect(path)
    return epath.Path(path)


def on_disk(path: str | os.PathLike, remedy: str) -> pathlib.Path:
    """Returns a path on disk; raises ValueError for one in an object store, with the remedy."""
    if is_remote(path):
        raise ValueError(f"{path}: this must be on a disk; {remedy}")
    return pathlib.Path(path)


def move_folder(path: str | os.PathLike, to: str | os.PathLike) -> None:
    """Moves a folder to `to`, in the place of what is there."""
    if is_remote(path):
        stores.remove(to)
        stores.move(path, to)
        return
    to = pathlib.Path(to)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.exists():
        shutil.rmtree(to)
    os.replace(path, to)


@contextlib.contextmanager
def filling(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a folder on disk to write into: the folder itself, or one that is uploaded when the block ends."""
    if not is_remote(folder):
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="epfv2_") as own:
        yield pathlib.Path(own)
        stores.upload(pathlib.Path(own), folder)


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a file or folder on disk as it is, one in an object store as a temporary copy."""
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="epfv2_") as own:
        copy = pathlib.Path(own) / epath.Path(path).name
        stores.download(path, copy)
        yield copy


def sizes(folder: str | os.PathLike) -> dict[str, int]:
    """Returns the bytes of the files right in a folder by name, from one listing; empty where there is no folder."""
    if is_remote(folder):
        return stores.sizes(folder)
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _digest(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of canonical JSON: keys sorted, no spaces."""
    with checks.naming("content", (ValueError, RecursionError)):
        data = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(data.encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
