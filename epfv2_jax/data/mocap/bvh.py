"""Reads Biovision hierarchies (BVH)."""

import pathlib

import numpy as np

from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.mocap.lines import Line, read_lines
from epfv2_jax.geometry.rotations import euler_matrix

_ROTATIONS = ("xrotation", "yrotation", "zrotation")
_POSITIONS = ("xposition", "yposition", "zposition")
# Files round the frame time, 1/30 s to 0.0333: a rate this near to a whole number of frames a second is that number.
_ROUNDED = 2e-3


def read_bvh(path: str | pathlib.Path, unit_m: float = 1.0) -> ArticulatedMotion:
    """Returns the motion of a BVH file with its unit of length in metres, `unit_m`, which the format does not store.

    Raises:
      ValueError: the file is malformed; the message names file, line and value.
    """
    path = pathlib.Path(path)
    reader = _Lines(path)
    reader.expect("HIERARCHY")
    joints: list[_Joint] = []
    heading = reader.next()
    if heading.words[0].upper() != "ROOT":
        heading.fail("expected ROOT")
    _read_joint(reader, heading, -1, joints)
    motion = reader.next()
    if motion.words[0].upper() == "ROOT":
        motion.fail("a second ROOT; only files with one figure are supported")
    if motion.words != ("MOTION",):
        motion.fail("expected MOTION")
    values, fps = _read_values(reader, sum(len(joint.channels) for joint in joints))

    rotations = np.empty((len(values), len(joints), 3, 3))
    root_position_m = np.zeros((len(values), 3))
    column = 0
    for i, joint in enumerate(joints):
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [k for k, channel in enumerate(joint.channels) if channel in _ROTATIONS]
        letters = "".join(joint.channels[k][0] for k in turns)
        rotations[:, i] = euler_matrix(letters, np.radians(own[:, turns]))
        if i == 0:
            root_position_m = own[:, [joint.channels.index(channel) for channel in _POSITIONS]] * unit_m
    return ArticulatedMotion(
        source=str(path),
        fps=fps,
        names=tuple(joint.name for joint in joints),
        parents=tuple(joint.parent for joint in joints),
        offsets_m=np.stack([np.zeros(3), *(joint.offset for joint in joints[1:])]) * unit_m,
        tips_m=np.stack([joint.tip for joint in joints]) * unit_m,
        root_position_m=root_position_m,
        joint_rotations=rotations,
    )


class _Joint:
    def __init__(self, name: str, parent: int):
        self.name, self.parent = name, parent
        self.offset: np.ndarray | None = None
        self.channels: tuple[str, ...] = ()
        self.tip = np.full(3, np.nan)


class _Lines:
    """Reads the lines of a file one after the other."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._lines = read_lines(path)
        self._position = 0

    def next(self) -> Line:
        if self._position == len(self._lines):
            raise ValueError(f"{self.path}: the file ends too early; it may be cut off")
        self._position += 1
        return self._lines[self._position - 1]

    def expect(self, *words: str) -> Line:
        line = self.next()
        if line.words[: len(words)] != words:
            line.fail(f"expected {' '.join(words)!r}")
        return line

    def rest(self) -> list[Line]:
        return self._lines[self._position :]


def _read_joint(reader: _Lines, heading: Line, parent: int, joints: list[_Joint]) -> None:
    if len(heading.words) != 2:
        heading.fail("expected one word as the joint's name")
    joint = _Joint(heading.words[1], parent)
    if joint.name in {other.name for other in joints}:
        heading.fail("the name of the joint is taken")
    index = len(joints)
    joints.append(joint)
    reader.expect("{")
    while True:
        line = reader.next()
        word = line.words[0].upper()
        if word == "OFFSET":
            joint.offset = line.numbers(3)
        elif word == "CHANNELS":
            joint.channels = _channels(line, parent)
        elif word == "JOINT":
            _read_joint(reader, line, index, joints)
        elif word == "END":
            reader.expect("{")
            joint.tip = reader.expect("OFFSET").numbers(3)
            reader.expect("}")
        elif word == "}":
            break
        else:
            line.fail("expected OFFSET, CHANNELS, JOINT, End Site or }")
    if joint.offset is None or not joint.channels:
        line.fail(f"joint {joint.name!r}, which ends here, has no {'OFFSET' if joint.offset is None else 'CHANNELS'}")


def _channels(line: Line, parent: int) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in line.words[2:])
    if len(line.words) < 2 or not line.words[1].isdecimal() or int(line.words[1]) != len(channels):
        line.fail(f"expected the number of channels, then their names; there are {len(channels)} names")
    wanted = sorted(_ROTATIONS + (_POSITIONS if parent < 0 else ()))
    if sorted(channels) != wanted:
        whose = "the root's channels" if parent < 0 else "the channels of a joint below the root"
        line.fail(f"{whose} must be {', '.join(wanted)} in some order")
    return channels


def _read_values(reader: _Lines, num_channels: int) -> tuple[np.ndarray, float]:
    """Returns the channel values (F, number of channels) and the frame rate."""
    frames = reader.expect("Frames:")
    (count,) = frames.numbers(1)
    if count < 1 or count != int(count):
        frames.fail("the number of frames must be a positive whole number")
    time = reader.expect("Frame", "Time:")
    (seconds,) = time.numbers(1, first=2)
    if seconds <= 0:
        time.fail("the frame time must be positive")
    lines = reader.rest()
    if len(lines) != count:
        frames.fail(f"expected {int(count)} frames, got {len(lines)}; the file may be cut off")
    fps = 1.0 / seconds
    whole = round(fps)
    if abs(fps - whole) <= _ROUNDED * fps:
        fps = float(whole)
    return np.stack([line.numbers(num_channels, first=0) for line in lines]), fps
