import json
import zipfile

import jax
import numpy as np
import pytest
import scipy.spatial.transform as sst

from epfv2_jax.geometry import kinematics
from epfv2_jax.geometry.skeleton import EGOBODY3M as SKELETON
from epfv2_jax.geometry.skeleton import JointGroup, Skeleton

forward_kinematics = jax.jit(kinematics.forward_kinematics, static_argnums=0)
joint_offsets = jax.jit(kinematics.joint_offsets, static_argnums=0)
bone_lengths = jax.jit(kinematics.bone_lengths, static_argnums=0)

TREES = ("egobody3m", "star", "chain", "shuffled")


def tree(name: str) -> tuple[int, ...]:
    """Parents of trees of different sizes."""
    return {
        "egobody3m": SKELETON.parents,
        "star": (-1, -1, -1),
        "chain": (1, 2, 3, -1),
        "shuffled": (4, -1, 1, 4, 2, 0, -1),
    }[name]


def fk(root_rotation, root_position_m, joint_rotations, offsets_m):
    """Returns the joints alone, of the skeleton of EgoBody3M."""
    return kinematics.forward_kinematics(SKELETON.parents, root_rotation, root_position_m, joint_rotations, offsets_m)[
        0
    ]


def _random_pose(seed: int, num_joints: int, frames: int, dtype=np.float32):
    rng = np.random.default_rng(seed)
    rotations = sst.Rotation.from_rotvec(rng.normal(scale=0.5, size=(frames * num_joints, 3))).as_matrix()
    roots = sst.Rotation.random(frames, random_state=seed).as_matrix()
    arrays = (
        *(roots, rng.normal(size=(frames, 3)), rotations.reshape(frames, num_joints, 3, 3)),
        rng.normal(scale=0.3, size=(frames, num_joints, 3)),
    )
    return tuple(x.astype(dtype) for x in arrays)


def _random_body(seed=0, frames=3):
    *pose, _ = _random_pose(seed, SKELETON.num_joints, frames)
    scales = np.random.default_rng(seed).uniform(0.8, 1.2, (1, SKELETON.num_joints))
    offsets = np.asarray(joint_offsets(SKELETON, scales.astype(np.float32)))
    return *pose, np.repeat(offsets, frames, 0)


def _naive(parents, root_rotation, root_position, joint_rotations, offsets):
    positions, rotations = {-1: root_position}, {-1: root_rotation}

    def visit(joint):
        if joint not in positions:
            parent = parents[joint]
            visit(parent)
            positions[joint] = positions[parent] + rotations[parent] @ offsets[joint]
            rotations[joint] = rotations[parent] @ joint_rotations[joint]

    for j in range(len(parents)):
        visit(j)
    return tuple(np.stack([values[j] for j in range(len(parents))]) for values in (positions, rotations))


@pytest.mark.parametrize("name", TREES)
def test_numpy_and_jax_equal_a_naive_walk_of_any_tree(name):
    parents = tree(name)
    pose = _random_pose(1, len(parents), frames=3, dtype=np.float64)
    expected = [np.stack(x) for x in zip(*(_naive(parents, *(x[t] for x in pose)) for t in range(3)), strict=True)]
    on_host = kinematics.forward_kinematics(parents, *pose)
    on_device = forward_kinematics(parents, *(x.astype(np.float32) for x in pose))
    for host, device, value in zip(on_host, on_device, expected, strict=True):
        assert isinstance(host, np.ndarray) and host.dtype == np.float64
        assert isinstance(device, jax.Array) and device.dtype == np.float32
        np.testing.assert_allclose(host, value, atol=1e-12)
        np.testing.assert_allclose(device, value, atol=1e-5)


@pytest.mark.parametrize("name", TREES)
def test_local_rotations_undo_forward_kinematics(name):
    parents = tree(name)
    root_rotation, root_position_m, local, offsets_m = _random_pose(2, len(parents), frames=3, dtype=np.float64)
    _, rotations = kinematics.forward_kinematics(parents, root_rotation, root_position_m, local, offsets_m)
    np.testing.assert_allclose(kinematics.local_rotations(parents, root_rotation, rotations), local, atol=1e-12)


@pytest.mark.parametrize("parents", [(1, 0), (0,), (-1, 5), (-1, -2)])
def test_parents_that_are_not_a_tree_are_refused(parents):
    pose = _random_pose(0, len(parents), frames=1)
    with pytest.raises(ValueError, match=r"parents: joints .* do not hang on the root"):
        kinematics.forward_kinematics(parents, *pose)


def test_bone_lengths_do_not_depend_on_the_pose():
    a, b = _random_body(0), _random_body(1)
    offsets = a[3]
    lengths = [np.asarray(bone_lengths(SKELETON, fk(*body[:3], offsets))) for body in (a, b)]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-5)
    np.testing.assert_allclose(lengths[0][:, 3], np.linalg.norm(offsets[:, 3], axis=-1), atol=1e-5)


def test_bone_lengths_have_finite_gradients_where_joints_coincide():
    gradient = jax.jit(jax.grad(lambda x: kinematics.bone_lengths(SKELETON, x).sum()))
    assert np.isfinite(gradient(np.zeros((SKELETON.num_joints, 3), np.float32))).all()


def test_fit_rebuilds_a_body_of_constant_bones():
    joints = np.asarray(fk(*_random_body(2, frames=6)))
    body = kinematics.fit_body(SKELETON, joints)
    np.testing.assert_allclose(_rebuild(SKELETON, body), joints, atol=2e-5)


def test_fit_rebuilds_a_body_of_another_skeleton():
    other = Skeleton(
        name="other",
        joint_names=("knee", "left", "right", "head", "left_toe", "right_toe"),
        parents=(2, -1, -1, -1, 0, 0),
        mirror=(0, 2, 1, 3, 5, 4),
        root_between=(1, 2),
        groups=(JointGroup(name="all", joints=(0, 1, 2, 3, 4, 5)),),
        rest_offsets_m=((0, -0.4, 0), (0.1, 0, 0), (-0.1, 0, 0), (0, 0.5, 0.1), (0.1, -0.3, 0.2), (-0.1, -0.3, 0.1)),
        rest_root_headset_m=(0.0, 0.0, 0.0),
    )
    *pose, drawn_m = _random_pose(3, other.num_joints, frames=8, dtype=np.float64)
    joints, _ = kinematics.forward_kinematics(
        other.parents, *pose, np.broadcast_to(other.rest_offsets_m, drawn_m.shape)
    )
    np.testing.assert_allclose(_rebuild(other, kinematics.fit_body(other, joints)), joints, atol=1e-5)


def test_fit_keeps_the_bones_of_an_earlier_fit():
    bodies = [_random_body(seed, frames=6) for seed in (2, 4)]
    first, second = (np.asarray(fk(*pose, bodies[0][3])) for *pose, _ in bodies)
    offsets_m = kinematics.fit_body(SKELETON, first).offsets_m
    body = kinematics.fit_body(SKELETON, second, offsets_m)
    np.testing.assert_array_equal(body.offsets_m, offsets_m)
    np.testing.assert_allclose(_rebuild(SKELETON, body), second, atol=2e-5)


def test_fit_takes_the_twist_of_single_bones_from_a_body_that_is_like_it():
    root, position, local, offsets = (np.asarray(x, np.float64) for x in _random_body(2, frames=6))
    leaves = [j for j in range(SKELETON.num_joints) if j not in SKELETON.inner_joints]
    local[:, leaves] = np.eye(3)
    around = list(SKELETON.children(-1))
    offsets[:, around] = np.asarray(SKELETON.rest_offsets_m)[around]  # the root between the hips
    joints, rotations = kinematics.forward_kinematics(SKELETON.parents, root, position, local, offsets)
    like = np.concatenate([rotations, root[:, None]], axis=1)
    np.testing.assert_allclose(kinematics.fit_body(SKELETON, joints, like=like).joint_rotations, local, atol=1e-3)
    without = kinematics.fit_body(SKELETON, joints)
    assert np.abs(without.joint_rotations - local).max() > 0.1


def test_fit_gives_bones_of_no_length_no_direction():
    *pose, offsets = _random_body(2, frames=40)
    noise = np.random.default_rng(0).normal(0, 1e-3, (40, SKELETON.num_joints, 3))
    joints = np.asarray(fk(*pose, offsets)) + noise
    body = kinematics.fit_body(SKELETON, joints)
    ankle = SKELETON.index("b_l_talocrural")  # at rest it coincides with its parent
    assert np.linalg.norm(body.offsets_m[ankle]) < kinematics.MIN_BONE_M
    np.testing.assert_array_equal(body.joint_rotations[:, SKELETON.parents[ankle]], np.tile(np.eye(3), (40, 1, 1)))
    assert np.linalg.norm(_rebuild(SKELETON, body) - joints, axis=-1).max() < 0.015


def test_fit_refuses_bad_input():
    with pytest.raises(ValueError, match=r"joints to fit: expected \(any, 26, 3\) floating, got \(2, 5, 3\)"):
        kinematics.fit_body(SKELETON, np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="joints to fit, number of frames: must be at least 1"):
        kinematics.fit_body(SKELETON, np.zeros((0, 26, 3)))
    with pytest.raises(ValueError, match="joints to fit: holds values that are not finite; drop those frames"):
        kinematics.fit_body(SKELETON, np.full((1, 26, 3), np.nan))


def test_fit_reproduces_the_real_sample_below_half_a_millimetre(shared_data):
    with zipfile.ZipFile(shared_data / "egobody3m_sample" / "603778748449547.metadata.zip") as archive:
        frames = [json.loads(archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(".json")]
    joints_world_m = np.array([frame["joint_positions_world_cm"] for frame in frames]) / 100
    body = kinematics.fit_body(SKELETON, joints_world_m)
    err_cm = 100 * np.linalg.norm(_rebuild(SKELETON, body) - joints_world_m, axis=-1)
    assert err_cm.max() < 0.05


def _rebuild(skeleton: Skeleton, body: kinematics.FittedBody) -> np.ndarray:
    offsets_m = np.broadcast_to(body.offsets_m, body.joint_rotations.shape[:-1])
    pose = (body.root_rotation, body.root_position_m, body.joint_rotations)
    return kinematics.forward_kinematics(skeleton.parents, *pose, offsets_m)[0]


def test_compiles_under_several_leading_axes():
    arrays = _random_body(frames=6)
    nested = [x.reshape(2, 3, *x.shape[1:]) for x in arrays]
    many = np.asarray(jax.jit(fk)(*nested))
    one = fk(*arrays)
    np.testing.assert_allclose(many.reshape(one.shape), one, atol=1e-5)
