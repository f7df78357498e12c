"""Real motion for the synthetic people: motion capture files (ASF/AMC, BVH) retargeted to the 26 joints.

Retargeting is direct and kinematic (our choice): every target joint takes the global turn of its source body part, on
top of the constant turn that lays the target's rest bone along the source's. Thighs, shins and upper arms keep the
subject's own length (mean of left and right); everything else keeps the rest proportions, scaled by the length of the
legs. The forearm is scaled with the upper arm, because files of one and the same subject differ in where the wrist
is.
"""

import dataclasses
import pathlib

import numpy as np

from epfv2_jax.data.mocap import articulated, asf_amc, bvh
from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.synthetic.motion import MotionClip
from epfv2_jax.geometry import skeleton

#: Frames a second of every clip that `load_clip` returns: that of the data set.
CLIP_FPS = 30.0

#: Units in which BVH files come, metres; the CMU one is that of its ASF files, 1/0.45 inch.
BVH_UNITS_M: dict[str, float] = {
    "metre": 1.0,
    "CMU unit": 0.0254 / 0.45,
    "inch": 0.0254,
    "centimetre": 0.01,
    "millimetre": 0.001,
}

#: Names under which files know the parts of the body that retargeting needs, for the left side or the middle, lower
#: case. The first that the file has is taken.
PART_NAMES: dict[str, tuple[str, ...]] = {
    "head": ("head",),
    "l_upper_arm": ("lhumerus", "leftarm"),
    "l_forearm": ("lradius", "leftforearm"),
    "l_thigh": ("lfemur", "leftupleg"),
    "l_shin": ("ltibia", "leftleg"),
    "l_foot": ("lfoot", "leftfoot"),
    "l_toes": ("ltoes", "lefttoebase", "lefttoe"),
}

_LEG_RANGE_M = (0.6, 1.15)  # thigh and shin of anybody from a ten-year-old to the tallest
_REST = np.asarray(skeleton.REST_OFFSETS_M)
_JOINT = {name: i for i, name in enumerate(skeleton.JOINT_NAMES)}


def load_clip(path: str | pathlib.Path, amc_fps: float = CLIP_FPS, bvh_unit_m: float | None = None) -> MotionClip:
    """Returns the motion of an AMC or BVH file on the 26 joints at 30 frames a second, the lowest foot joint at y = 0.

    An AMC file finds its skeleton by its subject's number: `01_05.amc` needs `01.asf` beside it. `amc_fps` is the
    frame rate of an AMC file, which does not say it. `bvh_unit_m` is the unit of length of a BVH file, which does not
    say it either; by default the one of `BVH_UNITS_M` that gives the legs a human length.

    Raises:
      ValueError: a file is missing, malformed, of unknown type, or its figure lacks a body part; the message says
      what to do.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".amc":
        subject = path.stem.partition("_")[0]
        asf = path.with_name(f"{subject}.asf")
        if not asf.is_file():
            raise ValueError(f"{path}: its skeleton {asf} does not exist; put the subject's ASF beside the AMC file")
        motion = asf_amc.read_amc(path, asf_amc.read_asf(asf), amc_fps)
    elif path.suffix.lower() == ".bvh":
        motion = _without_reference_pose(_in_metres(bvh.read_bvh(path), bvh_unit_m))
    else:
        raise ValueError(f"{path}: unknown type of motion file {path.suffix!r}; expected .amc or .bvh")
    return retarget(articulated.decimated(motion, CLIP_FPS))


def retarget(motion: ArticulatedMotion) -> MotionClip:
    """Returns `motion` on the 26 joints, with bones of constant length.

    Raises:
      ValueError: the figure lacks a body part, or does not rest upright with y up, facing z.
    """
    body = _find_body(motion)
    turned, source_m = articulated.world_pose(motion)
    rotations = _world_rotations(motion, body, turned)
    offsets_m = _offsets(motion, body)
    root_rotation = turned[:, 0]
    root_m = 0.5 * (source_m[:, body["l_thigh"]] + source_m[:, body["r_thigh"]])

    joints_m = np.empty(rotations.shape[:-1])
    local = np.empty_like(rotations)
    for joint in (j for level in skeleton.DEPTH_LEVELS for j in level):
        parent = skeleton.PARENTS[joint]
        parent_rotation, parent_m = (
            (root_rotation, root_m) if parent < 0 else (rotations[:, parent], joints_m[:, parent])
        )
        joints_m[:, joint] = parent_m + parent_rotation @ offsets_m[joint]
        local[:, joint] = np.swapaxes(parent_rotation, -1, -2) @ rotations[:, joint]
    floor_m = joints_m[:, list(skeleton.METRIC_GROUPS["foot"]), 1].min()
    return MotionClip(
        fps=motion.fps,
        root_rotation=root_rotation.astype(np.float32),
        root_position_m=(root_m - [0.0, floor_m, 0.0]).astype(np.float32),
        joint_rotations=local.astype(np.float32),
        offsets_m=offsets_m.astype(np.float32),
    )


def _in_metres(motion: ArticulatedMotion, unit_m: float | None) -> ArticulatedMotion:
    if unit_m is None:
        leg = _leg_length(motion, _find_body(motion))
        fitting = [unit for unit in BVH_UNITS_M.values() if _LEG_RANGE_M[0] <= leg * unit <= _LEG_RANGE_M[1]]
        if len(fitting) != 1:
            raise ValueError(
                f"{motion.source}: legs of {leg:.4g} units are of human length in none of {', '.join(BVH_UNITS_M)}; "
                "say the unit (bvh_unit_m)"
            )
        (unit_m,) = fitting
    return dataclasses.replace(
        motion,
        offsets_m=motion.offsets_m * unit_m,
        tips_m=motion.tips_m * unit_m,
        root_position_m=motion.root_position_m * unit_m,
    )


def _without_reference_pose(motion: ArticulatedMotion) -> ArticulatedMotion:
    """The motion without its first frame, where that is a pose put before the motion (a T-pose, usual in BVH files).

    It is told by the step after it: more than five times any of the next second's.
    """
    num_steps = min(motion.num_frames, 2 + round(motion.fps)) - 1
    steps = np.linalg.norm(np.diff(motion.joint_rotations[: num_steps + 1], axis=0), axis=(-2, -1)).mean(-1)
    if num_steps < 2 or steps[0] <= 5.0 * steps[1:].max():
        return motion
    return dataclasses.replace(
        motion, root_position_m=motion.root_position_m[1:], joint_rotations=motion.joint_rotations[1:]
    )


def _find_body(motion: ArticulatedMotion) -> dict[str, int]:
    """The source joint of each part; checks that the figure rests as retargeting expects."""
    index = {name.lower(): i for i, name in reversed(list(enumerate(motion.names)))}
    body = {}
    for part, left_names in PART_NAMES.items():
        sides = {part: left_names}
        if part.startswith("l_"):
            sides["r_" + part[2:]] = tuple(_right_name(name) for name in left_names)
        for side, names in sides.items():
            found = [index[name] for name in names if name in index]
            if not found:
                raise ValueError(
                    f"{motion.source}: no joint for the {side.replace('_', ' ')}; "
                    f"rename it to one of {', '.join(names)}"
                )
            body[side] = found[0]
    rest_m = np.zeros((len(motion.parents), 3))
    for joint, parent in enumerate(motion.parents[1:], start=1):
        rest_m[joint] = rest_m[parent] + motion.offsets_m[joint]
    left = rest_m[body["l_thigh"]] - rest_m[body["r_thigh"]]
    up = rest_m[body["head"]] - rest_m[body["l_foot"]]
    if left[0] < 0.8 * np.linalg.norm(left) or up[1] < 0.8 * np.linalg.norm(up) or not left.any():
        raise ValueError(
            f"{motion.source}: the rest pose must stand upright, y up, facing z (its left along x); its left is "
            f"{left.round(3).tolist()} and head above foot {up.round(3).tolist()}; turn the file's rest pose"
        )
    return body


def _right_name(name: str) -> str:
    return "right" + name[len("left") :] if name.startswith("left") else "r" + name[1:]


def _path_down(motion: ArticulatedMotion, top: int, bottom: int) -> list[int]:
    """The joints strictly below `top` down to `bottom`; empty where they are the same."""
    path = []
    while bottom != top:
        path.append(bottom)
        bottom = motion.parents[bottom]
    return path[::-1]


def _chest(motion: ArticulatedMotion, body: dict[str, int]) -> int:
    """The last joint that both arms and the head hang on."""
    above = [{0, *_path_down(motion, 0, body[part])} for part in ("l_upper_arm", "r_upper_arm", "head")]
    return max(set.intersection(*above))


def _world_rotations(motion: ArticulatedMotion, body: dict[str, int], turned: np.ndarray) -> np.ndarray:
    """Global rotations (F, J, 3, 3) of the target joints, from those of the source (F, N, 3, 3)."""
    rotations = np.empty((len(turned), skeleton.NUM_JOINTS, 3, 3))
    chest = _chest(motion, body)
    spine = _path_down(motion, 0, chest) or [0]
    for i in range(3):
        rotations[:, _JOINT[f"b_spine{i}"]] = turned[:, spine[round(i * (len(spine) - 1) / 2)]]
    rotations[:, _JOINT["b_spine3"]] = turned[:, chest]
    rotations[:, _JOINT["b_neck0"]] = turned[:, motion.parents[body["head"]]]
    rotations[:, _JOINT["b_head"]] = turned[:, body["head"]]
    for side in "lr":
        part = {name[2:]: joint for name, joint in body.items() if name.startswith(side + "_")}
        target = {name[4:]: joint for name, joint in _JOINT.items() if name.startswith(f"b_{side}_")}
        upper_arm, shin, foot = (motion.offsets_m[part[name]] for name in ("forearm", "foot", "toes"))
        hand = motion.offsets_m[_first_child(motion, part["forearm"])]
        ankle_to_toes = _REST[target["subtalar"]] + _REST[target["transversetarsal"]]
        align_foot = _frame(foot, shin) @ _frame(ankle_to_toes, _REST[target["foot_twist"]]).T

        rotations[:, target["shoulder"]] = turned[:, motion.parents[part["upper_arm"]]]
        rotations[:, target["arm"]] = turned[:, part["upper_arm"]] @ _align(_REST[target["forearm"]], upper_arm)
        rotations[:, target["forearm"]] = turned[:, part["forearm"]] @ _align(_REST[target["wrist"]], hand)
        rotations[:, target["wrist"]] = rotations[:, target["forearm"]]
        thigh = motion.offsets_m[part["shin"]]
        rotations[:, target["upleg"]] = turned[:, part["thigh"]] @ _align(_REST[target["leg"]], thigh)
        rotations[:, target["leg"]] = turned[:, part["shin"]] @ _align(_REST[target["foot_twist"]], shin)
        for name in ("foot_twist", "talocrural", "subtalar", "transversetarsal"):
            rotations[:, target[name]] = turned[:, part["foot"]] @ align_foot
    return rotations


def _offsets(motion: ArticulatedMotion, body: dict[str, int]) -> np.ndarray:
    """The subject's offsets (J, 3) in metres."""

    def length(part: str) -> float:
        value = 0.5 * sum(float(np.linalg.norm(motion.offsets_m[body[f"{side}_{part}"]])) for side in "lr")
        if value < 0.05:
            raise ValueError(f"{motion.source}: the bone above the {part} is {value:.3g} m long; check the offsets")
        return value

    offsets_m = _REST * (_leg_length(motion, body) / -(_REST[_JOINT["b_l_leg"]] + _REST[_JOINT["b_l_foot_twist"]])[1])
    upper_arm, thigh, shin = length("forearm"), length("shin"), length("foot")
    forearm = upper_arm * np.linalg.norm(_REST[_JOINT["b_l_wrist"]]) / np.linalg.norm(_REST[_JOINT["b_l_forearm"]])
    own = {"forearm": upper_arm, "wrist": forearm, "leg": thigh, "foot_twist": shin}
    for joint in (_JOINT[f"b_{side}_{name}"] for side in "lr" for name in own):
        offsets_m[joint] = _REST[joint] / np.linalg.norm(_REST[joint]) * own[skeleton.JOINT_NAMES[joint][4:]]
    return offsets_m


def _leg_length(motion: ArticulatedMotion, body: dict[str, int]) -> float:
    parts = [f"{side}_{part}" for side in "lr" for part in ("shin", "foot")]
    return 0.5 * sum(float(np.linalg.norm(motion.offsets_m[body[part]])) for part in parts)


def _first_child(motion: ArticulatedMotion, joint: int) -> int:
    children = [child for child, parent in enumerate(motion.parents) if parent == joint]
    if not children or not motion.offsets_m[children[0]].any():
        raise ValueError(f"{motion.source}: no hand at a distance below the forearm {motion.names[joint]!r}")
    return children[0]


def _align(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that lays direction `target` along `source`."""
    a, b = target / np.linalg.norm(target), source / np.linalg.norm(source)
    cross, cosine = np.cross(a, b), float(a @ b)
    if cosine < -0.999:
        raise ValueError(f"rest bones {target.tolist()} and {source.tolist()} point opposite ways; turn the rest pose")
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1.0 + cosine)


def _frame(primary: np.ndarray, secondary: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) whose first column is along `primary` and whose second lies in the plane of both."""
    x = primary / np.linalg.norm(primary)
    z = np.cross(x, secondary)
    z = z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=-1)
