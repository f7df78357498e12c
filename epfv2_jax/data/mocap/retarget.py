"""Retargets motion capture to the skeleton of EgoBody3M.

Retargeting is direct and kinematic (our choice). Every target joint takes the global rotation of its body part in the
source, after a constant rotation that lays the target's rest bone along the source's. Thighs, shins and upper arms keep
the subject's own length (mean of left and right); all other bones keep the rest proportions, scaled by the length of
the legs. The forearm scales with the upper arm, because files of the same subject differ in where they place the wrist.
"""

import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.mocap import articulated, figure
from epfv2_jax.data.mocap.articulated import ArticulatedMotion
from epfv2_jax.data.mocap.clip import MotionClip
from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON

_REST = np.asarray(SKELETON.rest_offsets_m)
_JOINT = {name: i for i, name in enumerate(SKELETON.joint_names)}


def retarget(motion: ArticulatedMotion) -> MotionClip:
    """Returns a motion from `standing.upright` on the skeleton of EgoBody3M, with its lowest foot joint at y = 0.

    Raises:
      ValueError: a bone points opposite to that of EgoBody3M at rest, or is too short.
    """
    body = figure.joints(motion)
    turned, source_m = articulated.world_pose(motion)
    with checks.naming(motion.source):
        rotations = _world_rotations(motion, body, turned)
    offsets_m = _offsets(motion, body)
    root_rotation = turned[:, 0]
    root_m = 0.5 * (source_m[:, body["l_thigh"]] + source_m[:, body["r_thigh"]])

    local = kinematics.local_rotations(SKELETON.parents, root_rotation, rotations)
    in_time = np.broadcast_to(offsets_m, rotations.shape[:-1])
    joints_m, _ = kinematics.forward_kinematics(SKELETON.parents, root_rotation, root_m, local, in_time)
    floor_m = joints_m[:, list(SKELETON.metric_groups["foot"]), 1].min()
    return MotionClip(
        fps=motion.fps,
        root_rotation=root_rotation.astype(np.float32),
        root_position_m=(root_m - [0.0, floor_m, 0.0]).astype(np.float32),
        joint_rotations=local.astype(np.float32),
        offsets_m=offsets_m.astype(np.float32),
    )


def _world_rotations(motion: ArticulatedMotion, body: dict[str, int], turned: np.ndarray) -> np.ndarray:
    """Returns the global rotations (F, J, 3, 3) of the target joints, given those of the source (F, N, 3, 3)."""
    rotations = np.empty((len(turned), SKELETON.num_joints, 3, 3))
    chest = figure.chest(motion)
    spine = figure.path_down(motion, 0, chest) or [0]
    for i in range(3):
        rotations[:, _JOINT[f"b_spine{i}"]] = turned[:, spine[round(i * (len(spine) - 1) / 2)]]
    rotations[:, _JOINT["b_spine3"]] = turned[:, chest]
    rotations[:, _JOINT["b_neck0"]] = turned[:, motion.parents[body["head"]]]
    rotations[:, _JOINT["b_head"]] = turned[:, body["head"]]
    for side in "lr":
        part = {name[2:]: joint for name, joint in body.items() if name.startswith(side + "_")}
        target = {name[4:]: joint for name, joint in _JOINT.items() if name.startswith(f"b_{side}_")}
        upper_arm, shin, foot = (motion.offsets_m[part[name]] for name in ("forearm", "foot", "toes"))
        hand = motion.offsets_m[part["hand"]]
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
    """Returns the subject's offsets (J, 3), metres."""

    def length(part: str) -> float:
        value = 0.5 * sum(float(np.linalg.norm(motion.offsets_m[body[f"{side}_{part}"]])) for side in "lr")
        name = f"{motion.source}: metres that the offsets give the bone above the {part}"
        checks.at_least(0.05, **{name: round(value, 4)})
        return value

    offsets_m = _REST * (figure.leg_length(motion) / -(_REST[_JOINT["b_l_leg"]] + _REST[_JOINT["b_l_foot_twist"]])[1])
    upper_arm, thigh, shin = length("forearm"), length("shin"), length("foot")
    forearm = upper_arm * np.linalg.norm(_REST[_JOINT["b_l_wrist"]]) / np.linalg.norm(_REST[_JOINT["b_l_forearm"]])
    own = {"forearm": upper_arm, "wrist": forearm, "leg": thigh, "foot_twist": shin}
    for joint in (_JOINT[f"b_{side}_{name}"] for side in "lr" for name in own):
        offsets_m[joint] = _REST[joint] / np.linalg.norm(_REST[joint]) * own[SKELETON.joint_names[joint][4:]]
    return offsets_m


def _align(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Returns the smallest rotation (3, 3) that takes the direction `target` to `source`."""
    a, b = target / np.linalg.norm(target), source / np.linalg.norm(source)
    if a @ b < -0.999:
        raise ValueError(f"rest bones {target.tolist()} and {source.tolist()} point opposite ways; turn the rest pose")
    return kinematics.smallest_rotation(a, b[None])[0]


def _frame(primary: np.ndarray, secondary: np.ndarray) -> np.ndarray:
    """Returns the rotation (3, 3) whose first column is along `primary` and whose second lies in the plane of both."""
    x = primary / np.linalg.norm(primary)
    z = np.cross(x, secondary)
    z = z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=-1)
