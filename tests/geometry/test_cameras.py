import json
import zipfile

import jax
import numpy as np
import pytest

from epfv2_jax.geometry import cameras, distortion

K = (-0.028, 0.122, -0.12, 0.06, -0.02, 0.003)
P = (-0.002, 0.0034)
S = (0.003, -0.0007, -0.002, 0.0005)
SIZE = (640, 480)


def _fisheye(**changes) -> cameras.Camera:
    values = dict(focal_px=(241.0, 240.4), center_px=(317.5, 241.5), k=K, p=P, s=S, size_px=SIZE)
    return cameras.fisheye624(**{**values, **changes})


# The radial curve of the right front camera of the EgoBody3M sample turns over inside the half space.
TURNING = cameras.fisheye62(
    focal_px=(507.4, 505.7),
    center_px=(639.6, 511.5),
    k=(0.0437, -0.0519, 0.0484, -0.0571, 0.0312, -0.0066),
    p=(0.00135, -0.00137),
    size_px=(1280, 1024),
)
PINHOLE = cameras.pinhole(focal_px=(300.0, 310.0), center_px=(320.0, 239.0), size_px=SIZE)
# The eight coefficients of a headset's factory calibration are of this size; p is in the order of OpenCV.
RATIONAL_K, RATIONAL_P, RATIONAL_S = (0.42, 0.21, 0.012, 0.74, 0.33, 0.046), (4e-4, -3e-4), (8e-4, -2e-5, -6e-4, 1e-5)


def _rational(**changes) -> cameras.Camera:
    p1, p2 = RATIONAL_P
    values = dict(k=RATIONAL_K, p=(p2, p1), s=RATIONAL_S, focal_px=(241.0, 240.4), center_px=(317.5, 241.5))
    return cameras.rational(**{**values, "size_px": SIZE, **changes})


# A lens of two radial coefficients, whose map turns over at 53 degrees.
BARREL = _rational(k=(-0.28, 0.03, 0, 0, 0, 0), s=())
ALL = {"fisheye624": _fisheye(), "turning": TURNING, "pinhole": PINHOLE, "rational": _rational()}


def project(camera, points_cam_m):
    """As numpy arrays, so that nothing but the projection is compiled."""
    return jax.device_get(cameras.project(camera, points_cam_m))


def unproject(camera, uv_px):
    return jax.device_get(cameras.unproject(camera, uv_px))


def _directions(max_angle_rad: float, count: int = 200) -> np.ndarray:
    """Points 0.1 to 3 m away, from the axis up to an angle."""
    rng = np.random.default_rng(0)
    angle, around = np.linspace(0, max_angle_rad, count), rng.uniform(0, 2 * np.pi, count)
    unit = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], axis=-1)
    return (unit * rng.uniform(0.1, 3.0, (count, 1))).astype(np.float32)


@pytest.mark.extras
def test_fisheye624_equals_project_aria():
    aria = pytest.importorskip("projectaria_tools.core.calibration")
    reference = aria.CameraProjection(
        aria.CameraModelType.FISHEYE624, np.array([241.0, 317.5, 241.5, *K, *P, *S], dtype=np.float64)
    )
    points = _directions(1.35)
    uv, valid = project(_fisheye(focal_px=241.0), points)
    assert valid.all()
    expected = np.stack([reference.project(p.astype(np.float64)) for p in points])
    assert np.abs(uv - expected).max() < 1e-3
    rays, _ = unproject(_fisheye(focal_px=241.0), expected.astype(np.float32))
    back = np.stack([reference.unproject(p) for p in expected])
    np.testing.assert_allclose(rays, back / np.linalg.norm(back, axis=-1, keepdims=True), atol=1e-5)


@pytest.mark.extras
def test_kannala_brandt4_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    points = _directions(1.4)
    camera = cameras.kannala_brandt4(focal_px=(241.0, 240.4), center_px=(317.5, 241.5), k=K[:4], size_px=SIZE)
    matrix = np.array([[241.0, 0, 317.5], [0, 240.4, 241.5], [0, 0, 1]])
    expected, _ = cv2.fisheye.projectPoints(
        points[:, None].astype(np.float64), np.zeros(3), np.zeros(3), matrix, np.array(K[:4])
    )
    uv, valid = project(camera, points)
    assert valid.all()
    assert np.abs(uv - expected[:, 0]).max() < 1e-3


@pytest.mark.extras
@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_rational_equals_opencv(count):
    cv2 = pytest.importorskip("cv2")
    k, p, s = RATIONAL_K, RATIONAL_P, RATIONAL_S
    coefficients = np.array([*k[:2], *p, *k[2:], *s])[:count]
    given = np.pad(coefficients, (0, 12 - count))
    k, s = (*given[:2], *given[4:8]), given[8:]
    camera = _rational(k=k, s=s, dtype=np.float64)
    points = _directions(min(1.3, float(camera.max_angle_rad) - 1e-3)).astype(np.float64)
    matrix = np.array([[241.0, 0, 317.5], [0, 240.4, 241.5], [0, 0, 1]])
    expected, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), matrix, coefficients)
    with jax.enable_x64(True):
        uv, valid, rays, found = *project(camera, points), *unproject(camera, expected[:, 0])
    assert valid.all() and found.all()
    assert np.abs(uv - expected[:, 0]).max() < 1e-9
    np.testing.assert_allclose(rays, points / np.linalg.norm(points, axis=-1, keepdims=True), atol=1e-8)


def test_rational_is_the_formula():
    points = _directions(1.2).astype(np.float64)
    (k1, k2, k3, k4, k5, k6), (p1, p2), (s1, s2, s3, s4) = RATIONAL_K, RATIONAL_P, RATIONAL_S
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = x * x + y * y
    gain = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    u = x * gain + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2**2
    v = y * gain + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2**2
    uv, valid = project(_rational(), points.astype(np.float32))
    assert valid.all()
    assert np.abs(uv - np.stack([241.0 * u + 317.5, 240.4 * v + 241.5], axis=-1)).max() < 1e-3


def test_rational_camera_without_coefficients_is_a_pinhole():
    plain = _rational(k=(0,) * 6, p=(), s=(), focal_px=(300.0, 310.0), center_px=(320.0, 239.0))
    points = _directions(1.5)
    np.testing.assert_allclose(plain.max_angle_rad, PINHOLE.max_angle_rad)
    for found, wanted in zip(project(plain, points), project(PINHOLE, points), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_rational_camera_ends_where_its_map_turns_over():
    angle = np.linspace(0, np.pi / 2, 200001)[:-1]
    r = np.tan(angle)
    turning = angle[np.argmax(np.diff(r * (1 - 0.28 * r**2 + 0.03 * r**4)) < 0)]
    straight = _rational(k=(-0.28, 0.03, 0, 0, 0, 0), p=(), s=())
    assert turning - 1e-3 < straight.max_angle_rad <= turning
    assert _rational(max_angle_rad=0.8).max_angle_rad == np.float32(0.8)
    # A pole of the quotient ends it too.
    assert _rational(k=(0, 0, 0, -0.25, 0, 0), p=(), s=()).max_angle_rad <= np.arctan(2.0)
    # With strong decentring, the map turns over earlier on one side.
    points = _directions(float(BARREL.max_angle_rad) * 0.999)
    shifted = _rational(k=(-0.28, 0.03, 0, 0, 0, 0), p=(0.03, 0.02), s=())
    assert shifted.max_angle_rad < straight.max_angle_rad - 0.01
    uv, valid = project(shifted, points)
    rays, found = unproject(shifted, uv)
    unit = points / np.linalg.norm(points, axis=-1, keepdims=True)
    inner = valid & (unit[:, 2] > np.cos(0.95 * shifted.max_angle_rad))
    assert inner.sum() > 100 and found[inner].all()
    np.testing.assert_allclose(rays[inner], unit[inner], atol=1e-4)


def test_pinhole_is_the_camera_matrix():
    points = _directions(1.2)
    uv, valid = project(PINHOLE, points)
    homogeneous = points @ np.array([[300.0, 0, 320.0], [0, 310.0, 239.0], [0, 0, 1]]).T
    assert valid.all()
    assert np.abs(uv - homogeneous[:, :2] / homogeneous[:, 2:]).max() < 1e-3


def _sample(shared_data):
    with zipfile.ZipFile(shared_data / "egobody3m_sample" / "603778748449547.metadata.zip") as archive:
        frames = [json.loads(archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(".json")]
    T = np.array([frame["world_from_headset_xf_cm"] for frame in frames]).reshape(-1, 4, 4)
    joints = np.array([frame["joint_positions_world_cm"] for frame in frames])
    joints_headset_cm = np.einsum("fba,fjb->fja", T[:, :3, :3], joints - T[:, None, :3, 3])
    uvz = np.array([[frame[f"projected_joint_positions_cam{v}_px"] for v in range(4)] for frame in frames])
    return joints_headset_cm, uvz


@pytest.mark.parametrize("view", range(4))
def test_projection_reproduces_the_pixels_of_the_real_sample(shared_data, view):
    fitted = json.loads((shared_data / "egobody3m_cameras.json").read_text())["cameras"][view]
    joints_headset_cm, uvz = _sample(shared_data)
    T_cam_headset = np.array(fitted["camera_from_headset_cm"])
    points = (joints_headset_cm @ T_cam_headset[:3, :3].T + T_cam_headset[:3, 3])[uvz[:, view, :, 2] > 1.0] / 100
    expected = uvz[:, view][uvz[:, view, :, 2] > 1.0][:, :2]
    camera = cameras.fisheye62(
        focal_px=(fitted["fx"], fitted["fy"]),
        center_px=(fitted["cx"], fitted["cy"]),
        k=fitted["k"],
        p=fitted["p"],
        size_px=fitted["image_size_wh"],
    )
    # The files hold the bare formula's pixels, past the turning point of the third camera too.
    uv, valid = project(cameras.without_turning_limit(camera), points.astype(np.float32))
    assert valid.all()
    assert np.sqrt(np.mean(np.sum((uv - expected) ** 2, axis=-1))) < 1e-3
    limited, valid = project(camera, points.astype(np.float32))
    np.testing.assert_allclose(limited[valid], uv[valid], atol=1e-3)
    angle = np.arctan2(np.linalg.norm(points[:, :2], axis=-1), points[:, 2])
    np.testing.assert_array_equal(valid, angle < camera.max_angle_rad)


def test_turning_angle_is_where_the_radial_curve_stops_growing():
    angle = np.linspace(0, np.pi / 2, 200001)
    curve = angle * (1 + sum(float(k) * angle ** (2 * i + 2) for i, k in enumerate(TURNING.radial)))
    assert abs(angle[np.argmax(curve)] - TURNING.max_angle_rad) < 1e-4
    assert np.pi / 2 - 2e-3 < distortion.fisheye_turning_angle(np.zeros(6)) < np.pi / 2


@pytest.mark.parametrize("name", ALL)
def test_round_trip_up_to_the_valid_angle(name):
    camera = ALL[name]
    points = _directions(float(camera.max_angle_rad) * 0.9999)
    uv, valid = project(camera, points)
    assert valid.all()
    rays, _ = unproject(camera, uv)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1.0, atol=1e-6)
    again, _ = project(camera, rays)
    # At 85 degrees and beyond a float32 pixel of a pinhole image is many pixels from the centre: relative rounding.
    tolerance = 1e-3 + 2e-6 * np.abs(uv).max()
    assert np.abs(again - uv).max() < tolerance
    inner = points[: int(0.9 * len(points))]
    np.testing.assert_allclose(rays[: len(inner)], inner / np.linalg.norm(inner, axis=-1, keepdims=True), atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_unproject_marks_pixels_beyond_the_lens(name):
    camera = ALL[name]
    far = np.array([[1e6, 1e6], [-1e5, 0.0]], np.float32)
    rays, valid = unproject(camera, far)
    assert np.isfinite(rays).all() and not valid.any()


REGULAR = {
    "principal point": [0.0, 0.0, 1.0],
    "near the axis": [1e-6, -1e-6, 1.0],
    "below the switch": [0.1999, 0.0, 1.0],
    "above the switch": [0.2001, 0.0, 1.0],
    "wide": [2.0, 1.0, 0.5],
}
OUTSIDE = {
    "camera centre": [0.0, 0.0, 0.0],
    "plane of the centre": [1.0, 0.0, 0.0],
    "behind": [0.3, -0.2, -1.0],
    "behind on the axis": [0.0, 0.0, -1.0],
    "far": [1e6, 1e6, -1e6],
}


@jax.jit
def _jacobian(camera, points):
    """Derivatives (N, 2, 3) of each pixel by its own point."""
    return jax.vmap(jax.jacobian(lambda point: cameras.project(camera, point[None])[0][0]))(points)


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_float64(name):
    points = np.asarray(list(REGULAR.values()), np.float32)
    uv, valid = project(ALL[name], points)
    single = _jacobian(ALL[name], points)
    assert valid.all()
    with jax.enable_x64(True):
        camera = jax.tree.map(lambda x: x.astype(np.float64), ALL[name])
        points = points.astype(np.float64)
        uv_double, double = project(camera, points)[0], np.asarray(_jacobian(camera, points))
        # The double one is checked by differences, so that the two cannot be wrong together.
        moved = [[project(camera, points + sign * step)[0] for step in 1e-6 * np.eye(3)] for sign in (1, -1)]
        differences = np.stack(moved[0], axis=-1) / 2e-6 - np.stack(moved[1], axis=-1) / 2e-6
    np.testing.assert_allclose(uv, uv_double, rtol=1e-5)
    scale = np.abs(double).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(single / scale, double / scale, atol=1e-5)
    np.testing.assert_allclose(double / scale, differences / scale, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_finite_and_invalid_outside_the_lens(name):
    points = np.asarray(list(OUTSIDE.values()), np.float32)
    uv, valid = project(ALL[name], points)
    gradient = _jacobian(ALL[name], points)
    assert np.isfinite(uv).all() and np.isfinite(gradient).all() and not valid.any()


def test_at_the_turning_point():
    limit = float(TURNING.max_angle_rad)
    angle = np.array([limit - 1e-3, limit - 1e-5, limit + 1e-5, limit + 1e-3])
    points = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=-1).astype(np.float32)
    uv, valid = project(TURNING, points)
    np.testing.assert_array_equal(valid, [True, True, False, False])
    # A clamped point continues the valid ones without a step.
    assert np.abs(np.diff(uv, axis=0)).max() < 1e-2
    assert np.isfinite(_jacobian(TURNING, points)).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("turns", [-1, 1, 2, 3])
def test_rotated_camera_sees_the_rotated_image(name, turns):
    camera = ALL[name]
    width, height = (int(x) for x in camera.size_px)
    rotated, R_new_old = cameras.rotate90(camera, turns)
    points = _directions(1.2)
    uv, _ = project(camera, points)
    uv_new, _ = project(rotated, points @ R_new_old.T)
    for _ in range(turns % 4):
        uv = np.stack([uv[:, 1], width - 1 - uv[:, 0]], axis=-1)
        width, height = height, width
    np.testing.assert_array_equal(rotated.size_px, [width, height])
    np.testing.assert_allclose(uv_new, uv, atol=2e-3)


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_rotation_has_the_sense_of_rot90(turns):
    image = np.zeros((4, 6))
    image[1, 4] = 1  # u = 4, v = 1
    camera = cameras.pinhole(focal_px=5.0, center_px=(2.0, 3.0), size_px=(6, 4))
    rotated, R_new_old = cameras.rotate90(camera, turns)
    ray = np.array([[(4 - 2.0) / 5, (1 - 3.0) / 5, 1.0]], np.float32)
    uv, _ = project(rotated, ray @ R_new_old.T)
    row, column = np.argwhere(np.rot90(image, turns))[0]
    np.testing.assert_allclose(uv[0], [column, row], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_mirrored_camera_sees_the_mirrored_image(name):
    camera = ALL[name]
    points = _directions(1.2)
    uv, _ = project(camera, points)
    mirrored, _ = project(cameras.mirror(camera), points * np.array([[-1.0, 1.0, 1.0]], np.float32))
    np.testing.assert_allclose(mirrored[:, 0], camera.size_px[0] - 1 - uv[:, 0], atol=2e-3)
    np.testing.assert_allclose(mirrored[:, 1], uv[:, 1], atol=2e-3)


@pytest.mark.parametrize("name", ALL)
def test_cropped_padded_and_resized_cameras(name):
    camera = ALL[name]
    points = _directions(1.2)
    uv, _ = project(camera, points)
    for x0, y0 in ((37, 11), (-20, -30)):
        cropped = cameras.crop(camera, x0, y0, 800, 700)
        np.testing.assert_allclose(project(cropped, points)[0], uv - np.array([[x0, y0]]), atol=1e-3)
        np.testing.assert_array_equal(cropped.size_px, [800, 700])
    resized = cameras.resize(camera, 128, 64)
    scale = np.array([[128, 64]]) / camera.size_px[None]
    np.testing.assert_allclose(project(resized, points)[0], (uv + 0.5) * scale - 0.5, atol=1e-3)
    np.testing.assert_allclose(
        cameras.normalized_uv(resized, project(resized, points)[0]), cameras.normalized_uv(camera, uv), atol=2e-5
    )


def test_image_edges():
    edges = np.array([[-0.5, -0.5], [639.5, 479.5], [-0.6, 0], [639.6, 0], [0, 479.6]], np.float32)
    np.testing.assert_array_equal(cameras.inside_image(PINHOLE, edges), [True, True, False, False, False])
    np.testing.assert_allclose(cameras.normalized_uv(PINHOLE, edges[:2]), [[-1, -1], [1, 1]], atol=1e-6)


def test_stacked_cameras_broadcast_like_single_ones():
    views = [_fisheye(), TURNING]
    stacked = cameras.stack(views)
    points = np.random.default_rng(0).normal(size=(3, 2, 7, 3)).astype(np.float32)
    uv, valid = project(stacked, points)
    for v, camera in enumerate(views):
        for t in range(3):
            single_uv, single_valid = project(camera, points[t, v])
            np.testing.assert_allclose(uv[t, v], single_uv, rtol=1e-5)
            np.testing.assert_array_equal(valid[t, v], single_valid)
    shared, _ = project(stacked, points[0, 0])
    assert shared.shape == (2, 7, 2)
    batch = jax.tree.map(lambda x: np.stack([x, x, x]), stacked)
    np.testing.assert_array_equal(project(batch, points)[0], uv)
    turned, _ = cameras.rotate90(batch, 1)
    np.testing.assert_array_equal(turned.size_px[0, 1], [1024, 1280])


def test_stack_refuses_mixed_models():
    with pytest.raises(ValueError, match="one model"):
        cameras.stack([PINHOLE, TURNING])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(focal_px=(0.0, 1.0)), "camera focal_px: must be above 0, got 0.0"),
        (dict(k=K[:4]), "camera k: expected 6"),
        (dict(p=(np.nan, 0.0)), r"camera p: holds values that are not finite; got \[nan, 0.0\]"),
        (dict(center_px=(1e308, 0.0)), "camera center_px: holds values that are not finite"),
        (dict(size_px=(-1, 5)), "camera size_px: must be above 0, got -1.0"),
    ],
)
def test_impossible_cameras_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _fisheye(**changes)
