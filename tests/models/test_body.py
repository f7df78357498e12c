"""Body representations: rest pose, order of the parameters, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.models import bodies
from epfv2_jax.models.bodies import parametric


@pytest.mark.parametrize("name", sorted(bodies.BODIES))
def test_zeros_are_the_rest_pose(name):
    representation = bodies.BODIES[name](EGOBODY3M)
    turns = Rotation.random(6, random_state=0).as_matrix().reshape(2, 3, 3, 3).astype(np.float32)
    joints, _ = jax.jit(representation.joints)(jnp.zeros((2, 3, representation.num_parameters)), turns)
    expected = np.einsum("btij,nj->btni", turns, EGOBODY3M.rest_joints_headset_m())  # level frame to headset frame
    np.testing.assert_allclose(joints, expected, atol=1e-6)


def test_body_parameters_describe_the_joints_in_the_headset_frame():
    representation = bodies.ParametricBody(EGOBODY3M)
    parameters = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (5, representation.num_parameters)), jnp.float32)
    turns = Rotation.random(5, random_state=0).as_matrix().astype(np.float32)
    joints, parts = jax.jit(representation.joints)(parameters, turns)
    np.testing.assert_allclose(parametric.joints_of(parts, EGOBODY3M), joints, atol=1e-5)


def test_rest_pose_stands_below_the_headset():
    joints = dict(zip(EGOBODY3M.joint_names, EGOBODY3M.rest_joints_headset_m(), strict=True))
    assert joints["b_head"][1] > joints["b_spine0"][1] > joints["b_l_foot_twist"][1]
    np.testing.assert_allclose(joints["b_l_wrist"] * [-1, 1, 1], joints["b_r_wrist"], atol=1e-6)
    assert joints["b_l_wrist"][0] > 0  # +x is the wearer's left


def test_parametric_body_moves_what_a_parameter_names():
    representation = bodies.ParametricBody(EGOBODY3M)
    zeros = jnp.zeros(representation.num_parameters)
    joints = jax.jit(lambda p: representation.joints(p, jnp.eye(3))[0])
    rest = joints(zeros)
    np.testing.assert_allclose(joints(zeros.at[1].set(0.5)) - rest, np.tile([0, 0.5, 0], (26, 1)), atol=1e-6)
    elbow = EGOBODY3M.index("b_l_forearm")
    first = 3 + 6 * (1 + EGOBODY3M.inner_joints.index(elbow))
    moved = np.abs(joints(zeros.at[first + 2].set(1.0)) - rest).max(-1) > 1e-3
    assert [EGOBODY3M.joint_names[j] for j in np.flatnonzero(moved)] == ["b_l_wrist"]
    wrist = EGOBODY3M.index("b_l_wrist")
    longer = joints(zeros.at[3 + 6 * (1 + len(EGOBODY3M.inner_joints)) + wrist].set(0.1))
    ratio = kinematics.bone_lengths(EGOBODY3M, longer)[wrist] / kinematics.bone_lengths(EGOBODY3M, rest)[wrist]
    np.testing.assert_allclose(ratio, 1.1, atol=0.01)


def test_any_parameters_give_a_body_with_finite_gradients():
    representation = bodies.ParametricBody(EGOBODY3M)
    level = jnp.broadcast_to(jnp.eye(3), (4, 3, 3))
    decode = jax.jit(lambda p: representation.joints(p, level))
    gradient_of = jax.jit(jax.grad(lambda p: jnp.square(decode(p)[0]).sum()))
    for scale in (1.0, 100.0, 1e4):
        parameters = jnp.asarray(np.random.default_rng(0).normal(0, scale, (4, representation.num_parameters)))
        joints, parts = decode(parameters)
        assert np.isfinite(joints).all()
        assert (parts.bone_scales <= 2.0 + 1e-5).all() and (parts.bone_scales >= 0.5 - 1e-5).all()
        leaves = [j for j in range(EGOBODY3M.num_joints) if j not in EGOBODY3M.inner_joints]
        np.testing.assert_array_equal(
            parts.joint_rotations[:, leaves], np.broadcast_to(np.eye(3), (4, len(leaves), 3, 3))
        )
        assert np.isfinite(gradient_of(parameters)).all()


@pytest.mark.parametrize("name", sorted(bodies.BODIES))
def test_a_body_has_the_joints_of_its_skeleton(name):
    """Joints in an order in which a child comes before its parent, of lengths that EgoBody3M has not."""
    skeleton = Skeleton(
        name="arm",
        joint_names=("hand", "elbow", "shoulder"),
        parents=(1, 2, -1),
        mirror=(0, 1, 2),
        root_between=(2,),
        groups=(),
        rest_offsets_m=((0.31, 0.0, 0.0), (0.0, -0.33, 0.0), (0.2, 0.0, 0.1)),
        rest_root_headset_m=(0.0, -0.5, 0.0),
    )
    representation = bodies.BODIES[name](skeleton)
    zeros = jnp.zeros((2, representation.num_parameters))
    joints, parts = jax.jit(representation.joints)(zeros, jnp.broadcast_to(jnp.eye(3), (2, 3, 3)))
    expected = [[0.51, -0.83, 0.1], [0.2, -0.83, 0.1], [0.2, -0.5, 0.1]]
    np.testing.assert_allclose(joints, np.tile(expected, (2, 1, 1)), atol=1e-6)
    if parts is not None:
        doubled = parametric.joints_of(parts.replace(bone_scales=2 * parts.bone_scales), skeleton)
        np.testing.assert_allclose(jnp.linalg.norm(doubled[:, 0] - doubled[:, 1], axis=-1), 0.62, atol=1e-6)
