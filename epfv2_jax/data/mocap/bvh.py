"""Reads Biovision hierarchies (BVH) as programs write them.

Programs differ in the case of the keywords, in spaces and colons, in names with spaces, in `Frames:` off by one, in
rows broken over several lines, and in position channels of joints below the root. Where they differ the reader follows
what the files hold (our choice; the format has no standard).
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.mocap.lines import MAX_JOINT_FRAMES, MAX_JOINTS, Line, read_lines
from epfv2_jax.geometry.rotations import euler_matrix

_ROTATIONS = ("xrotation", "yrotation", "zrotation")
_POSITIONS = ("xposition", "yposition", "zposition")
# Files round the frame time, 1/30 s to 0.0333: a rate this near to a whole number of frames a second is that number.
_ROUNDED = 2e-3
_RATES = (5.0, 1000.0)  # frames a second

# Of the size of the figure. A joint below the root that moves against its parent by more than the first carries the
# figure, if all joints but few are below or above it; others may move by less than the second, and stay at their
# median.
_CARRIES, _SLIDES, _FEW = 0.02, 0.1, 3


def read_bvh(path: str | pathlib.Path, unit_m: float = 1.0) -> ArticulatedMotion:
    """Returns the motion of a BVH file with its unit of length in metres, `unit_m`, which the format does not store.

    Of several roots (a prop beside a person) the one with most joints is read. The root of the motion is the lowest
    joint that carries the figure: the file's root, or a joint below it that has positions of its own.

    Raises:
      ValueError: the file is malformed; the message names file, line and value.
    """
    path = pathlib.Path(path)
    reader = _Lines(path)
    reader.expect("HIERARCHY")
    trees: list[list[_Joint]] = []
    heading = reader.next()
    while heading.words[0].upper() == "ROOT":
        trees.append(_read_tree(reader, heading))
        heading = reader.next()
    if not trees:
        heading.fail("expected ROOT")
    if heading.words[0].upper().rstrip(":") != "MOTION":
        heading.fail("expected MOTION")
    sizes = [len(tree) for tree in trees]
    chosen = int(np.argmax(sizes))
    if len(trees) > 1 and 2 * sorted(sizes)[-2] > sizes[chosen]:
        raise ValueError(f"{path}: holds {len(trees)} figures, of {sizes} joints; give each a file of its own")
    widths = [sum(len(joint.channels) for joint in tree) for tree in trees]
    values, fps = _read_values(reader, sum(widths), widths[0] if chosen == 0 else None, sizes[chosen])
    return _motion(path, trees[chosen], values[:, sum(widths[:chosen]) :], fps, unit_m)


@dataclasses.dataclass(kw_only=True)
class _Joint:
    heading: Line
    name: str
    parent: int
    offset: np.ndarray | None = None
    channels: tuple[str, ...] | None = None
    tip: np.ndarray = dataclasses.field(default_factory=lambda: np.full(3, np.nan))


class _Lines:
    """Reads the lines of a file one after the other, each brace as a line of its own."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._lines = self._split(path)

    def next(self) -> Line:
        line = next(self._lines, None)
        if line is None:
            raise ValueError(f"{self.path}: the file ends too early; it may be cut off")
        return line

    def expect(self, word: str) -> Line:
        line = self.next()
        if line.words[0].upper() != word:
            line.fail(f"expected {word!r}")
        return line

    def rest(self) -> Iterator[Line]:
        return self._lines

    @staticmethod
    def _split(path: pathlib.Path) -> Iterator[Line]:
        for line in read_lines(path):
            for part in re.split(r"([{}])", line.text):
                if part.strip():
                    yield dataclasses.replace(line, text=part)


def _read_tree(reader: _Lines, line: Line) -> list[_Joint]:
    """Returns the joints below a ROOT, parents first."""
    joints: list[_Joint] = []
    names: set[str] = set()
    opened: list[int] = []
    while True:
        word = line.words[0].upper()
        if word == "JOINT" or (word == "ROOT" and not joints):
            name = " ".join(line.words[1:])
            if not name:
                line.fail("expected the joint's name")
            if name in names:
                line.fail("the name of the joint is taken")
            if len(joints) == MAX_JOINTS:
                line.fail(f"more than {MAX_JOINTS} joints")
            names.add(name)
            joints.append(_Joint(heading=line, name=name, parent=opened[-1] if opened else -1))
            opened.append(len(joints) - 1)
            reader.expect("{")
        elif word == "OFFSET":
            joints[opened[-1]].offset = line.numbers(3)
        elif word == "CHANNELS":
            joints[opened[-1]].channels = _channels(line)
        elif word == "END":
            reader.expect("{")
            joints[opened[-1]].tip = reader.expect("OFFSET").numbers(3)
            reader.expect("}")
        elif word == "}":
            joint = joints[opened.pop()]
            if joint.offset is None or joint.channels is None:
                missing = "OFFSET" if joint.offset is None else "CHANNELS"
                line.fail(f"joint {joint.name!r}, which ends here, has no {missing}")
            if not opened:
                return joints
        else:
            line.fail("expected OFFSET, CHANNELS, JOINT, End Site or }")
        line = reader.next()


def _channels(line: Line) -> tuple[str, ...]:
    channels = tuple(word.lower() for word in line.words[2:])
    if line.words[1:2] != (str(len(channels)),):
        line.fail(f"expected the number of channels, then their names; there are {len(channels)} names")
    if len(set(channels)) != len(channels) or not set(channels) <= {*_ROTATIONS, *_POSITIONS}:
        line.fail(f"channels may be each of {', '.join(_ROTATIONS + _POSITIONS)} once")
    return channels


def _read_values(reader: _Lines, width: int, other_width: int | None, num_joints: int) -> tuple[np.ndarray, float]:
    """Returns the channel values (F, number of channels) and the frame rate.

    Rows have `width` numbers, or all of them `other_width`: some files give a second root no values.
    """
    frames = reader.next()
    announced = _value(frames, r"frames\s*:?\s*(\S+)", "expected 'Frames:' and a number")
    if announced < 1 or announced != int(announced):
        frames.fail("the number of frames must be a positive whole number")
    time = reader.next()
    seconds = _value(time, r"frame\s*time\s*:?\s*(\S+)", "expected 'Frame Time:' and a number")
    if not 1 / _RATES[1] * (1 - _ROUNDED) <= seconds <= 1 / _RATES[0]:
        time.fail("the frame time must be positive, in seconds, of {} to {} frames a second".format(*map(int, _RATES)))
    rows: list[np.ndarray] = []
    started: Line | None = None  # where a row began that continues on the next line
    pending = np.zeros(0)
    for line in reader.rest():
        own = line.numbers(None, first=0)
        if not rows and started is None and other_width is not None and len(own) == other_width:
            width = other_width
        started, pending = (started or line), (np.concatenate([pending, own]) if len(pending) else own)
        if len(pending) > width:
            break
        if len(pending) == width:
            rows.append(pending)
            started, pending = None, np.zeros(0)
            if len(rows) * max(num_joints, width / 6) > MAX_JOINT_FRAMES:
                line.fail(f"more than {MAX_JOINT_FRAMES} frames times joints; cut the file into shorter clips")
    if started is not None:
        started.fail(f"expected {width} numbers, got {len(started.words)}; the file may be cut off here")
    if abs(len(rows) - announced) > 1 or not rows:
        frames.fail(f"expected {int(announced)} frames, got {len(rows)}; the file may be cut off")
    fps = 1.0 / seconds
    whole = round(fps)
    return np.stack(rows), float(whole) if abs(fps - whole) <= _ROUNDED * fps else fps


def _value(line: Line, pattern: str, expected: str) -> float:
    match = re.fullmatch(pattern, line.text.strip(), re.IGNORECASE)
    if match is None:
        line.fail(expected)
    return line.number_of(match.group(1))


def _motion(
    path: pathlib.Path, joints: list[_Joint], values: np.ndarray, fps: float, unit_m: float
) -> ArticulatedMotion:
    """Returns the motion of a tree, given the values (F, ...) of its channels, which come first."""
    rotations = np.empty((len(values), len(joints), 3, 3))
    positions: dict[int, np.ndarray] = {}
    column = 0
    for i, joint in enumerate(joints):
        own = values[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        turns = [k for k, channel in enumerate(joint.channels) if channel in _ROTATIONS]
        letters = "".join(joint.channels[k][0] for k in turns)
        rotations[:, i] = euler_matrix(letters, np.radians(own[:, turns]))
        if set(joint.channels) & set(_POSITIONS):
            positions[i] = np.zeros((len(values), 3)) if i == 0 else np.tile(joint.offset, (len(values), 1))
            for axis, channel in enumerate(_POSITIONS):
                if channel in joint.channels:
                    positions[i][:, axis] = own[:, joint.channels.index(channel)]
    root_position = positions.pop(0, np.zeros((len(values), 3)))
    offsets = np.stack([np.zeros(3), *(joint.offset for joint in joints[1:])])
    carrier = _resolve_positions(joints, positions, offsets)

    root_rotation = rotations[:, 0]
    for i in _path(joints, carrier)[1:]:
        shift = positions.get(i, offsets[i][None])
        root_position = root_position + (root_rotation @ shift[..., None])[..., 0]
        root_rotation = root_rotation @ rotations[:, i]
    stop = _stop(joints, carrier)
    offsets[carrier], rotations[:, carrier] = 0.0, root_rotation
    return ArticulatedMotion(
        source=str(path),
        fps=fps,
        names=tuple(joint.name for joint in joints[carrier:stop]),
        parents=(-1, *(joint.parent - carrier for joint in joints[carrier + 1 : stop])),
        offsets_m=offsets[carrier:stop] * unit_m,
        tips_m=np.stack([joint.tip for joint in joints[carrier:stop]]) * unit_m,
        root_position_m=root_position * unit_m,
        joint_rotations=rotations[:, carrier:stop],
    )


def _resolve_positions(joints: list[_Joint], positions: dict[int, np.ndarray], offsets: np.ndarray) -> int:
    """Returns the joint that carries the figure; makes `positions` those from the parent, and `offsets` their medians.

    Position channels replace a joint's OFFSET, as in Blender and MotionBuilder. Files whose position channels stay near
    zero while the offsets do not give the change of the offset instead.
    """
    if not positions:
        return 0
    middle = {i: np.median(value, axis=0) for i, value in positions.items()}
    given = sum(np.linalg.norm(offsets[i]) for i in positions)
    if sum(map(np.linalg.norm, middle.values())) < 0.1 * given:
        for i, value in positions.items():
            positions[i] = value + offsets[i]
            middle[i] = middle[i] + offsets[i]
    for i, value in middle.items():
        offsets[i] = value
    rest = np.zeros_like(offsets)
    for i, joint in enumerate(joints[1:], start=1):
        rest[i] = rest[joint.parent] + offsets[i]
    size = float(np.ptp(rest, axis=0).max())
    carrier = 0
    for i, value in positions.items():
        moved = float(np.linalg.norm(value - middle[i], axis=-1).max())
        if moved > _CARRIES * size and i + len(joints) - _stop(joints, i) < len(_path(joints, i)) + _FEW:
            carrier = i
        else:
            name = f"{joints[i].heading.path}: path of joint {joints[i].name!r} against its parent, in figure sizes"
            checks.within(0.0, _SLIDES, **{name: round(moved / size, 3) if size else moved})
    return carrier


def _path(joints: list[_Joint], joint: int) -> list[int]:
    """Returns the joints from the root down to `joint`."""
    path = [joint]
    while path[0] > 0:
        path.insert(0, joints[path[0]].parent)
    return path


def _stop(joints: list[_Joint], joint: int) -> int:
    """Returns the first joint after those below `joint`, which follow it."""
    return next((k for k in range(joint + 1, len(joints)) if joints[k].parent < joint), len(joints))
