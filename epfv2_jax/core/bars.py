"""Progress bars: tqdm's on a terminal, whole lines now and then in a log file."""

import sys
from typing import Any, TextIO

import tqdm

#: Seconds between two lines in a log.
LOG_INTERVAL_S = 30.0


def bar(*args: Any, **options: Any) -> tqdm.tqdm:
    """Returns `tqdm.tqdm(*args, **options)`.

    Where stderr is no terminal it writes a line every `LOG_INTERVAL_S`, at its beginning and end, and whenever
    `set_postfix` shows new figures.
    """
    if not sys.stderr.isatty():
        options = {"file": _Lines(sys.stderr), "mininterval": LOG_INTERVAL_S, "ncols": 120, **options}
    return tqdm.tqdm(*args, **options)


class _Lines:
    """Writes what tqdm draws as lines: without the characters that move the cursor of a terminal."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        if line := text.replace("\x1b[A", "").strip("\r\n "):
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()
