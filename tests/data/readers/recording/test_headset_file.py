"""headset.yaml: what it says, what is refused, and the rig of its views."""

import types

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from epfv2_jax.core import files
from epfv2_jax.data.readers.recording import headset as headset_lib
from epfv2_jax.geometry import cameras

FIELDS = {
    "format": "epfv2-asl/1",
    "world_up": "z",
    "T_headset_body": np.eye(4).tolist(),
    "views": [
        {"camera": "cam1", "name": "left", "upright_turns": -1, "mirror": "right"},
        {"camera": "cam0", "name": "right", "upright_turns": 1, "mirror": "left"},
    ],
    "joints": {"b_l_arm": "LUArm"},
}


def written(folder, **changes):
    path = folder / "headset.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**FIELDS, **changes}.items() if v is not None}))
    return path


def test_its_fields_and_defaults(tmp_path):
    headset = headset_lib.read_headset(written(tmp_path))
    layout = headset.layout
    assert layout.view_names == ("left", "right") and layout.upright_turns == (-1, 1) and layout.mirror == (1, 0)
    assert headset.joints == {"b_l_arm": "LUArm"}
    assert (headset.max_pose_gap_ms, headset.max_skew_ms) == (20, 5)
    alone = headset_lib.read_headset(written(tmp_path, views=[{"camera": "cam0", "name": "front"}], world_up=None))
    assert alone.layout.mirror is None and alone.world_up == "y"


@pytest.mark.parametrize(
    "up, axis", [(s + "xyz"[i], (-1 if s else 1) * np.eye(3)[i]) for s in ("", "-") for i in (0, 1, 2)]
)
def test_the_worlds_up_axis_becomes_y(tmp_path, up, axis):
    R = headset_lib.read_headset(written(tmp_path, world_up=up)).R_yup_world
    np.testing.assert_array_equal(R @ axis, [0, 1, 0])
    np.testing.assert_array_equal(R @ R.T, np.eye(3))
    assert np.linalg.det(R) == 1


REFLECTION = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "epfv2-asl/2"}, "format: 'epfv2-asl/2' is not one of 'epfv2-asl/1'"),
        ({"world_up": "up"}, "world_up: 'up' is not one of 'x', 'y', 'z'"),
        ({"T_headset_body": None}, "T_headset_body: required key is missing"),
        ({"T_headset_body": REFLECTION}, "T_headset_body: the rotation part is a reflection"),
        ({"T_headset_body": np.eye(3).tolist()}, "T_headset_body: expected 4 values"),
        ({"views": []}, "views: there are none; list the cameras"),
        (
            {"views": [{"camera": "cam0", "name": "a", "turns": 1}]},
            r"views\[0\].turns: unknown key; did you mean upright_",
        ),
        (
            {"views": [{"camera": "cam0", "name": "a", "upright_turns": 90}]},
            "upright_turns: must be in .-3, 3., got 90",
        ),
        ({"views": [{"camera": "cam0", "name": "a", "mirror": "b"}]}, r"views\[0\].mirror: 'b' is not one of 'a'"),
        ({"views": [{"camera": c, "name": "a"} for c in ("cam0", "cam1")]}, "'a', number of views: expected 1, got 2"),
        ({"views": [FIELDS["views"][0], {"camera": "cam0", "name": "right"}]}, "partner of all views or of none"),
        ({"world_upp": "y"}, "world_upp: unknown key; did you mean world_up"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"headset\.yaml: .*{message}"):
        headset_lib.read_headset(written(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"a: [", b"- 1", b"\xff\xfe\xff", b"a: !!python/object:os.system x", b""])
def test_what_is_no_headset_yaml_is_refused_by_name(tmp_path, content):
    (tmp_path / "headset.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)headset\.yaml: .*docs/own_data.md describes the file") as error:
        headset_lib.read_headset(tmp_path / "headset.yaml")
    assert str(error.value).count("headset.yaml") == 1


def test_numbers_of_yaml(tmp_path):
    (tmp_path / "a.yaml").write_text("[1e-3, -2E+4, .5e1, 5e-05, 1e, 0x10, 1.5]")
    assert files.read_yaml(tmp_path / "a.yaml") == [1e-3, -2e4, 5.0, 5e-05, "1e", 16, 1.5]


def camera_of(name, T_body_cam, model="fisheye"):
    lens = cameras.pinhole(focal_px=20.0, center_px=(15.5, 11.5), size_px=(32, 24)).replace(model=model)
    return types.SimpleNamespace(name=name, camera=lens, T_body_cam=T_body_cam)


def transform(rng):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    return T


def test_the_rig_maps_headset_to_camera(tmp_path):
    rng = np.random.default_rng(0)
    T_headset_body, T_body_cam = transform(rng), [transform(rng), transform(rng)]
    headset = headset_lib.read_headset(written(tmp_path, T_headset_body=T_headset_body.tolist()))
    rig, layout = headset_lib.rig_of(headset, [camera_of(f"cam{i}", T_body_cam[i]) for i in (0, 1)])
    assert layout == headset.layout and rig.cameras.focal_px.shape == (2, 2)
    for view, cam in ((0, 1), (1, 0)):  # the first view is cam1
        there_and_back = T_headset_body @ T_body_cam[cam] @ rig.T_cam_headset[view]
        np.testing.assert_allclose(there_and_back, np.eye(4), atol=1e-6)


def test_cameras_that_do_not_fit_are_named(tmp_path):
    headset = headset_lib.read_headset(written(tmp_path))
    cam0, cam1 = (camera_of(f"cam{i}", np.eye(4)) for i in (0, 1))
    with pytest.raises(ValueError, match=r"views\[0\].camera: 'cam1' is not one of 'cam0'"):
        headset_lib.rig_of(headset, [cam0])
    with pytest.raises(ValueError, match="camera cam1: the calibration has no extrinsics"):
        headset_lib.rig_of(headset, [cam0, camera_of("cam1", None)])
    with pytest.raises(ValueError, match="lens model of cam0, beside that of cam1: expected 'pinhole', got 'fisheye'"):
        headset_lib.rig_of(headset, [cam0, camera_of("cam1", np.eye(4), "pinhole")])
    with pytest.raises(ValueError, match=r"camera cam1: camera to body: .* reflection"):
        headset_lib.rig_of(headset, [cam0, camera_of("cam1", np.diag([1.0, 1, -1, 1]))])
    assert headset_lib.rig_of(headset, [cam0, cam1])[0].cameras.model == "fisheye"
