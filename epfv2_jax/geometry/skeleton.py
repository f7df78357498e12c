"""Skeletons: names, tree, mirror pairs, metric groups and rest pose, as a value that comes with the data."""

import dataclasses
import functools
import itertools

import numpy as np

from epfv2_jax.core import checks

#: Least length of a limb's bone in the rest pose, metres: longer than a hand, a foot or a collarbone (our choice).
LIMB_M = 0.2


@functools.lru_cache(maxsize=64)
def depth_levels(parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Returns the joints grouped by depth below the root, so that every parent comes before its children.

    Args:
      parents: the parent of each joint, -1 for a child of the root.

    Raises:
      ValueError: some joints do not hang on the root: a parent does not exist, or joints form a cycle.
    """
    levels, above = [], (-1,)
    while above := tuple(j for j, parent in enumerate(parents) if parent in above):
        levels.append(above)
    if loose := sorted(set(range(len(parents))) - {j for level in levels for j in level}):
        raise ValueError(
            f"skeleton.parents: joints {loose} do not hang on the root; a parent does not exist, or joints form a cycle"
        )
    return tuple(levels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointGroup:
    """Joints whose mean error is reported under one name. Groups may overlap."""

    name: str
    joints: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skeleton:
    """A tree of J joints. Records and checkpoints store it as JSON; model, metrics and pictures take J from it.

    The tree hangs on a hidden root that is not one of the joints: the root's children have the parent index -1.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]  # -1: a child of the hidden root
    mirror: tuple[int, ...]  # the joint on the other side of the body; itself on the midline
    root_between: tuple[int, ...]  # the hidden root lies at the mean of these joints
    groups: tuple[JointGroup, ...]
    # Offset of each joint from its parent in the rest pose, metres: x to the person's left, y up, z forward.
    rest_offsets_m: tuple[tuple[float, float, float], ...]
    rest_root_headset_m: tuple[float, float, float]  # the hidden root in the frame of an upright person's headset

    def __post_init__(self):
        J = self.num_joints
        checks.at_least(1, **{"skeleton.joint_names, number": J})
        checks.one_of((J,), **{"skeleton.joint_names, number of different names": len(set(self.joint_names))})
        for name in ("parents", "mirror", "rest_offsets_m"):
            checks.one_of((J,), **{f"skeleton.{name}, number of entries": len(getattr(self, name))})
        checks.within(-1, J - 1, **{f"skeleton.parents[{j}]": parent for j, parent in enumerate(self.parents)})
        depth_levels(self.parents)
        checks.within(0, J - 1, **{f"skeleton.mirror[{j}]": m for j, m in enumerate(self.mirror)})
        checks.one_of(
            (tuple(range(J)),), **{"skeleton.mirror applied twice": tuple(self.mirror[m] for m in self.mirror)}
        )
        checks.at_least(1, **{"skeleton.root_between, number of joints": len(self.root_between)})
        checks.within(0, J - 1, **{f"skeleton.root_between[{i}]": j for i, j in enumerate(self.root_between)})
        for group in self.groups:
            checks.at_least(1, **{f"skeleton.groups {group.name}, number of joints": len(group.joints)})
            checks.within(0, J - 1, **{f"skeleton.groups {group.name}[{i}]": j for i, j in enumerate(group.joints)})

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joint_names)

    @property
    def depth_levels(self) -> tuple[tuple[int, ...], ...]:
        """Joints grouped by depth below the hidden root: every parent comes before its children."""
        return depth_levels(self.parents)

    @functools.cached_property
    def inner_joints(self) -> tuple[int, ...]:
        """Joints with children: only their rotations move a joint."""
        return tuple(j for j in range(self.num_joints) if j in self.parents)

    @functools.cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joints to draw: each joint with its parent, and the hidden root's children with one another."""
        tree = ((parent, j) for j, parent in enumerate(self.parents) if parent >= 0)
        return (*tree, *itertools.combinations(reversed(self.children(-1)), 2))

    @functools.cached_property
    def limbs(self) -> tuple[tuple[int, int], ...]:
        """The L long bones of arms and legs, pairs of joints: of at least `LIMB_M` and on both sides of the body."""
        long = np.linalg.norm(self.rest_offsets_m, axis=-1) >= LIMB_M
        paired = np.not_equal(self.mirror, np.arange(self.num_joints))
        return tuple((parent, j) for j, parent in enumerate(self.parents) if parent >= 0 and long[j] and paired[j])

    @property
    def metric_groups(self) -> dict[str, tuple[int, ...]]:
        """Joints by the name of their group."""
        return {group.name: group.joints for group in self.groups}

    def index(self, joint_name: str) -> int:
        """Returns the index of a joint.

        Raises:
          ValueError: the skeleton has no such joint; the message names the nearest one.
        """
        checks.one_of(self.joint_names, joint=joint_name)
        return self.joint_names.index(joint_name)

    def children(self, joint: int) -> tuple[int, ...]:
        """Returns the joints whose parent is `joint` (-1: the hidden root)."""
        return tuple(j for j, parent in enumerate(self.parents) if parent == joint)

    def rest_joints_headset_m(self) -> np.ndarray:
        """Returns the joints (J, 3) of the rest pose below an upright headset, headset frame, metres, float32."""
        joints = np.zeros((self.num_joints, 3), np.float32)
        for j in (j for level in self.depth_levels for j in level):
            parent = self.parents[j]
            origin = np.asarray(self.rest_root_headset_m, np.float32) if parent < 0 else joints[parent]
            joints[j] = origin + np.asarray(self.rest_offsets_m[j], np.float32)
        return joints


#: The 26 joints of EgoBody3M, also those of the synthetic people. Order, names and parents are those of the released
#: data (facebookresearch/EgoBody3M). Our choice: the groups (the exact sets of the published tables are not public) and
#: the rest pose, a T-pose of rounded adult proportions, about 1.7 m tall.
EGOBODY3M = Skeleton(
    name="egobody3m",
    joint_names=(
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
    ),
    parents=(9, 13, 1, 2, 3, 13, 5, 6, 7, 13, -1, 10, 11, 12, -1, 14, 15, 16, 17, 18, -1, 20, 21, 22, 23, 24),
    mirror=(0, 5, 6, 7, 8, 1, 2, 3, 4, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25, 14, 15, 16, 17, 18, 19),
    root_between=(20, 14),  # the hips
    groups=(
        JointGroup(name="wrist", joints=(4, 8)),
        JointGroup(name="shoulder", joints=(2, 6)),
        JointGroup(name="leg", joints=(15, 16, 17, 18, 19, 21, 22, 23, 24, 25)),
        JointGroup(name="foot", joints=(18, 19, 24, 25)),
    ),
    rest_offsets_m=(
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
    ),
    rest_root_headset_m=(0.0, -0.66, -0.10),
)
