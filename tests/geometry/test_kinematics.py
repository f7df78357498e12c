import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform as sst

from epfv2_jax.geometry import kinematics, skeleton


def _random_body(seed=0, frames=3):
    rng = np.random.default_rng(seed)
    J = skeleton.NUM_JOINTS
    rotations = sst.Rotation.from_rotvec(rng.normal(scale=0.5, size=(frames * J, 3))).as_matrix()
    roots = sst.Rotation.random(frames, random_state=seed).as_matrix()
    offsets = np.asarray(kinematics.joint_offsets(jnp.asarray(rng.uniform(0.8, 1.2, (1, J)), jnp.float32)))
    arrays = (roots, rng.normal(size=(frames, 3)), rotations.reshape(frames, J, 3, 3), np.repeat(offsets, frames, 0))
    return tuple(x.astype(np.float32) for x in arrays)


def _naive(root_rotation, root_position, joint_rotations, offsets):
    positions, rotations = {-1: root_position}, {-1: root_rotation}

    def visit(joint):
        if joint not in positions:
            parent = skeleton.PARENTS[joint]
            visit(parent)
            positions[joint] = positions[parent] + rotations[parent] @ offsets[joint]
            rotations[joint] = rotations[parent] @ joint_rotations[joint]
        return positions[joint]

    return np.stack([visit(j) for j in range(skeleton.NUM_JOINTS)])


def test_levels_equal_a_naive_walk_of_the_tree():
    body = _random_body()
    joints = kinematics.forward_kinematics(*body)
    for t in range(3):
        np.testing.assert_allclose(joints[t], _naive(*(x[t] for x in body)), atol=1e-5)


def test_levels_hold_every_joint_below_its_parent():
    depth = {-1: -1}
    for level, joints in enumerate(skeleton.DEPTH_LEVELS):
        depth.update(dict.fromkeys(joints, level))
    assert sorted(depth) == list(range(-1, skeleton.NUM_JOINTS))
    assert all(depth[skeleton.PARENTS[j]] == depth[j] - 1 for j in range(skeleton.NUM_JOINTS))


def test_bone_lengths_do_not_depend_on_the_pose():
    a, b = _random_body(0), _random_body(1)
    offsets = a[3]
    lengths = [kinematics.bone_lengths(kinematics.forward_kinematics(*body[:3], offsets)) for body in (a, b)]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-5)
    np.testing.assert_allclose(lengths[0][:, 3], np.linalg.norm(offsets[:, 3], axis=-1), atol=1e-5)


def test_bone_lengths_have_finite_gradients_where_joints_coincide():
    joints = jnp.zeros((skeleton.NUM_JOINTS, 3))
    assert np.isfinite(jax.grad(lambda x: kinematics.bone_lengths(x).sum())(joints)).all()


def test_fit_rebuilds_a_body_of_constant_bones():
    joints = np.asarray(kinematics.forward_kinematics(*_random_body(2, frames=6)))
    body = kinematics.fit_body(joints)
    np.testing.assert_allclose(_rebuild(body), joints, atol=2e-5)


def test_fit_refuses_bad_input():
    with pytest.raises(ValueError, match="not empty"):
        kinematics.fit_body(np.zeros((0, 26, 3)))
    with pytest.raises(ValueError, match="finite"):
        kinematics.fit_body(np.full((1, 26, 3), np.nan))


def test_fit_reproduces_the_real_sample_below_half_a_millimetre(shared_data):
    with zipfile.ZipFile(shared_data / "egobody3m_sample" / "603778748449547.metadata.zip") as archive:
        frames = [json.loads(archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(".json")]
    joints_world_m = np.array([frame["joint_positions_world_cm"] for frame in frames]) / 100
    body = kinematics.fit_body(joints_world_m)
    err_cm = 100 * np.linalg.norm(_rebuild(body) - joints_world_m, axis=-1)
    assert err_cm.max() < 0.05


def _rebuild(body: kinematics.FittedBody) -> np.ndarray:
    frames = body.root_position_m.shape[0]
    offsets = np.broadcast_to(body.offsets_m, (frames, *body.offsets_m.shape))
    return np.asarray(
        kinematics.forward_kinematics(body.root_rotation, body.root_position_m, body.joint_rotations, offsets)
    )


def test_compiles_under_several_leading_axes():
    arrays = _random_body(frames=6)
    nested = [x.reshape(2, 3, *x.shape[1:]) for x in arrays]
    many = jax.jit(kinematics.forward_kinematics)(*nested)
    one = kinematics.forward_kinematics(*arrays)
    np.testing.assert_allclose(many.reshape(one.shape), one, atol=1e-5)
