"""Body representations: rest pose, order of the parameters, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.geometry import kinematics, skeleton
from epfv2_jax.models import body


@pytest.mark.parametrize("name", sorted(body.BODIES))
def test_zeros_are_the_rest_pose(name):
    representation = body.BODIES[name](skeleton.NUM_JOINTS)
    turns = Rotation.random(6, random_state=0).as_matrix().reshape(2, 3, 3, 3).astype(np.float32)
    joints, _ = jax.jit(representation.joints)(jnp.zeros((2, 3, representation.num_parameters)), turns)
    expected = np.einsum("btij,nj->btni", turns, body.rest_joints_headset_m())  # level frame to headset frame
    np.testing.assert_allclose(joints, expected, atol=1e-6)


def test_body_parameters_describe_the_joints_in_the_headset_frame():
    representation = body.ParametricBody()
    parameters = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (5, representation.num_parameters)), jnp.float32)
    turns = Rotation.random(5, random_state=0).as_matrix().astype(np.float32)
    joints, parts = jax.jit(representation.joints)(parameters, turns)
    np.testing.assert_allclose(body.joints_of(parts), joints, atol=1e-5)


def test_rest_pose_stands_below_the_headset():
    joints = dict(zip(skeleton.JOINT_NAMES, body.rest_joints_headset_m(), strict=True))
    assert joints["b_head"][1] > joints["b_spine0"][1] > joints["b_l_foot_twist"][1]
    np.testing.assert_allclose(joints["b_l_wrist"] * [-1, 1, 1], joints["b_r_wrist"], atol=1e-6)
    assert joints["b_l_wrist"][0] > 0  # +x is the wearer's left


def test_parametric_body_moves_what_a_parameter_names():
    representation = body.ParametricBody()
    zeros = jnp.zeros(representation.num_parameters)
    joints = jax.jit(lambda p: representation.joints(p, jnp.eye(3))[0])
    rest = joints(zeros)
    np.testing.assert_allclose(joints(zeros.at[1].set(0.5)) - rest, np.tile([0, 0.5, 0], (26, 1)), atol=1e-6)
    elbow = skeleton.JOINT_NAMES.index("b_l_forearm")
    first = 3 + 6 * (1 + skeleton.INNER_JOINTS.index(elbow))
    moved = np.abs(joints(zeros.at[first + 2].set(1.0)) - rest).max(-1) > 1e-3
    assert [skeleton.JOINT_NAMES[j] for j in np.flatnonzero(moved)] == ["b_l_wrist"]
    wrist = skeleton.JOINT_NAMES.index("b_l_wrist")
    longer = joints(zeros.at[3 + 6 * (1 + len(skeleton.INNER_JOINTS)) + wrist].set(0.1))
    ratio = kinematics.bone_lengths(longer)[wrist] / kinematics.bone_lengths(rest)[wrist]
    np.testing.assert_allclose(ratio, 1.1, atol=0.01)


def test_any_parameters_give_a_body_with_finite_gradients():
    representation = body.ParametricBody()
    level = jnp.broadcast_to(jnp.eye(3), (4, 3, 3))
    decode = jax.jit(lambda p: representation.joints(p, level))
    gradient_of = jax.jit(jax.grad(lambda p: jnp.square(decode(p)[0]).sum()))
    for scale in (1.0, 100.0, 1e4):
        parameters = jnp.asarray(np.random.default_rng(0).normal(0, scale, (4, representation.num_parameters)))
        joints, parts = decode(parameters)
        assert np.isfinite(joints).all()
        assert (parts.bone_scales <= 2.0 + 1e-5).all() and (parts.bone_scales >= 0.5 - 1e-5).all()
        leaves = [j for j in range(skeleton.NUM_JOINTS) if j not in skeleton.INNER_JOINTS]
        np.testing.assert_array_equal(
            parts.joint_rotations[:, leaves], np.broadcast_to(np.eye(3), (4, len(leaves), 3, 3))
        )
        assert np.isfinite(gradient_of(parameters)).all()


def test_parametric_body_of_another_skeleton_is_refused():
    with pytest.raises(ValueError, match="use body='keypoints'"):
        body.ParametricBody(30)
