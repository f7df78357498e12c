"""Files that appear whole or not at all, and hashes of what is in them."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from etils import epath

from epfv2_jax.core import checks

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: The field of a JSON object that holds the SHA-256 of the rest of it.
CHECKSUM = "sha256"


@contextlib.contextmanager
def publishing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to; when the block ends, that file or folder is renamed to `path`.

    The temporary path lies in a folder of this process's own: when several processes publish the same file at once,
    each publishes a whole one. If the block raises, `path` stays as it was.
    """
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
        yield pathlib.Path(own) / path.name
        os.replace(pathlib.Path(own) / path.name, path)


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Writes a small file whole or not at all, replacing an old one. Object stores do this by themselves."""
    if is_remote(path):
        epath.Path(path).write_bytes(data)
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
    path = epath.Path(path)
    check_file(path, remedy)
    if (size := path.stat().length) > max_bytes:
        raise ValueError(f"{path}: {size} bytes, at most {max_bytes} are read")
    return parse_json(path.read_bytes(), os.fspath(path), remedy)


def parse_json(data: bytes | str, where: str, remedy: str = "", finite: bool = True) -> Any:
    """Returns the content of JSON; a ValueError names `where` it is from and the remedy.

    NaN and Infinity, which JSON does not have, are taken only where `finite` is False.
    """
    # ValueError: JSONDecodeError, UnicodeDecodeError; RecursionError: a million brackets.
    with checks.naming(f"{where}: not valid JSON", (ValueError, RecursionError), remedy):
        return json.loads(data, parse_constant=_refuse if finite else None)


def read_json_lines(path: str | os.PathLike, convert: Callable[[Any], T]) -> Iterator[tuple[bytes, T]]:
    """Yields (line, what `convert` makes of its JSON) for the lines of a file that grows; nothing if there is no file.

    A line that is not JSON (NaN may stand in it), or for which `convert` raises ValueError, is left out with a warning:
    a process that was killed may have been writing it.
    """
    path = pathlib.Path(path)
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
    if not epath.Path(path).is_file():
        raise ValueError(f"{path}: no such file{'; ' if remedy else ''}{remedy}")


def check_folder(path: str | os.PathLike, remedy: str) -> None:
    """Raises ValueError unless there is a folder at `path`."""
    if not epath.Path(path).is_dir():
        raise ValueError(f"{path}: no such folder; {remedy}")


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path names an object store (gs://, s3://)."""
    return "://" in os.fspath(path)


def _digest(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of canonical JSON: keys sorted, no spaces."""
    with checks.naming("content", (ValueError, RecursionError)):
        data = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(data.encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
