import json
import zipfile

import numpy as np
import pytest

from epfv2_jax.data import rig
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.calibration import lens
from epfv2_jax.data.calibration.report import report
from epfv2_jax.geometry import cameras, layout, transforms

SIZES = np.array([[640, 480], [1280, 1024], [1280, 1024], [640, 480]])


@pytest.fixture(scope="module")
def sample(shared_data):
    """Joints in the headset frame (F, J, 3) and projections (F, V, J, 3), metres and pixels, of the real clip."""
    with zipfile.ZipFile(shared_data / "egobody3m_sample" / "603778748449547.metadata.zip") as archive:
        frames = [json.loads(archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(".json")]
    T = np.array([frame["world_from_headset_xf_cm"] for frame in frames]).reshape(-1, 4, 4)
    joints = np.array([frame["joint_positions_world_cm"] for frame in frames])
    points = np.einsum("fba,fjb->fja", T[:, :3, :3], joints - T[:, None, :3, 3]) / 100
    uvz = np.array([[frame[f"projected_joint_positions_cam{v}_px"] for v in range(4)] for frame in frames])
    return points, uvz * np.array([1.0, 1.0, 0.01])


def _seen(the_rig, points):
    """Projections (F, V, J, 3) of joints (F, J, 3) by the bare formula; behind the camera a meaningless pixel."""
    points_cam = np.asarray(transforms.apply(the_rig.T_cam_headset, points[:, None].astype(np.float32)))
    uv, _ = cameras.project(cameras.without_turning_limit(the_rig.cameras), points_cam)
    return np.concatenate([np.asarray(uv), points_cam[..., 2:]], axis=-1)


def _moving_body(frames, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(frames, 26, 3)) * np.array([0.4, 0.4, 0.4]) + np.array([0.0, -0.6, 0.2])


def test_real_sample_from_scratch(sample):
    fits = calibration.calibrate_sequence(*sample, SIZES)
    points, uvz = sample
    fitted_rig = calibration.to_rig(fits)
    points_cam = np.asarray(transforms.apply(fitted_rig.T_cam_headset, points[:, None].astype(np.float32)))
    uv, _ = cameras.project(cameras.without_turning_limit(fitted_rig.cameras), points_cam)
    for view, fit in enumerate(fits):
        assert fit.good and fit.rms_px < 1e-3 and fit.held_out_rms_px < 5e-3, fit.verdict
        # The rounded camera that is handed out does it too, through the library's own projection.
        front = uvz[:, view, :, 2] > calibration.MIN_DEPTH_M
        error = np.linalg.norm(np.asarray(uv)[:, view] - uvz[:, view, :, :2], axis=-1)[front]
        assert np.sqrt(np.mean(error**2)) < 1e-3
        assert fit.num_points == front.sum()


def test_real_sample_gives_the_published_fit(sample):
    default = rig.default_rig()
    for view, fit in enumerate(calibration.calibrate_sequence(*sample, SIZES)):
        np.testing.assert_allclose(fit.camera.focal_px, default.cameras.focal_px[view], atol=0.02)
        np.testing.assert_allclose(fit.camera.center_px, default.cameras.center_px[view], atol=0.01)
        np.testing.assert_allclose(fit.T_cam_headset, default.T_cam_headset[view], atol=1e-5)


def test_recovers_another_headset(sample):
    """A rig of other numbers, its pixels behind the camera replaced by rubbish, many frames, a few gross outliers."""
    default = rig.default_rig()
    rng = np.random.default_rng(3)
    other = default.replace(
        cameras=default.cameras.replace(
            focal_px=default.cameras.focal_px * 1.03,
            center_px=default.cameras.center_px + rng.normal(scale=4.0, size=(4, 2)).astype(np.float32),
            radial=default.cameras.radial * 0.9,
        ),
        T_cam_headset=default.T_cam_headset.copy(),
    )
    other.T_cam_headset[:, :3, 3] += 0.004
    points = _moving_body(300)
    uvz = _seen(other, points)
    behind = uvz[..., 2] < 0
    uvz[..., :2][behind] = rng.uniform(0, 500, (behind.sum(), 2))
    uvz[5, :, 3, :2] += 30.0
    for known in (None, default):
        fits = calibration.calibrate_sequence(points, uvz, SIZES, known)
        for view, fit in enumerate(fits):
            assert fit.good, fit.verdict
            np.testing.assert_allclose(fit.camera.focal_px, other.cameras.focal_px[view], rtol=1e-4)
            np.testing.assert_allclose(fit.camera.center_px, other.cameras.center_px[view], atol=0.05)


def test_jacobian_equals_differences():
    rng = np.random.default_rng(0)
    n = 20
    pairs = lens.Pairs(
        rng.normal(size=(n, 2)), rng.uniform(0.1, 1, n), np.zeros((n, 2)), np.zeros(n, int), np.sign(rng.normal(size=n))
    )
    x = np.array([0.4, 0.02, -0.03, 240.0, 0.99, 318.0, 241.0, *(240 * rng.normal(scale=0.05, size=6)), 1e-5, -2e-5])
    analytic = lens.project_jacobian(x, pairs)
    for i in range(x.size):
        step = np.zeros_like(x)
        step[i] = 1e-6 * max(abs(x[i]), 1e-3)
        difference = lens.project(x + step, pairs) - lens.project(x - step, pairs)
        np.testing.assert_allclose(analytic[..., i], difference / (2 * step[i]), rtol=1e-4, atol=1e-4)


def _case(name):
    points = _moving_body(30)
    uvz = _seen(rig.default_rig(), points)
    if name == "few points":
        points, uvz = points[:1], uvz[:1]
    elif name == "no frame":
        points, uvz = points[:0], uvz[:0]
    elif name == "everything behind":
        uvz[..., 2] = -1.0
    elif name == "not finite":
        uvz[:] = np.nan
    elif name == "one place":
        points[:] = points[:1, :1]
        uvz[:] = uvz[:1, :, :1]
    elif name == "flat":
        points[..., 0] = 0.1
        uvz = _seen(rig.default_rig(), points)
    elif name == "noise":
        uvz[..., :2] += np.random.default_rng(0).normal(size=uvz[..., :2].shape)
    elif name == "shuffled pixels":
        uvz[..., :2] = np.random.default_rng(0).uniform(0, 400, uvz[..., :2].shape)
    elif name == "shuffled depths":
        uvz[..., 2] = np.random.default_rng(0).uniform(0.1, 2, uvz[..., 2].shape)
    return points, uvz


@pytest.mark.parametrize("known", [True, False], ids=["with default rig", "from scratch"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("few points", "60 are needed"),
        ("no frame", "60 are needed"),
        ("everything behind", "60 are needed"),
        ("not finite", "60 are needed"),
        ("one place", "three dimensions"),
        ("flat", "three dimensions"),
        ("noise", "residual"),
        ("shuffled pixels", "residual"),
        ("shuffled depths", "depths are not linear"),
    ],
)
def test_hopeless_sequences_get_a_verdict(name, reason, known):
    fits = calibration.calibrate_sequence(*_case(name), SIZES, rig.default_rig() if known else None)
    assert len(fits) == 4
    for fit in fits:
        assert fit.verdict.startswith("poor: ") and reason in fit.verdict
        assert np.isfinite(fit.camera.focal_px).all() and np.isfinite(fit.T_cam_headset).all()
    assert len(report(fits, layout.EGOBODY3M).splitlines()) == 4


def test_narrow_view_is_called_uncertain():
    """Joints seen only far from the axis do not determine the middle of the image, however small the residual."""
    default = rig.default_rig()
    rng = np.random.default_rng(0)
    angle, around = rng.uniform(1.25, 1.3, (40, 26)), rng.uniform(-2, 2, (40, 26))
    unit = np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], axis=-1)
    points_cam = unit * rng.uniform(0.3, 1.5, (40, 26, 1))
    T_headset_cam = np.linalg.inv(default.T_cam_headset[0].astype(np.float64))
    points = points_cam @ T_headset_cam[:3, :3].T + T_headset_cam[:3, 3]
    uvz = _seen(default, points)
    uvz[..., :2] += rng.normal(scale=1e-3, size=uvz[..., :2].shape)
    fit = calibration.calibrate_sequence(points, uvz, SIZES)[0]
    assert "uncertain" in fit.verdict and fit.rms_px < 0.01
    regularised = calibration.calibrate_sequence(points, uvz, SIZES, default)[0]
    assert regularised.image_sd_px < fit.image_sd_px


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(F, V, J, 3\)"):
        calibration.calibrate_sequence(np.zeros((3, 26, 3)), np.zeros((4, 3, 26, 3)), SIZES)
