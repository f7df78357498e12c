"""A walking figure of our own as an array, and its writers: BVH in the manner of any program, and ASF/AMC."""

import dataclasses
import pathlib
import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy.spatial.transform import Rotation

# Name, parent and offset from it in a T-pose, cm, y up, facing z.
_JOINTS = (
    ("Hips", "", (0, 0, 0)),
    ("Spine", "Hips", (0, 10, 0)),
    ("Spine1", "Spine", (0, 12, 0)),
    ("Neck", "Spine1", (0, 22, 0)),
    ("Head", "Neck", (0, 10, 2)),
    *(
        (f"{side}{name}", f"{side}{parent}" if parent != "Spine1" else parent, (sign * x, y, z))
        for side, sign in (("Left", 1), ("Right", -1))
        for name, parent, (x, y, z) in (
            ("Shoulder", "Spine1", (4, 18, 0)),
            ("Arm", "Shoulder", (13, 0, 0)),
            ("ForeArm", "Arm", (28, 0, 0)),
            ("Hand", "ForeArm", (25, 0, 0)),
        )
    ),
    *(
        (f"{side}{name}", f"{side}{parent}" if parent != "Hips" else parent, (sign * x, y, z))
        for side, sign in (("Left", 1), ("Right", -1))
        for name, parent, (x, y, z) in (
            ("UpLeg", "Hips", (9, -3, 0)),
            ("Leg", "UpLeg", (0, -42, 0)),
            ("Foot", "Leg", (0, -41, 0)),
            ("ToeBase", "Foot", (0, -6, 13)),
        )
    ),
)
#: Rotations of limbs from a T-pose by angles about x and z, degrees, over the phase of the step (F,).
WALK: dict[str, Callable[[np.ndarray], tuple]] = {
    "LeftUpLeg": lambda phase: (-20 * np.sin(phase), 0 * phase),
    "RightUpLeg": lambda phase: (20 * np.sin(phase), 0 * phase),
    "LeftLeg": lambda phase: (20 + 20 * np.cos(phase), 0 * phase),
    "RightLeg": lambda phase: (20 - 20 * np.cos(phase), 0 * phase),
    "LeftArm": lambda phase: (0 * phase, 5 * np.sin(phase) - 75),
    "RightArm": lambda phase: (0 * phase, 5 * np.sin(phase) + 75),
    "LeftForeArm": lambda phase: (0 * phase, 0 * phase),
    "Head": lambda phase: (5 * np.sin(phase), 0 * phase),
}


@dataclasses.dataclass(frozen=True)
class Walker:
    """F frames of N joints, cm; rotations are local and R_world_joint at rest is the identity."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray  # (N, 3)
    rotations: np.ndarray  # (F, N, 3, 3)
    root: np.ndarray  # (F, 3)
    fps: float

    def replace(self, **changes: object) -> "Walker":
        return dataclasses.replace(self, **changes)

    def turned(self, world: np.ndarray, axes: np.ndarray) -> "Walker":
        """The same motion in a world, and on axes of joints (3, 3) or (N, 3, 3), turned or mirrored by a matrix."""
        axes = np.broadcast_to(axes, (len(self.names), 3, 3))
        above = axes[np.maximum(self.parents, 0)]
        rotations = above @ self.rotations @ np.swapaxes(axes, -1, -2)
        rotations[:, 0] = world @ self.rotations[:, 0] @ axes[0].T
        offsets = (above @ self.offsets[..., None])[..., 0]
        return self.replace(offsets=offsets, rotations=rotations, root=self.root @ np.asarray(world).T)

    def scaled(self, factor: float) -> "Walker":
        return self.replace(offsets=self.offsets * factor, root=self.root * factor)

    def renamed(self, rename: Callable[[str], str]) -> "Walker":
        return self.replace(names=tuple(map(rename, self.names)))

    def with_roll(self, name: str, share: float, twist_deg: float = 0.0) -> "Walker":
        """A roll joint `name`Roll half-way (`share`) down the bone of a joint; it turns about the bone by an angle."""
        above = self.names.index(name)
        below = self.parents.index(above)
        at = above + 1
        shift = np.array([p if p <= above else p + 1 for p in self.parents])
        parents = np.insert(shift, at, above)
        parents[below + 1] = at
        bone = self.offsets[below]
        offsets = np.insert(self.offsets, at, share * bone, axis=0)
        offsets[below + 1] = (1 - share) * bone
        twist = Rotation.from_rotvec(np.radians(twist_deg) * bone / np.linalg.norm(bone)).as_matrix()
        rotations = np.insert(self.rotations, at, twist, axis=1)
        rotations[:, below + 1] = twist.T @ self.rotations[:, below]
        names = (*self.names[:at], f"{name}Roll", *self.names[at:])
        return Walker(names, tuple(parents.tolist()), offsets, rotations, self.root, self.fps)


def walk(
    *,
    fps: float = 120.0,
    seconds: float = 1.0,
    speed_m_s: float = 1.2,
    pose: Mapping = WALK,
    leaning_deg: np.ndarray | float = 0.0,
) -> Walker:
    """A walk along z whose lowest joint is on the floor; the root leans forward by an angle, that of each frame."""
    time = np.arange(round(seconds * fps)) / fps
    names = tuple(name for name, _, _ in _JOINTS)
    parents = tuple(names.index(parent) if parent else -1 for _, parent, _ in _JOINTS)
    offsets = np.array([offset for _, _, offset in _JOINTS], float)
    rotations = np.tile(np.eye(3), (len(time), len(names), 1, 1))
    for name, angles in pose.items():
        x, z = angles(2 * np.pi * time)
        rotations[:, names.index(name)] = Rotation.from_euler("ZX", np.stack([z, x], -1), degrees=True).as_matrix()
    lean = np.broadcast_to(leaning_deg, time.shape)[:, None]
    rotations[:, 0] = Rotation.from_euler("x", lean, degrees=True).as_matrix()
    walker = Walker(names, parents, offsets, rotations, np.zeros((len(time), 3)), fps)
    lowest = world(walker)[..., 1].min(axis=1)
    return walker.replace(root=np.stack([0 * time, -lowest, 100 * speed_m_s * time], axis=-1))


def world(walker: Walker) -> np.ndarray:
    """The joints in the world (F, N, 3), cm."""
    joints, turns = [walker.root], [walker.rotations[:, 0]]
    for i in range(1, len(walker.names)):
        above = walker.parents[i]
        joints.append(joints[above] + turns[above] @ walker.offsets[i])
        turns.append(turns[above] @ walker.rotations[:, i])
    return np.stack(joints, axis=1)


def bvh_text(walker: Walker, *, order: str = "ZXY", positions: str = "", end: bool = True, unit: float = 1.0) -> str:
    """The walker as BVH. `positions`: joints below the root have position channels, `absolute` or `change`s."""
    lines = ["HIERARCHY"]
    rotations = " ".join(f"{letter}rotation" for letter in order)
    places = "Xposition Yposition Zposition "

    def write(i: int, depth: int) -> None:
        tab = "\t" * depth
        offset = " ".join(f"{v:.6f}" for v in walker.offsets[i] * unit)
        channels = f"CHANNELS 6 {places}{rotations}" if i == 0 or positions else f"CHANNELS 3 {rotations}"
        lines.extend([f"{tab}{'JOINT' if i else 'ROOT'} {walker.names[i]}", f"{tab}{{", f"{tab}\tOFFSET {offset}"])
        lines.append(f"{tab}\t{channels}")
        children = [k for k, parent in enumerate(walker.parents) if parent == i]
        for child in children:
            write(child, depth + 1)
        if not children and end:
            tip = " ".join(f"{v:.6f}" for v in 0.4 * walker.offsets[i] * unit)
            lines.extend([f"{tab}\tEnd Site", f"{tab}\t{{", f"{tab}\t\tOFFSET {tip}", f"{tab}\t}}"])
        lines.append(f"{tab}}}")

    write(0, 0)
    lines += ["MOTION", f"Frames: {len(walker.root)}", f"Frame Time: {1 / walker.fps:.7f}"]
    angles = _euler(walker.rotations, order)
    for f in range(len(walker.root)):
        row = [*(walker.root[f] * unit), *angles[f, 0]]
        for i in range(1, len(walker.names)):
            row += {"": [], "absolute": [*(walker.offsets[i] * unit)], "change": [0, 0, 0]}[positions]
            row += [*angles[f, i]]
        lines.append(" ".join(f"{v:.6f}" for v in row))
    return "\n".join(lines) + "\n"


def write_asf_amc(walker: Walker, folder: pathlib.Path, asf: str, amc: str, *, length: float = 0.45) -> pathlib.Path:
    """Writes the walker as bones named after CMU's and returns the path of the AMC file; of `length`."""
    cmu = {"Spine": "lowerback", "Spine1": "thorax", "Neck": "neck", "Head": "head"}
    for side in ("Left", "Right"):
        parts = {"Shoulder": "clavicle", "Arm": "humerus", "ForeArm": "radius", "Hand": "wrist"}
        parts |= {"UpLeg": "femur", "Leg": "tibia", "Foot": "foot", "ToeBase": "toes"}
        cmu |= {f"{side}{name}": f"{side[0].lower()}{bone}" for name, bone in parts.items()}
    # A bone starts at its joint: it ends at the first joint below. Those whose joint is off the root need one to it.
    bones, tree, values = [], {"root": []}, []
    unit = length / 2.54
    for i, name in enumerate(walker.names[1:], start=1):
        children = [k for k, parent in enumerate(walker.parents) if parent == i]
        end = walker.offsets[children[0]] if children else 0.4 * walker.offsets[i]
        parent = walker.names[walker.parents[i]]
        first = walker.parents.index(walker.parents[i])
        above = cmu.get(parent, "root")
        if above == "root" or first != i:
            link = f"{cmu[name]}joint"
            gap = walker.offsets[i] - (0 if above == "root" else walker.offsets[first])
            bones.append((link, gap, ""))
            tree.setdefault(above, []).append(link)
            above = link
        bones.append((cmu[name], end, "dof rx ry rz"))
        tree.setdefault(above, []).append(cmu[name])
        values.append((cmu[name], i))
    text = [":version 1.10", ":name OWN", ":units", f"  length {length}", "  angle deg", ":root"]
    text += ["  order TX TY TZ RX RY RZ", "  axis XYZ", "  position 0 0 0", "  orientation 0 0 0", ":bonedata"]
    for name, bone, dof in bones:
        size = np.linalg.norm(bone)
        direction = " ".join(f"{v:.8f}" for v in (bone / size if size else (0, 1, 0)))
        text += ["  begin", f"    name {name}", f"    direction {direction}", f"    length {size * unit:.8f}"]
        text += ["    axis 0 0 0 XYZ", *([f"    {dof}"] if dof else []), "  end"]
    text += [":hierarchy", "  begin", *(f"    {a} {' '.join(b)}" for a, b in tree.items() if b), "  end"]
    (folder / asf).write_text("\n".join(text) + "\n")
    # AMC's rotations are about x, then y, then z of the axes at rest.
    angles = _euler(walker.rotations, "xyz")
    rows = [":FULLY-SPECIFIED", ":DEGREES"]
    for f in range(len(walker.root)):
        rows += [str(f + 1), "root " + " ".join(f"{v:.7f}" for v in (*(walker.root[f] * unit), *angles[f, 0]))]
        rows += [name + " " + " ".join(f"{v:.7f}" for v in angles[f, i]) for name, i in values]
    (folder / amc).write_text("\n".join(rows) + "\n")
    return folder / amc


def _euler(rotations: np.ndarray, order: str) -> np.ndarray:
    """Angles (F, N, 3), degrees."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock")  # any of the angles will do
        angles = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_euler(order, degrees=True)
    return angles.reshape(*rotations.shape[:2], 3)
