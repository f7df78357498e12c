"""Files that grow by lines of JSON, on disk and in object stores."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from epfv2_jax.core import files, stores


class Lines:
    """Appends lines of JSON to a file. In an object store they appear within a second: see `stores.GrowingObject`."""

    def __init__(self, path: str | os.PathLike):
        """Continues a file, or begins one with its first line; a line that a killed process was writing is ended."""
        found = files.locate(path)
        content = found.read_bytes() if found.exists() else b""
        self._file = stores.GrowingObject(path, content) if files.is_remote(path) else _DiskFile(path)
        if content and not content.endswith(b"\n"):
            self._file.append(b"\n")

    def append(self, line: Mapping[str, Any]) -> None:
        """Writes one line.

        Raises:
          OSError: it, or an earlier one, could not be written.
        """
        self._file.append((json.dumps(line) + "\n").encode())

    def close(self) -> None:
        """Waits until all lines are written; errors as in `append`."""
        self._file.close()


class _DiskFile:
    """A file on disk. Nothing is held open between lines."""

    def __init__(self, path: str | os.PathLike):
        self._path = pathlib.Path(path)

    def append(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(data)

    def close(self) -> None:
        pass
