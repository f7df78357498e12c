"""The headset vector: blind to absolute place and heading, right about gravity, height and motion."""

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax.models import headset

headset_vector = jax.jit(headset.headset_vector)


def poses(seed=0, n=6):
    """Returns random headset poses (1, n, 4, 4)."""
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (1, n, 1, 1))
    T[0, :, :3, :3] = Rotation.random(n, rng=rng).as_matrix()
    T[0, :, :3, 3] = rng.normal(size=(n, 3))
    return T.astype(np.float32)


def vector(T, previous, has_previous=True, gap=1):
    """Returns the vector with constant masks."""
    shape = T.shape[:2]
    return np.asarray(headset_vector(T, previous, np.full(shape, has_previous), np.full(shape, gap)))


def test_turning_and_moving_the_world_changes_nothing():
    T, previous = poses(0), poses(1)
    move = np.eye(4, dtype=np.float32)
    move[:3, :3] = Rotation.from_euler("y", 2.0).as_matrix()
    move[:3, 3] = 5.0, 0.0, -3.0
    np.testing.assert_allclose(vector(T, previous), vector(move @ T, move @ previous), atol=2e-4)
    raised = T.copy()
    raised[..., 1, 3] += 0.3
    changed = np.abs(vector(raised, previous, False) - vector(T, previous, False)).max((0, 1)) > 1e-6
    assert np.flatnonzero(changed).tolist() == [9]


def test_gravity_and_level_rotation_are_in_headset_axes():
    pitch = Rotation.from_euler("x", 0.4).as_matrix()  # nods down: +z forward turns to -y
    T = np.eye(4)[None, None].astype(np.float32)
    T[..., :3, :3] = Rotation.from_euler("y", 1.1).as_matrix() @ pitch
    v = vector(T, T)[0, 0]
    np.testing.assert_allclose(v[:6], [*pitch[:, 0], *pitch[:, 1]], atol=1e-6)
    np.testing.assert_allclose(v[6:9], pitch.T @ [0, -1, 0], atol=1e-6)
    assert v[8] > 0  # looking down, the ground lies ahead


def test_motion_is_per_frame_time_in_headset_axes_and_zero_at_the_start():
    previous = poses(2, 1)
    step = np.eye(4, dtype=np.float32)
    step[:3, :3] = Rotation.from_rotvec([0.0, 0.02, 0.0]).as_matrix()
    step[:3, 3] = 0.0, 0.0, 0.03
    moved = vector(previous @ step, previous)[0, 0, 10:]
    np.testing.assert_allclose(moved[6:], [0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(moved[2], -np.sin(0.02) / 0.05, atol=1e-3)
    np.testing.assert_allclose(vector(previous @ step, previous, gap=2)[0, 0, 10:], moved / 2, atol=1e-5)
    assert (vector(previous @ step, previous, has_previous=False)[..., 10:] == 0).all()


def test_heading_is_finite_and_smooth_when_looking_straight_down():
    down = Rotation.from_euler("x", np.pi / 2).as_matrix()
    heading, jacobian = jax.jit(headset.heading), jax.jit(jax.jacobian(headset.heading))
    for R in (down, np.diag([1.0, -1.0, -1.0])):  # straight down; upside down, where no heading exists
        assert np.isfinite(heading(R)).all()
        assert np.isfinite(jacobian(R)).all()
    turned = Rotation.from_euler("y", 0.7).as_matrix()
    np.testing.assert_allclose(heading(turned @ down), turned, atol=1e-6)
