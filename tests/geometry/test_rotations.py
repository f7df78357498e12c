import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform as sst

from epfv2_jax.geometry import rotations

ANGLES = [0.0, 1e-6, 1e-3, 0.4999, 0.5001, 0.9999, 1.0001, 2.0, 3.0, np.pi - 1e-3]


def _random_matrices(count: int) -> np.ndarray:
    return sst.Rotation.random(count, random_state=0).as_matrix().astype(np.float32)


def test_conversions_equal_scipy():
    matrices = _random_matrices(200)
    reference = sst.Rotation.from_matrix(matrices)
    np.testing.assert_allclose(rotations.matrix_to_axis_angle(matrices), reference.as_rotvec(), atol=2e-5)
    quaternion = reference.as_quat(canonical=True, scalar_first=True)
    np.testing.assert_allclose(rotations.matrix_to_quaternion(matrices), quaternion, atol=1e-6)
    np.testing.assert_allclose(rotations.quaternion_to_matrix(jnp.asarray(3.0 * quaternion)), matrices, atol=1e-6)
    np.testing.assert_allclose(rotations.axis_angle_to_matrix(reference.as_rotvec()), matrices, atol=1e-6)
    np.testing.assert_allclose(rotations.rot6d_to_matrix(rotations.matrix_to_rot6d(matrices)), matrices, atol=1e-6)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotations_about_axes_equal_scipy(axis):
    angles = np.linspace(-4, 4, 9, dtype=np.float32)
    ours = getattr(rotations, f"rotation_{axis}")(angles)
    np.testing.assert_allclose(ours, sst.Rotation.from_euler(axis, angles[:, None]).as_matrix(), atol=1e-6)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    hypothesis.extra.numpy.arrays(
        np.float32, (4, 6), elements=hypothesis.strategies.floats(-3, 3, width=32, allow_subnormal=False)
    )
)
@hypothesis.example(np.full((4, 6), 2.5, np.float32))  # parallel, and not to a coordinate axis
def test_every_rot6d_gives_a_rotation(rot6d):
    matrix = np.asarray(rotations.rot6d_to_matrix(rot6d))
    np.testing.assert_allclose(matrix @ matrix.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(matrix), 1.0, atol=1e-4)


def test_degenerate_rot6d_has_finite_gradients():
    rot6d = np.array([[0] * 6, [0, 0, 2, 0, 0, 5], [1, 0, 0, 0, 0, 0], [1e-9] * 6], np.float32)
    matrix = np.asarray(rotations.rot6d_to_matrix(rot6d))
    np.testing.assert_allclose(matrix @ matrix.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-6)
    assert np.isfinite(jax.jit(jax.vmap(jax.jacobian(rotations.rot6d_to_matrix)))(rot6d)).all()


@pytest.mark.parametrize("function", ["exp", "log"])
def test_exp_and_log_gradients_equal_float64(function):
    axis = np.array([2.0, -1.0, 0.5]) / np.sqrt(5.25)
    vectors = np.asarray(ANGLES)[:, None] * axis
    if function == "exp":
        at, convert, atol = vectors, rotations.axis_angle_to_matrix, 2e-6
    else:
        at, convert, atol = sst.Rotation.from_rotvec(vectors).as_matrix(), rotations.matrix_to_axis_angle, 2e-5
    at = at.astype(np.float32)
    jacobian = jax.jit(jax.vmap(jax.jacobian(convert)))
    single = jacobian(at)
    with jax.enable_x64(True):
        at = at.astype(np.float64)
        double = np.asarray(jacobian(at))
        # The double one is checked by differences, so that the two cannot be wrong together.
        direction = np.random.default_rng(1).normal(size=at.shape[1:])
        step = 1e-5
        up, down = (np.asarray(convert(at + sign * step * direction)) for sign in (1, -1))
    np.testing.assert_allclose(single, double, atol=atol)
    along = np.tensordot(double, direction, axes=direction.ndim)
    np.testing.assert_allclose(along, (up - down) / (2 * step), atol=1e-6)


def test_log_at_half_turn():
    half_turns = sst.Rotation.from_rotvec(np.pi * np.eye(3)).as_matrix().astype(np.float32)
    np.testing.assert_allclose(np.abs(rotations.matrix_to_axis_angle(half_turns)), np.pi * np.eye(3), atol=1e-5)
    assert np.isfinite(jax.jit(jax.vmap(jax.jacobian(rotations.matrix_to_axis_angle)))(half_turns)).all()
