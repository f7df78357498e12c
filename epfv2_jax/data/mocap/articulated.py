"""The common form of a motion capture file: a tree of joints with rest offsets, and rotations over time.

Both readers deliver it: in it every joint's axes are those of the world in the rest pose, so that a global rotation
says how far a body part has turned from rest, whatever axes the file itself uses.
"""

import dataclasses
import pathlib
from typing import NoReturn

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArticulatedMotion:
    """N joints over F frames in a world with y up. Joint 0 is the root; every parent comes before its children."""

    source: str  # the file, for error messages
    fps: float
    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root
    offsets_m: np.ndarray  # (N, 3) from the parent joint, in the rest pose; zero for the root
    tips_m: np.ndarray  # (N, 3) end of the joint's own bone at rest, from the joint; NaN where not given
    root_position_m: np.ndarray  # (F, 3)
    joint_rotations: np.ndarray  # (F, N, 3, 3) local, identity in the rest pose

    @property
    def num_frames(self) -> int:
        return len(self.root_position_m)


def world_pose(motion: ArticulatedMotion) -> tuple[np.ndarray, np.ndarray]:
    """Returns (global rotations (F, N, 3, 3), joint positions in the world (F, N, 3) in metres)."""
    rotations = np.empty_like(motion.joint_rotations)
    positions = np.empty(rotations.shape[:-1])
    rotations[:, 0], positions[:, 0] = motion.joint_rotations[:, 0], motion.root_position_m
    for joint, parent in enumerate(motion.parents[1:], start=1):
        rotations[:, joint] = rotations[:, parent] @ motion.joint_rotations[:, joint]
        positions[:, joint] = positions[:, parent] + rotations[:, parent] @ motion.offsets_m[joint]
    return rotations, positions


def decimated(motion: ArticulatedMotion, fps: float) -> ArticulatedMotion:
    """Returns the motion at `fps`, every k-th frame from the first one.

    Raises:
      ValueError: the file's frame rate is not a whole multiple of `fps`.
    """
    ratio = motion.fps / fps
    stride = round(ratio)
    if stride < 1 or abs(ratio - stride) > 0.01 * stride:
        raise ValueError(
            f"{motion.source}: {motion.fps:g} frames a second is not a whole multiple of {fps:g}; resample it first"
        )
    return dataclasses.replace(
        motion,
        fps=fps,
        root_position_m=motion.root_position_m[::stride],
        joint_rotations=motion.joint_rotations[::stride],
    )


def euler_matrix(axes: str, angles_rad: np.ndarray) -> np.ndarray:
    """Returns R_1 R_2 ... R_n (..., 3, 3), rotations about `axes` (letters x, y, z) by angles (..., n)."""
    matrix = np.broadcast_to(np.eye(3), (*angles_rad.shape[:-1], 3, 3))
    for i, axis in enumerate(axes):
        matrix = matrix @ _elementary(axis, angles_rad[..., i])
    return matrix


def _elementary(axis: str, angle_rad: np.ndarray) -> np.ndarray:
    a = "xyz".index(axis)
    b, c = (a + 1) % 3, (a + 2) % 3
    matrix = np.zeros((*np.shape(angle_rad), 3, 3))
    matrix[..., a, a] = 1.0
    matrix[..., b, b] = matrix[..., c, c] = np.cos(angle_rad)
    matrix[..., c, b] = np.sin(angle_rad)
    matrix[..., b, c] = -matrix[..., c, b]
    return matrix


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a text file that has words on it, able to complain about itself."""

    path: pathlib.Path
    number: int
    words: tuple[str, ...]

    def fail(self, problem: str) -> NoReturn:
        """Raises the ValueError that names file, line and its text beside `problem`."""
        text = " ".join(self.words)
        raise ValueError(f"{self.path}:{self.number}: {problem}; the line is {text[:80]!r}")

    def numbers(self, count: int, first: int = 1) -> np.ndarray:
        """Returns the `count` numbers that follow the first `first` words; complains of any other number of words."""
        words = self.words[first:]
        if len(words) != count:
            self.fail(f"expected {count} number{'s' * (count != 1)}, got {len(words)}")
        return np.array([self.number_of(word) for word in words])

    def number_of(self, word: str) -> float:
        """Returns the number that `word` spells; complains where it is none or not finite."""
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
      ValueError: no such file, or not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; expected a motion capture file in ASCII") from None
    split = ((number, line.split()) for number, line in enumerate(text.splitlines(), start=1))
    return [Line(path, number, tuple(words)) for number, words in split if words and not words[0].startswith("#")]
