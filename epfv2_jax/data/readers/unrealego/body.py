"""The 16 joints of the UnrealEgo benchmark and the two views of its glasses."""

from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import JointGroup, Skeleton

#: Order and names are those of the benchmark (hiroyasuakada/UnrealEgo). Our choice: the tree's root between the hips,
#: the groups, and the rest pose, a T-pose of rounded adult proportions.
UNREALEGO = Skeleton(
    name="unrealego",
    joint_names=(
        "head",
        "neck_01",
        "upperarm_l",
        "upperarm_r",
        "lowerarm_l",
        "lowerarm_r",
        "hand_l",
        "hand_r",
        "thigh_l",
        "thigh_r",
        "calf_l",
        "calf_r",
        "foot_l",
        "foot_r",
        "ball_l",
        "ball_r",
    ),
    parents=(1, -1, 1, 1, 2, 3, 4, 5, -1, -1, 8, 9, 10, 11, 12, 13),
    mirror=(0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14),
    root_between=(8, 9),  # the hips
    groups=(
        JointGroup(name="wrist", joints=(6, 7)),
        JointGroup(name="shoulder", joints=(2, 3)),
        JointGroup(name="leg", joints=(10, 11, 12, 13, 14, 15)),
        JointGroup(name="foot", joints=(14, 15)),
    ),
    rest_offsets_m=(
        (0.00, 0.10, 0.02),  # head
        (0.00, 0.50, -0.02),  # neck_01
        (0.17, -0.05, 0.00),  # upperarm_l
        (-0.17, -0.05, 0.00),  # upperarm_r
        (0.27, 0.00, 0.00),  # lowerarm_l
        (-0.27, 0.00, 0.00),  # lowerarm_r
        (0.25, 0.00, 0.00),  # hand_l
        (-0.25, 0.00, 0.00),  # hand_r
        (0.09, 0.00, 0.00),  # thigh_l
        (-0.09, 0.00, 0.00),  # thigh_r
        (0.00, -0.42, 0.00),  # calf_l
        (0.00, -0.42, 0.00),  # calf_r
        (0.00, -0.41, 0.00),  # foot_l
        (0.00, -0.41, 0.00),  # foot_r
        (0.00, -0.06, 0.14),  # ball_l
        (0.00, -0.06, 0.14),  # ball_r
    ),
    rest_root_headset_m=(0.0, -0.68, -0.10),
)

#: The images show the ground with what is ahead of the wearer at the bottom, so half a turn makes them upright.
LAYOUT = RigLayout(name="unrealego", view_names=("left", "right"), upright_turns=(2, 2), mirror=(1, 0))
