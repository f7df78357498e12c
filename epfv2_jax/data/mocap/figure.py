"""The figure of a motion capture file: which of its joints are the parts of a body."""

import collections
import dataclasses
import re

import numpy as np

from epfv2_jax.data.mocap import articulated
from epfv2_jax.data.mocap.articulated import ArticulatedMotion

#: Names of the parts of the body that retargeting needs, without the side: those of CMU and HDM05, then of other
#: programs (MotionBuilder and Mixamo, Blender, Bandai-Namco, Unreal, SMPL, Xsens). The first that the file has counts.
PART_NAMES: dict[str, tuple[str, ...]] = {
    "head": ("head",),
    "upper_arm": ("humerus", "upperarm", "uparm", "arm", "shoulder"),
    "forearm": ("radius", "forearm", "lowerarm", "lowarm", "elbow"),
    "hand": ("wrist", "hand"),
    "thigh": ("femur", "upleg", "upperleg", "thigh", "hip"),
    "shin": ("tibia", "leg", "lowerleg", "lowleg", "shin", "calf", "knee"),
    "foot": ("ankle", "foot"),
    "toes": ("toes", "toebase", "toe", "toe0", "ball", "foot"),
}
_LIMBS = (("upper_arm", "forearm", "hand"), ("thigh", "shin", "foot", "toes"))
# A first word that at least this share of the joints have is the name of the figure: mixamorig, Bip01, CC_Base.
_PREFIX_SHARE = 0.6


def body_of(motion: ArticulatedMotion) -> ArticulatedMotion:
    """Returns the motion of the joints that retargeting needs.

    The parts of `PART_NAMES` are named after them, with `l_` or `r_` before those of the limbs; a bone's end stands for
    a hand or toes that have no joint. The root is the lowest joint above head and legs. Between the parts of a limb
    there are no joints, see `articulated.only`; above the limbs and the head all joints remain.

    Raises:
      ValueError: a part is missing, or is not below the part that it hangs from.
    """
    parts = _find_parts(motion)
    above = [{0, *path_down(motion, 0, parts[part])} for part in ("head", "l_thigh", "r_thigh")]
    pelvis = max(set.intersection(*above) - {parts[part] for part in ("head", "l_thigh", "r_thigh")}, default=0)
    names = {pelvis: motion.names[pelvis]}
    for part in ("head", "l_upper_arm", "r_upper_arm", "l_thigh", "r_thigh"):
        if pelvis not in {0, *path_down(motion, 0, parts[part])}:
            raise ValueError(f"{motion.source}: joint {motion.names[parts[part]]!r} is not below the hips")
        names |= {joint: motion.names[joint] for joint in path_down(motion, pelvis, parts[part])}
    names |= {joint: part for part, joint in parts.items()}
    body = articulated.only(motion, names)
    for side in "lr":
        for limb in _LIMBS:
            if f"{side}_{limb[-1]}" not in parts:
                body = _with_end(motion, body, parts[f"{side}_{limb[-2]}"], f"{side}_{limb[-2]}", f"{side}_{limb[-1]}")
    return body


def joints(body: ArticulatedMotion) -> dict[str, int]:
    """Returns the joint of each part of a motion from `body_of`."""
    return {name: i for i, name in enumerate(body.names)}


def leg_length(body: ArticulatedMotion) -> float:
    """Returns the length of thigh and shin, mean of left and right, in the unit of the offsets."""
    part = joints(body)
    bones = [body.offsets_m[part[f"{side}_{name}"]] for side in "lr" for name in ("shin", "foot")]
    return 0.5 * sum(float(np.linalg.norm(bone)) for bone in bones)


def path_down(motion: ArticulatedMotion, top: int, bottom: int) -> list[int]:
    """Returns the joints from below `top` down to `bottom`; none if they are the same."""
    path = []
    while bottom not in (top, -1):
        path.append(bottom)
        bottom = motion.parents[bottom]
    return path[::-1]


def chest(body: ArticulatedMotion) -> int:
    """Returns the lowest joint of the tree that has both arms and the head below it."""
    part = joints(body)
    above = [{0, *path_down(body, 0, part[name])} for name in ("l_upper_arm", "r_upper_arm", "head")]
    return max(set.intersection(*above))


def _find_parts(motion: ArticulatedMotion) -> dict[str, int]:
    """Returns the joint of each part; hands and toes may be missing."""
    index = {name: i for i, name in reversed(list(enumerate(_plain_names(motion.names))))}
    parts = {"head": _find(motion, index, "head", ("head",), None)}
    for side, words in (("l", ("left", "l")), ("r", ("right", "r"))):
        for limb in _LIMBS:
            above = None
            for name in limb:
                spelled = [f"{word}{plain}" for plain in PART_NAMES[name] for word in words]
                spelled += [f"{plain}{word}" for plain in PART_NAMES[name] for word in words]
                found = _find(motion, index, f"{side}_{name}", tuple(spelled), above)
                if found is not None:
                    parts[f"{side}_{name}"] = above = found
    return parts


def _find(
    motion: ArticulatedMotion, index: dict[str, int], part: str, names: tuple[str, ...], above: int | None
) -> int | None:
    """Returns the first joint of these names that is below `above`; None for hands and toes without one."""
    found = [index[name] for name in names if name in index]
    below = [joint for joint in found if above is None or above in path_down(motion, -1, motion.parents[joint])]
    if below:
        return below[0]
    if part[2:] in ("hand", "toes"):
        return None
    told = part.replace("_", " ")
    if found:
        raise ValueError(
            f"{motion.source}: joint {motion.names[found[0]]!r}, by its name the {told}, is not below "
            f"{motion.names[above]!r}; rename the joints"
        )
    raise ValueError(
        f"{motion.source}: no joint for the {told}; rename it to one of {', '.join(names[:8])}; the file has "
        f"{', '.join(motion.names)[:300]}"
    )


def _plain_names(names: tuple[str, ...]) -> list[str]:
    """Returns the names in lower case, without name space, separators and the figure's own name before them."""
    words = [re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name.rpartition(":")[2]) for name in names]
    while True:
        first = collections.Counter(own[0] for own in words if len(own) > 1)
        prefix, count = max(first.items(), key=lambda item: item[1], default=("", 0))
        if count < _PREFIX_SHARE * len(names) or count < 2:
            return ["".join(own).lower() for own in words]
        words = [own[1:] if len(own) > 1 and own[0] == prefix else own for own in words]


def _with_end(
    motion: ArticulatedMotion, body: ArticulatedMotion, joint: int, part: str, name: str
) -> ArticulatedMotion:
    """Returns the body with a joint `name` at the end of the bone of `joint`, which is `part` of the body.

    The end is the first joint below it, or the bone's own end.
    """
    below = [motion.offsets_m[child] for child, parent in enumerate(motion.parents) if parent == joint]
    ends = [end for end in (*below, motion.tips_m[joint]) if np.isfinite(end).all() and end.any()]
    if not ends:
        raise ValueError(f"{motion.source}: no joint for the {name[2:]} beyond {motion.names[joint]!r}")
    still = np.broadcast_to(np.eye(3), (body.num_frames, 1, 3, 3))
    return dataclasses.replace(
        body,
        names=(*body.names, name),
        parents=(*body.parents, body.names.index(part)),
        offsets_m=np.concatenate([body.offsets_m, ends[0][None]]),
        tips_m=np.concatenate([body.tips_m, np.full((1, 3), np.nan)]),
        joint_rotations=np.concatenate([body.joint_rotations, still], axis=1),
    )
