"""Skeletons: every tree survives JSON, every broken one is refused by the name of its field."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from epfv2_jax.core import config
from epfv2_jax.geometry.skeleton import EGOBODY3M, JointGroup, Skeleton


@st.composite
def skeletons(draw) -> Skeleton:
    """Any tree of 1 to 12 joints, in any order, with any pairs of mirrored joints and any groups."""
    J = draw(st.integers(1, 12))
    order = draw(st.permutations(range(J)))
    parents = [0] * J
    for i, joint in enumerate(order):
        parents[joint] = draw(st.sampled_from((-1, *order[:i])))
    mirror = list(range(J))
    pairs = draw(st.permutations(range(J)))
    for a, b in zip(pairs[0::2], pairs[1::2], strict=False):
        if draw(st.booleans()):
            mirror[a], mirror[b] = b, a
    joints = st.lists(st.integers(0, J - 1), min_size=1, max_size=4, unique=True).map(tuple)
    names = draw(st.lists(st.text(min_size=1, max_size=5), max_size=3, unique=True))
    vector = st.tuples(*[st.floats(-2, 2)] * 3)
    return Skeleton(
        name=draw(st.text(max_size=5)),
        joint_names=tuple(draw(st.lists(st.text(max_size=5), min_size=J, max_size=J, unique=True))),
        parents=tuple(parents),
        mirror=tuple(mirror),
        root_between=draw(joints),
        groups=tuple(JointGroup(name=name, joints=draw(joints)) for name in names),
        rest_offsets_m=tuple(draw(vector) for _ in range(J)),
        rest_root_headset_m=draw(vector),
    )


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(skeletons())
@hypothesis.example(EGOBODY3M)
def test_every_skeleton_survives_json(skeleton):
    stored = json.loads(json.dumps(config.to_mapping(skeleton)))
    assert config.from_mapping(Skeleton, stored) == skeleton


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(skeletons())
@hypothesis.example(EGOBODY3M)
def test_levels_hold_every_joint_one_below_its_parent(skeleton):
    depth = {-1: -1} | {j: depth for depth, level in enumerate(skeleton.depth_levels) for j in level}
    assert sorted(depth) == list(range(-1, skeleton.num_joints))
    assert all(depth[parent] == depth[j] - 1 for j, parent in enumerate(skeleton.parents))
    assert skeleton.inner_joints == tuple(j for j in range(skeleton.num_joints) if skeleton.children(j))


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(skeletons())
def test_rest_pose_adds_up_the_offsets(skeleton):
    joints_m = skeleton.rest_joints_headset_m()
    for j, parent in enumerate(skeleton.parents):
        origin = skeleton.rest_root_headset_m if parent < 0 else joints_m[parent]
        np.testing.assert_allclose(joints_m[j] - origin, skeleton.rest_offsets_m[j], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_names": ()}, "skeleton.joint_names, number: must be at least 1"),
        ({"joint_names": ("a", "b", "a")}, "skeleton.joint_names, number of different names: 2 is not one of 3"),
        ({"parents": (-1, 0)}, "skeleton.parents, number of entries: 2 is not one of 3"),
        ({"parents": (-1, 0, 3)}, r"skeleton.parents\[2\]: must be in \[-1, 2\], got 3"),
        ({"parents": (-1, 2, 1)}, r"skeleton.parents: joints \[1, 2\] do not hang on the root"),
        ({"parents": (0, 0, 1)}, r"skeleton.parents: joints \[0, 1, 2\] do not hang on the root"),
        ({"mirror": (0, 1)}, "skeleton.mirror, number of entries: 2 is not one of 3"),
        ({"mirror": (0, 1, 7)}, r"skeleton.mirror\[2\]: must be in \[0, 2\], got 7"),
        ({"mirror": (1, 2, 0)}, "skeleton.mirror applied twice"),
        ({"root_between": ()}, "skeleton.root_between, number of joints: must be at least 1"),
        ({"root_between": (1, 3)}, r"skeleton.root_between\[1\]: must be in \[0, 2\], got 3"),
        ({"groups": (JointGroup(name="leg", joints=(0, 3)),)}, r"skeleton.groups leg\[1\]: must be in \[0, 2\], got 3"),
        ({"groups": (JointGroup(name="leg", joints=()),)}, "skeleton.groups leg, number of joints: must be at least 1"),
        ({"rest_offsets_m": ((0.0, 0.0, 0.0),)}, "skeleton.rest_offsets_m, number of entries: 1 is not one of 3"),
    ],
)
def test_broken_skeletons_are_refused_by_the_name_of_the_field(changes, message):
    whole = Skeleton(
        name="three",
        joint_names=("a", "b", "c"),
        parents=(-1, 0, 0),
        mirror=(0, 2, 1),
        root_between=(0,),
        groups=(JointGroup(name="all", joints=(0, 1, 2)),),
        rest_offsets_m=((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (-0.1, 0.0, 0.0)),
        rest_root_headset_m=(0.0, -0.5, 0.0),
    )
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(whole, **changes)


def test_egobody3m_is_symmetric_about_the_middle():
    names, offsets_m = EGOBODY3M.joint_names, np.asarray(EGOBODY3M.rest_offsets_m)
    for j, other in enumerate(EGOBODY3M.mirror):
        swapped = {"l": "r", "r": "l"}.get(names[j].split("_")[1], names[j].split("_")[1])
        assert names[other].split("_")[1] == swapped and names[other].split("_")[2:] == names[j].split("_")[2:]
    np.testing.assert_array_equal(offsets_m[list(EGOBODY3M.mirror)], offsets_m * [-1, 1, 1])
    for joints in EGOBODY3M.metric_groups.values():
        assert {EGOBODY3M.mirror[j] for j in joints} == set(joints)


def test_a_joint_that_is_not_there_is_told_with_the_nearest():
    assert EGOBODY3M.joint_names[EGOBODY3M.index("b_l_wrist")] == "b_l_wrist"
    with pytest.raises(ValueError, match=r"joint: 'b_l_wirst' is not one of .*; did you mean b_l_wrist"):
        EGOBODY3M.index("b_l_wirst")


def test_the_limbs_are_arms_and_legs_on_both_sides():
    ends = {(EGOBODY3M.joint_names[a], EGOBODY3M.joint_names[b]) for a, b in EGOBODY3M.limbs}
    one_side = (("arm", "forearm"), ("forearm", "wrist"), ("upleg", "leg"), ("leg", "foot_twist"))
    assert ends == {(f"b_{side}_{a}", f"b_{side}_{b}") for side in "lr" for a, b in one_side}
