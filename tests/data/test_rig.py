import json

import numpy as np

from epfv2_jax.data import rig
from epfv2_jax.geometry import cameras, layout, transforms


def test_default_rig_is_rigid_and_looks_where_it_should():
    default = rig.default_rig()
    transforms.check_rigid(default.T_cam_headset, tolerance=1e-5)
    np.testing.assert_array_equal(default.cameras.size_px, [[640, 480], [1280, 1024], [1280, 1024], [640, 480]])
    axis_headset = default.T_cam_headset[:, 2, :3]
    assert axis_headset[0, 0] > 0.8 and axis_headset[3, 0] < -0.8  # side cameras look left and right
    assert (axis_headset[1:3, 2] > 0.9).all()  # front cameras look ahead
    assert (axis_headset[:, 1] < 0).all()  # all look downwards
    down_headset = default.T_cam_headset[:, 0, :3]
    assert (down_headset[:, 1] < -0.8).all()  # stored image +x points down


def test_upright_rig_sees_the_turned_and_resized_image():
    stored = rig.default_rig()
    upright = rig.upright(stored, layout.EGOBODY3M, (96, 80))
    transforms.check_rigid(upright.T_cam_headset, tolerance=1e-5)
    assert (upright.T_cam_headset[:, 1, 1] < -0.8).all()  # image +y points down
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(40, 3)) * np.array([0.4, 0.3, 0.4]) + np.array([0.0, -0.8, 0.4])).astype(np.float32)
    uv, valid = cameras.project(stored.cameras, transforms.apply(stored.T_cam_headset, points))
    uv_upright, valid_upright = cameras.project(upright.cameras, transforms.apply(upright.T_cam_headset, points))
    np.testing.assert_array_equal(valid, valid_upright)
    assert np.asarray(valid).sum() > 60
    # np.rot90(image, -1): the new column counts old rows from the bottom, the new row is the old column.
    width, height = stored.cameras.size_px.T
    expected = np.stack(
        [
            (height[:, None] - 1 - uv[..., 1] + 0.5) * 80 / height[:, None] - 0.5,
            (uv[..., 0] + 0.5) * 96 / width[:, None] - 0.5,
        ],
        axis=-1,
    )
    np.testing.assert_allclose(uv_upright[np.asarray(valid)], expected[np.asarray(valid)], atol=1e-3)


def test_default_rig_agrees_with_the_fit_it_was_taken_from(shared_data):
    fitted = json.loads((shared_data / "egobody3m_cameras.json").read_text())["cameras"]
    default = rig.default_rig()
    for view, camera in enumerate(fitted):
        np.testing.assert_allclose(default.cameras.focal_px[view], [camera["fx"], camera["fy"]], rtol=1e-6)
        np.testing.assert_allclose(default.cameras.radial[view], camera["k"], rtol=1e-6)
        T = np.array(camera["camera_from_headset_cm"])
        np.testing.assert_allclose(default.T_cam_headset[view, :3, 3] * 100, T[:3, 3], rtol=1e-5)
        np.testing.assert_allclose(default.T_cam_headset[view, :3, :3], T[:3, :3], atol=1e-6)
