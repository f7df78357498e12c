"""The figure of a motion capture file: which of its joints are the parts of a body."""

import numpy as np

from epfv2_jax.data.mocap import articulated
from epfv2_jax.data.mocap.articulated import ArticulatedMotion

#: Names that files use for the parts of the body that retargeting needs, on the left side or in the middle, in lower
#: case. The first name that the file has counts.
PART_NAMES: dict[str, tuple[str, ...]] = {
    "head": ("head",),
    "l_upper_arm": ("lhumerus", "leftarm"),
    "l_forearm": ("lradius", "leftforearm"),
    "l_thigh": ("lfemur", "leftupleg"),
    "l_shin": ("ltibia", "leftleg"),
    "l_foot": ("lfoot", "leftfoot"),
    "l_toes": ("ltoes", "lefttoebase", "lefttoe"),
}


def find_body(motion: ArticulatedMotion) -> dict[str, int]:
    """Returns the joint of each part in `PART_NAMES`, left and right.

    Raises:
      ValueError: a part is missing, or the rest pose does not stand upright with y up, facing z.
    """
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
    rest_m = articulated.rest_joints_m(motion)
    left = rest_m[body["l_thigh"]] - rest_m[body["r_thigh"]]
    up = rest_m[body["head"]] - rest_m[body["l_foot"]]
    if left[0] < 0.8 * np.linalg.norm(left) or up[1] < 0.8 * np.linalg.norm(up) or not left.any():
        raise ValueError(
            f"{motion.source}: the rest pose must stand upright with y up, facing z; its left points along "
            f"{left.round(3).tolist()} (expected x), up along {up.round(3).tolist()} (expected y); turn the rest pose"
        )
    return body


def leg_length(motion: ArticulatedMotion, body: dict[str, int]) -> float:
    """Returns the length of thigh and shin, mean of left and right, in the unit of the offsets."""
    parts = [f"{side}_{part}" for side in "lr" for part in ("shin", "foot")]
    return 0.5 * sum(float(np.linalg.norm(motion.offsets_m[body[part]])) for part in parts)


def path_down(motion: ArticulatedMotion, top: int, bottom: int) -> list[int]:
    """Returns the joints from below `top` down to `bottom`; none if they are the same."""
    path = []
    while bottom != top:
        path.append(bottom)
        bottom = motion.parents[bottom]
    return path[::-1]


def chest(motion: ArticulatedMotion, body: dict[str, int]) -> int:
    """Returns the lowest joint of the tree that has both arms and the head below it."""
    above = [{0, *path_down(motion, 0, body[part])} for part in ("l_upper_arm", "r_upper_arm", "head")]
    return max(set.intersection(*above))


def hand(motion: ArticulatedMotion, forearm: int) -> int:
    """Returns the first child of the forearm.

    Raises:
      ValueError: there is no child, or it coincides with the forearm.
    """
    children = [child for child, parent in enumerate(motion.parents) if parent == forearm]
    if not children or not motion.offsets_m[children[0]].any():
        raise ValueError(f"{motion.source}: no joint for the hand beyond the forearm {motion.names[forearm]!r}")
    return children[0]


def _right_name(name: str) -> str:
    return "right" + name[len("left") :] if name.startswith("left") else "r" + name[1:]
