"""Progress bars: tqdm's on a terminal, whole lines now and then in a log file."""

import re
import sys
from typing import Any, TextIO

import tqdm

#: Seconds between two lines in a log.
LOG_INTERVAL_S = 30.0

_TIMES = re.compile(r"\[[^,\]]*,[^,\]]*")  # elapsed time, time left and rate, as tqdm writes them


def bar(*args: Any, log_interval_s: float | None = None, **options: Any) -> tqdm.tqdm:
    """Returns `tqdm.tqdm(*args, **options)`.

    Where stderr is no terminal it writes a line every `log_interval_s` (None: `LOG_INTERVAL_S`; inf: never), at its
    beginning and end, and whenever `set_postfix` shows new figures.
    """
    if not sys.stderr.isatty():
        interval_s = LOG_INTERVAL_S if log_interval_s is None else log_interval_s
        # With miniters = 1 the time alone decides: else tqdm's monitor draws every 10 s too.
        options = {"file": _Lines(sys.stderr), "mininterval": interval_s, "miniters": 1, "ncols": 120, **options}
    return tqdm.tqdm(*args, **options)


class _Lines:
    """Writes what tqdm draws as lines: without the characters that move the cursor of a terminal."""

    def __init__(self, file: TextIO):
        self._file, self._last = file, ""

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip("\r\n ")
        figures = _TIMES.sub("", line)
        if line and figures != self._last:  # a bar that ends is drawn once more
            self._file.write(f"{line}\n")
            self._last = figures

    def flush(self) -> None:
        self._file.flush()
