"""Lines of a text file, with errors that name file, line and text."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from epfv2_jax.core import checks, files

#: Joints times frames that a reader takes: 16 minutes of 75 joints at 120 frames a second, 0.65 GB of rotations.
MAX_JOINT_FRAMES = 9_000_000
#: Joints of a figure, several times those of a person with all fingers.
MAX_JOINTS = 1000

_MAX_LINE = 1 << 20  # characters
_MAX_NUMBER = 1e9  # no length, angle or count in any unit is as large


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a text file that has words on it."""

    path: pathlib.Path
    number: int
    text: str

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the line."""
        return tuple(self.text.split())

    def fail(self, problem: str) -> NoReturn:
        """Raises a ValueError that names the problem, the file, the line's number and its text."""
        raise ValueError(f"{self.path}:{self.number}: {problem}; the line is {' '.join(self.words)[:80]!r}")

    def numbers(self, count: int | None, first: int = 1) -> np.ndarray:
        """Returns the numbers after the first `first` words; fails unless there are exactly `count` (None: any)."""
        words = self.words[first:]
        if count is not None and len(words) != count:
            self.fail(f"expected {count} number{'s' * (count != 1)}, got {len(words)}")
        try:
            values = np.array([float(word) for word in words], np.float64)
        except ValueError:
            values = np.array([self.number_of(word) for word in words])
        if not (np.abs(values) <= _MAX_NUMBER).all():
            values = np.array([self.number_of(word) for word in words])
        return values

    def number_of(self, word: str) -> float:
        """Returns the number that `word` spells; fails unless it is a finite number of a sensible size."""
        try:
            value = float(word)
        except ValueError:
            self.fail(f"{word[:40]!r} is not a number")
        if not np.isfinite(value):
            self.fail(f"{word[:40]!r} is not a finite number")
        if abs(value) > _MAX_NUMBER:
            self.fail(f"{word[:40]!r} is too large for a length, an angle or a count")
        return value


def read_lines(path: pathlib.Path) -> Iterator[Line]:
    """Yields the lines of a text file that are neither blank nor comments (#).

    Raises:
      ValueError: the file does not exist, is not text, or a line is longer than any of these formats has.
    """
    files.check_file(path)
    problem = f"{path}: not a text file"
    with (
        checks.naming(problem, UnicodeDecodeError, "expected a motion capture file in ASCII or UTF-8"),
        path.open(encoding="utf-8-sig") as file,
    ):
        number = 0
        while text := file.readline(_MAX_LINE + 1):
            number += 1
            checks.within(0, _MAX_LINE, **{f"{path}:{number}: characters of the line": len(text)})
            if (text := text.strip()) and not text.startswith("#"):
                yield Line(path, number, text)
