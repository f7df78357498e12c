"""Lines of a text file, with errors that name file, line and text."""

import dataclasses
import pathlib
from typing import NoReturn

import numpy as np

from epfv2_jax.core import checks, files


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a text file that has words on it."""

    path: pathlib.Path
    number: int
    words: tuple[str, ...]

    def fail(self, problem: str) -> NoReturn:
        """Raises a ValueError that names the problem, the file, the line's number and its text."""
        text = " ".join(self.words)
        raise ValueError(f"{self.path}:{self.number}: {problem}; the line is {text[:80]!r}")

    def numbers(self, count: int, first: int = 1) -> np.ndarray:
        """Returns the numbers after the first `first` words; fails unless there are exactly `count`."""
        words = self.words[first:]
        if len(words) != count:
            self.fail(f"expected {count} number{'s' * (count != 1)}, got {len(words)}")
        return np.array([self.number_of(word) for word in words])

    def number_of(self, word: str) -> float:
        """Returns the number that `word` spells; fails unless it is a finite number."""
        try:
            value = float(word)
        except ValueError:
            self.fail(f"{word!r} is not a number")
        if not np.isfinite(value):
            self.fail(f"{word!r} is not a finite number")
        return value


def read_lines(path: pathlib.Path) -> list[Line]:
    """Returns the lines of a text file that are neither blank nor comments (#).

    Raises:
      ValueError: the file does not exist or is not text.
    """
    files.check_file(path)
    with checks.naming(f"{path}: not a text file", UnicodeDecodeError, "expected a motion capture file in ASCII"):
        text = path.read_text(encoding="utf-8")
    split = ((number, line.split()) for number, line in enumerate(text.splitlines(), start=1))
    return [Line(path, number, tuple(words)) for number, words in split if words and not words[0].startswith("#")]
