"""Reads Acclaim skeletons (ASF) and motions (AMC), the format of the CMU motion capture database."""

import dataclasses
import pathlib

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.mocap.lines import MAX_JOINT_FRAMES, MAX_JOINTS, Line, read_lines
from epfv2_jax.geometry.rotations import euler_matrix

_INCH_M = 0.0254
_SECTIONS = (":version", ":name", ":units", ":documentation", ":root", ":bonedata", ":hierarchy", ":skin")
_MAX_LINES = 100_000  # of an ASF file: a hundred for each of as many bones as are read
_DOFS = ("rx", "ry", "rz")
_ROOT_DOFS = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsfSkeleton:
    """The skeleton of an ASF file. Bone 0 is the root, a point. The joint of a bone is its start, its parent's end."""

    source: str
    unit_m: float  # length of one file unit
    degrees: bool
    names: tuple[str, ...]
    parents: tuple[int, ...]
    bones_m: np.ndarray  # (N, 3) from the bone's start to its end, in the rest pose
    axes: np.ndarray  # (N, 3, 3) R_world_bone in the rest pose: the axes that the rotations of the AMC file are about
    dofs: tuple[tuple[str, ...], ...]  # in the order of the AMC values; the first is applied first


def find_asf(amc: pathlib.Path) -> pathlib.Path:
    """Returns the skeleton of an AMC file: beside it, with the longest name that the AMC file's continues after a `_`.

    `01_05.amc` has `01.asf` (CMU), `HDM_bd_01-01_01_120.amc` has `HDM_bd.asf` (HDM05), in any case of the letters.

    Raises:
      ValueError: there is none.
    """
    files.check_file(amc)
    beside = sorted(path for path in amc.parent.iterdir() if path.suffix.lower() == ".asf")
    name = f"{amc.stem}_".lower()
    found = [path for path in beside if name.startswith(f"{path.stem}_".lower())]
    wanted = amc.with_name(f"{amc.stem.partition('_')[0]}.asf")
    there = f" (there are {', '.join(path.name for path in beside[:5])})" if beside else ""
    checks.not_empty(f"{wanted}: no such file", found, f"put the subject's ASF beside {amc}{there}")
    return max(found, key=lambda path: len(path.stem))


def read_asf(path: str | pathlib.Path) -> AsfSkeleton:
    """Returns the skeleton of an ASF file, whose unit of length u means u file units to the inch (CMU: 0.45).

    Raises:
      ValueError: the file is malformed or not supported; the message names file, line and value.
    """
    path = pathlib.Path(path)
    sections = _split_sections(path)
    unit_m, degrees = _read_units(sections[":units"])
    root_dofs = _read_root(sections[":root"])
    bones = _read_bones(sections[":bonedata"], degrees)
    parents = _read_hierarchy(sections[":hierarchy"], bones)

    names = _depth_first(parents)
    missing = sorted(set(bones) - set(names))
    if missing:
        bones[missing[0]].line.fail(f"bone {missing[0]!r} is not below 'root' in :hierarchy; add it there")
    return AsfSkeleton(
        source=str(path),
        unit_m=unit_m,
        degrees=degrees,
        names=tuple(names),
        parents=(-1, *(names.index(parents[name]) for name in names[1:])),
        bones_m=np.stack([np.zeros(3), *(bones[name].vector * unit_m for name in names[1:])]),
        axes=np.stack([np.eye(3), *(bones[name].axes for name in names[1:])]),
        dofs=(root_dofs, *(bones[name].dofs for name in names[1:])),
    )


def read_amc(path: str | pathlib.Path, skeleton: AsfSkeleton, fps: float) -> ArticulatedMotion:
    """Returns the motion of an AMC file on its skeleton, with the frame rate `fps`, which the format does not state.

    Raises:
      ValueError: the file is malformed or does not fit the skeleton; the message names file, line and value.
    """
    path = pathlib.Path(path)
    values = _read_frames(path, skeleton)

    to_rad = np.pi / 180.0 if skeleton.degrees else 1.0
    num_frames = len(values["root"])
    rotations = np.empty((num_frames, len(skeleton.names), 3, 3))
    for i, (name, dofs) in enumerate(zip(skeleton.names, skeleton.dofs, strict=True)):
        turns = [k for k, dof in enumerate(dofs) if dof in _DOFS]
        letters = "".join(dofs[k][1] for k in reversed(turns))
        turned = euler_matrix(letters, values[name][:, turns[::-1]] * to_rad)
        rotations[:, i] = skeleton.axes[i] @ turned @ skeleton.axes[i].T
    offsets_m = np.stack([np.zeros(3), *(skeleton.bones_m[parent] for parent in skeleton.parents[1:])])
    shifts = [skeleton.dofs[0].index(dof) for dof in _ROOT_DOFS[:3]]
    return ArticulatedMotion(
        source=str(path),
        fps=fps,
        names=skeleton.names,
        parents=skeleton.parents,
        offsets_m=offsets_m,
        tips_m=skeleton.bones_m,
        root_position_m=values["root"][:, shifts] * skeleton.unit_m,
        joint_rotations=rotations,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bone:
    line: Line
    vector: np.ndarray  # (3,) file units
    axes: np.ndarray  # (3, 3)
    dofs: tuple[str, ...]


def _split_sections(path: pathlib.Path) -> dict[str, list[Line]]:
    """Returns the lines of each section, its heading first."""
    sections: dict[str, list[Line]] = {}
    current = None
    for line in read_lines(path):
        if line.number > _MAX_LINES:
            line.fail(f"more than {_MAX_LINES} lines; is this an ASF file?")
        if line.words[0].startswith(":"):
            current = line.words[0].lower()
            if current not in _SECTIONS:
                line.fail(f"unknown section; expected one of {', '.join(_SECTIONS)}")
            if current in sections:
                line.fail("the section occurs twice")
            sections[current] = []
        elif current is None:
            line.fail("text before the first section; is this an ASF file?")
        sections[current].append(line)
    for name in (":units", ":root", ":bonedata", ":hierarchy"):
        if name not in sections:
            raise ValueError(f"{path}: section {name} is missing; the file may be cut off")
    return sections


def _read_units(lines: list[Line]) -> tuple[float, bool]:
    fields = {line.words[0].lower(): line for line in lines[1:]}
    for name in ("length", "angle"):
        if name not in fields:
            lines[0].fail(f"no line '{name}' in :units")
    (length,) = fields["length"].numbers(1)
    if not 1e-4 <= length <= 1e6:
        fields["length"].fail("the unit of length must be positive, the units in an inch (2.54 for cm)")
    unit = " ".join(fields["angle"].words[1:]).lower()
    if unit not in ("deg", "rad"):
        fields["angle"].fail("the unit of angles must be 'deg' or 'rad'")
    return _INCH_M / length, unit == "deg"


def _read_root(lines: list[Line]) -> tuple[str, ...]:
    fields = {line.words[0].lower(): line for line in lines[1:]}
    for name in ("order", "axis", "position", "orientation"):
        if name not in fields:
            lines[0].fail(f"no line '{name}' in :root")
    dofs = tuple(word.lower() for word in fields["order"].words[1:])
    if sorted(dofs) != sorted(_ROOT_DOFS):
        fields["order"].fail(f"the root's order must name each of {' '.join(_ROOT_DOFS).upper()} once")
    turns = "".join(dof[1] for dof in dofs if dof in _DOFS)
    if tuple(word.lower() for word in fields["axis"].words[1:]) != (turns,):
        fields["axis"].fail(f"the root's axis must name the rotations in the order of 'order', {turns.upper()}")
    for name in ("position", "orientation"):
        if fields[name].numbers(3).any():
            fields[name].fail(f"a root {name} other than 0 0 0 is not supported; move it into the AMC file")
    return dofs


def _read_bones(lines: list[Line], degrees: bool) -> dict[str, _Bone]:
    bones: dict[str, _Bone] = {}
    fields: dict[str, Line] | None = None
    for line in lines[1:]:
        word = line.words[0].lower()
        if word == "begin":
            if fields is not None:
                line.fail("'begin' inside a bone; the 'end' before it is missing")
            fields = {}
        elif fields is None:
            line.fail("expected 'begin'")
        elif word == "end":
            bone = _bone(line, fields, degrees)
            name = fields["name"].words[1]
            if name in bones or name == "root":
                fields["name"].fail("the name of the bone is taken")
            if len(bones) == MAX_JOINTS:
                line.fail(f"more than {MAX_JOINTS} bones")
            bones[name] = bone
            fields = None
        elif word in ("id", "name", "direction", "length", "axis", "dof", "limits", "bodymass", "cofmass"):
            if word in fields:
                line.fail(f"'{word}' occurs twice in one bone")
            fields[word] = line
        elif not word.startswith("("):  # further lines of `limits`
            line.fail("unknown field of a bone")
    if fields is not None:
        lines[-1].fail("the last bone has no 'end'; the file may be cut off")
    return bones


def _bone(end: Line, fields: dict[str, Line], degrees: bool) -> _Bone:
    for name in ("name", "direction", "length", "axis"):
        if name not in fields:
            end.fail(f"the bone that ends here has no '{name}'")
    if len(fields["name"].words) != 2:
        fields["name"].fail("expected one word as the bone's name")
    direction = fields["direction"].numbers(3)
    norm = np.linalg.norm(direction)
    if abs(norm - 1.0) > 1e-3:
        fields["direction"].fail(f"a bone's direction must have length 1, got {norm:.4g}")
    (length,) = fields["length"].numbers(1)
    if length < 0:
        fields["length"].fail("a bone's length must not be negative")
    axis = fields["axis"]
    order = axis.words[-1].lower()
    if sorted(order) != ["x", "y", "z"] or len(axis.words) != 5:
        axis.fail("expected three angles and their order, such as XYZ")
    angles = np.array([axis.number_of(word) for word in axis.words[1:4]]) * (np.pi / 180.0 if degrees else 1.0)
    dofs = tuple(word.lower() for word in fields["dof"].words[1:]) if "dof" in fields else ()
    if len(set(dofs)) != len(dofs) or not set(dofs) <= set(_DOFS):
        fields["dof"].fail(f"a bone's dof may name each of {', '.join(_DOFS)} once")
    return _Bone(
        line=fields["name"],
        vector=direction / norm * length,
        axes=euler_matrix(order[::-1], angles[::-1]),
        dofs=dofs,
    )


def _read_hierarchy(lines: list[Line], bones: dict[str, _Bone]) -> dict[str, str]:
    """Returns the parent of each bone."""
    parents: dict[str, str] = {}
    if len(lines) < 3 or lines[1].words != ("begin",) or lines[-1].words != ("end",):
        lines[-1].fail("expected 'begin', the bones and 'end' in :hierarchy; the file may be cut off")
    for line in lines[2:-1]:
        for name in line.words:
            if name not in bones and name != "root":
                line.fail(f"bone {name!r} is not in :bonedata")
        for child in line.words[1:]:
            if child in parents or child == "root":
                line.fail(f"bone {child!r} has two parents")
            parents[child] = line.words[0]
    return parents


def _depth_first(parents: dict[str, str]) -> list[str]:
    """Returns the root and all bones below it, parents first."""
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    names, waiting = [], ["root"]
    while waiting:
        names.append(waiting.pop())
        waiting += reversed(children.get(names[-1], []))
    return names


def _read_frames(path: pathlib.Path, skeleton: AsfSkeleton) -> dict[str, np.ndarray]:
    """Returns the values (F, number of dofs) of each bone."""
    counts = {name: len(dofs) for name, dofs in zip(skeleton.names, skeleton.dofs, strict=True)}
    stops = dict(zip(counts, np.cumsum(list(counts.values())).tolist(), strict=True))
    moving = {name for name, count in counts.items() if count}
    header: set[str] = set()
    frames: list[np.ndarray] = []
    heading = None
    missing: set[str] = set()  # bones of the current frame
    for line in read_lines(path):
        words = line.words
        if heading is None and words[0].startswith(":"):
            header.add(words[0].upper())
        elif len(words) == 1 and words[0].isdecimal():
            _check_complete(heading, missing)
            if heading is None:
                _check_amc_header(path, header, skeleton)
            elif line.number_of(words[0]) != heading.number_of(heading.words[0]) + 1:
                line.fail(
                    f"frame {words[0][:12]} follows frame {heading.words[0]}; frames must be numbered without gaps"
                )
            if (len(frames) + 1) * len(counts) > MAX_JOINT_FRAMES:
                line.fail(f"more than {MAX_JOINT_FRAMES} frames times bones; cut the file into shorter clips")
            heading, missing = line, set(moving)
            frames.append(np.zeros(sum(counts.values())))
        elif heading is None:
            line.fail("expected the number of the first frame")
        elif words[0] not in counts:
            line.fail(f"bone {words[0][:40]!r} is not in {skeleton.source}")
        elif words[0] not in missing:
            line.fail(
                f"bone {words[0]!r} occurs twice in frame {heading.words[0]}, or its dof is empty in the ASF file"
            )
        else:
            missing.discard(words[0])
            frames[-1][stops[words[0]] - counts[words[0]] : stops[words[0]]] = line.numbers(counts[words[0]])
    if heading is None:
        _check_amc_header(path, header, skeleton)
    checks.not_empty(f"{path}: frames", frames, "the file may be cut off")
    _check_complete(heading, missing)
    values = np.stack(frames)
    return {name: values[:, stops[name] - counts[name] : stops[name]] for name in counts}


def _check_amc_header(path: pathlib.Path, header: set[str], skeleton: AsfSkeleton) -> None:
    if ":FULLY-SPECIFIED" not in header:
        raise ValueError(f"{path}: no line :FULLY-SPECIFIED before the frames; is this an AMC file?")
    unit = ":DEGREES" if skeleton.degrees else ":RADIANS"
    if unit not in header:
        raise ValueError(f"{path}: no line {unit} before the frames; {skeleton.source} gives its angles in this unit")


def _check_complete(heading: Line | None, missing: set[str]) -> None:
    if missing:
        bone = min(missing)
        heading.fail(f"frame {heading.words[0]} has no line for bone {bone!r}; the file may be cut off")
