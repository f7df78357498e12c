"""The 26-joint skeleton of EgoBody3M: names, tree, mirror pairs, metric groups and a rest pose.

Joint order, names and parents are those of the released data (facebookresearch/EgoBody3M). The tree hangs on a hidden
root, midway between the hips, that is not among the joints: its children carry the parent index -1.
"""

JOINT_NAMES: tuple[str, ...] = (
    "b_head",
    "b_l_shoulder",
    "b_l_arm",
    "b_l_forearm",
    "b_l_wrist",
    "b_r_shoulder",
    "b_r_arm",
    "b_r_forearm",
    "b_r_wrist",
    "b_neck0",
    "b_spine0",
    "b_spine1",
    "b_spine2",
    "b_spine3",
    "b_r_upleg",
    "b_r_leg",
    "b_r_foot_twist",
    "b_r_talocrural",
    "b_r_subtalar",
    "b_r_transversetarsal",
    "b_l_upleg",
    "b_l_leg",
    "b_l_foot_twist",
    "b_l_talocrural",
    "b_l_subtalar",
    "b_l_transversetarsal",
)
NUM_JOINTS = len(JOINT_NAMES)

#: Parent of each joint; -1 is the hidden root.
PARENTS: tuple[int, ...] = (
    *(9, 13, 1, 2, 3, 13, 5, 6, 7, 13),
    *(-1, 10, 11, 12),
    *(-1, 14, 15, 16, 17, 18),
    *(-1, 20, 21, 22, 23, 24),
)

#: Joints in an order in which every parent comes before its children, grouped by depth below the hidden root.
DEPTH_LEVELS: tuple[tuple[int, ...], ...] = (
    (10, 14, 20),
    (11, 15, 21),
    (12, 16, 22),
    (13, 17, 23),
    (1, 5, 9, 18, 24),
    (0, 2, 6, 19, 25),
    (3, 7),
    (4, 8),
)

#: Joints with children: only their rotations move a joint.
INNER_JOINTS: tuple[int, ...] = tuple(j for j in range(NUM_JOINTS) if j in PARENTS)

#: MIRROR[j] is the joint on the other side of the body (itself on the midline).
MIRROR: tuple[int, ...] = tuple(
    JOINT_NAMES.index(name.replace("_l_", "_@_").replace("_r_", "_l_").replace("_@_", "_r_")) for name in JOINT_NAMES
)

#: Groups of the published tables. The exact sets are not public: our choice. Groups may overlap.
METRIC_GROUPS: dict[str, tuple[int, ...]] = {
    "wrist": (4, 8),
    "shoulder": (2, 6),
    "leg": (15, 16, 17, 18, 19, 21, 22, 23, 24, 25),
    "foot": (18, 19, 24, 25),
}

#: Offset of each joint from its parent (from the hidden root for -1) in a T-pose, metres; x to the person's left, y up,
#: z forward, the axes of the headset frame. Rounded adult proportions (about 1.7 m tall): our choice.
REST_OFFSETS_M: tuple[tuple[float, float, float], ...] = (
    (0.000, 0.069, 0.036),  # b_head
    (0.026, 0.061, 0.089),  # b_l_shoulder
    (0.150, -0.010, -0.055),  # b_l_arm
    (0.253, 0.000, 0.000),  # b_l_forearm
    (0.252, 0.000, 0.000),  # b_l_wrist
    (-0.026, 0.061, 0.089),  # b_r_shoulder
    (-0.150, -0.010, -0.055),  # b_r_arm
    (-0.253, 0.000, 0.000),  # b_r_forearm
    (-0.252, 0.000, 0.000),  # b_r_wrist
    (0.000, 0.128, 0.036),  # b_neck0
    (0.000, 0.043, -0.025),  # b_spine0
    (0.000, 0.102, 0.010),  # b_spine1
    (0.000, 0.102, -0.022),  # b_spine2
    (0.000, 0.171, -0.008),  # b_spine3
    (-0.072, 0.000, 0.000),  # b_r_upleg
    (0.000, -0.400, 0.000),  # b_r_leg
    (0.000, -0.376, 0.000),  # b_r_foot_twist
    (0.000, 0.000, 0.000),  # b_r_talocrural: coincides with its parent
    (0.000, -0.033, 0.015),  # b_r_subtalar
    (0.000, 0.025, 0.058),  # b_r_transversetarsal
    (0.072, 0.000, 0.000),  # b_l_upleg
    (0.000, -0.400, 0.000),  # b_l_leg
    (0.000, -0.376, 0.000),  # b_l_foot_twist
    (0.000, 0.000, 0.000),  # b_l_talocrural: coincides with its parent
    (0.000, -0.033, 0.015),  # b_l_subtalar
    (0.000, 0.025, 0.058),  # b_l_transversetarsal
)

#: The hidden root in the headset frame of an upright person, metres: our choice.
REST_ROOT_HEADSET_M: tuple[float, float, float] = (0.0, -0.66, -0.10)
