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

LEVEL = np.eye(3, dtype=np.float32)
joints_of = jax.jit(parametric.joints_of, static_argnums=1)


def zeros(representation, *batch):
    return np.zeros((*batch, representation.num_parameters), np.float32)


@pytest.mark.parametrize("name", sorted(bodies.BODIES))
def test_zeros_are_the_rest_pose(name):
    representation = bodies.BODIES[name](EGOBODY3M)
    turns = Rotation.random(6, random_state=0).as_matrix().reshape(2, 3, 3, 3).astype(np.float32)
    joints, _ = jax.jit(representation.joints)(zeros(representation, 2, 3), turns)
    expected = np.einsum("btij,nj->btni", turns, EGOBODY3M.rest_joints_headset_m())  # level frame to headset frame
    np.testing.assert_allclose(joints, expected, atol=1e-6)


def test_body_parameters_describe_the_joints_in_the_headset_frame():
    representation = bodies.ParametricBody(EGOBODY3M)
    parameters = np.random.default_rng(0).normal(0, 0.3, (5, representation.num_parameters)).astype(np.float32)
    turns = Rotation.random(5, random_state=0).as_matrix().astype(np.float32)
    joints, parts = jax.jit(representation.joints)(parameters, turns)
    np.testing.assert_allclose(joints_of(parts, EGOBODY3M), joints, atol=1e-5)


def test_rest_pose_stands_below_the_headset():
    joints = dict(zip(EGOBODY3M.joint_names, EGOBODY3M.rest_joints_headset_m(), strict=True))
    assert joints["b_head"][1] > joints["b_spine0"][1] > joints["b_l_foot_twist"][1]
    np.testing.assert_allclose(joints["b_l_wrist"] * [-1, 1, 1], joints["b_r_wrist"], atol=1e-6)
    assert joints["b_l_wrist"][0] > 0  # +x is the wearer's left


def test_parametric_body_moves_what_a_parameter_names():
    representation = bodies.ParametricBody(EGOBODY3M)
    decode = jax.jit(lambda p: representation.joints(p, LEVEL)[0])

    def joints(place, value):
        """The joints where one parameter is not zero."""
        parameters = zeros(representation)
        parameters[place] = value
        return np.asarray(decode(parameters))

    rest = joints(0, 0.0)
    np.testing.assert_allclose(joints(1, 0.5) - rest, np.tile([0, 0.5, 0], (26, 1)), atol=1e-6)
    elbow = EGOBODY3M.index("b_l_forearm")
    first = 3 + 6 * (1 + EGOBODY3M.inner_joints.index(elbow))
    moved = np.abs(joints(first + 2, 1.0) - rest).max(-1) > 1e-3
    assert [EGOBODY3M.joint_names[j] for j in np.flatnonzero(moved)] == ["b_l_wrist"]
    wrist = EGOBODY3M.index("b_l_wrist")
    longer = joints(3 + 6 * (1 + len(EGOBODY3M.inner_joints)) + wrist, 0.1)
    lengths = jax.jit(lambda joints: kinematics.bone_lengths(EGOBODY3M, joints))
    ratio = lengths(longer)[wrist] / lengths(rest)[wrist]
    np.testing.assert_allclose(ratio, 1.1, atol=0.01)


def test_any_parameters_give_a_body_with_finite_gradients():
    representation = bodies.ParametricBody(EGOBODY3M)
    level = np.broadcast_to(LEVEL, (4, 3, 3))

    def size(parameters):
        joints, parts = representation.joints(parameters, level)
        return jnp.square(joints).sum(), (joints, parts)

    gradient_of = jax.jit(jax.grad(size, has_aux=True))
    for scale in (1.0, 100.0, 1e4):
        parameters = np.random.default_rng(0).normal(0, scale, (4, representation.num_parameters))
        gradient, (joints, parts) = jax.device_get(gradient_of(parameters.astype(np.float32)))
        assert np.isfinite(joints).all()
        assert (parts.bone_scales <= 2.0 + 1e-5).all() and (parts.bone_scales >= 0.5 - 1e-5).all()
        leaves = [j for j in range(EGOBODY3M.num_joints) if j not in EGOBODY3M.inner_joints]
        np.testing.assert_array_equal(
            parts.joint_rotations[:, leaves], np.broadcast_to(np.eye(3), (4, len(leaves), 3, 3))
        )
        assert np.isfinite(gradient).all()


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
    joints, parts = jax.jit(representation.joints)(zeros(representation, 2), np.broadcast_to(LEVEL, (2, 3, 3)))
    expected = [[0.51, -0.83, 0.1], [0.2, -0.83, 0.1], [0.2, -0.5, 0.1]]
    np.testing.assert_allclose(joints, np.tile(expected, (2, 1, 1)), atol=1e-6)
    if parts is not None:
        doubled = np.asarray(joints_of(parts.replace(bone_scales=2 * np.asarray(parts.bone_scales)), skeleton))
        np.testing.assert_allclose(np.linalg.norm(doubled[:, 0] - doubled[:, 1], axis=-1), 0.62, atol=1e-6)
