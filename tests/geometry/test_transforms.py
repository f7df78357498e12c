import numpy as np
import pytest
import scipy.spatial.transform as sst

from epfv2_jax.geometry import transforms


def _random_transform(lead=()):
    rng = np.random.default_rng(3)
    count = int(np.prod(lead))
    R = sst.Rotation.random(count, random_state=0).as_matrix().reshape(*lead, 3, 3).astype(np.float32)
    return np.asarray(transforms.make(R, rng.normal(size=(*lead, 3)).astype(np.float32)))


def test_apply_is_the_homogeneous_product_and_broadcasts():
    T = _random_transform((2, 1))
    points = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    homogeneous = np.concatenate([points, np.ones((4, 5, 1), np.float32)], axis=-1)
    expected = np.einsum("tvij,vnj->tvni", np.broadcast_to(T, (2, 4, 4, 4)), homogeneous)[..., :3]
    np.testing.assert_allclose(transforms.apply(T, points), expected, atol=1e-5)
    np.testing.assert_allclose(
        transforms.rotate(T, points), expected - np.broadcast_to(T[:, :, None, :3, 3], expected.shape), atol=1e-5
    )


def test_inverse_undoes():
    T = _random_transform((3,))
    np.testing.assert_allclose(
        transforms.compose(transforms.invert(T), T), np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-6
    )


def _broken(**changes):
    T = np.eye(4)
    for index, value in changes.values():
        T[index] = value
    return T


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "shape"),
        (_broken(a=((0, 3), np.nan)), "not finite"),
        (_broken(a=((3, 0), 1.0)), "bottom row"),
        (_broken(a=((0, 0), 1.1)), "not orthonormal"),
        (_broken(a=((0, 0), -1.0)), "reflection"),
    ],
)
def test_check_rigid_names_the_fault(matrix, message):
    transforms.check_rigid(np.eye(4))
    with pytest.raises(ValueError, match=f"head pose.*{message}"):
        transforms.check_rigid(matrix, "head pose")
