"""Aria Digital Twin: skeleton and trajectory written by the test, a stand-in for the VRS file; and the excerpt."""

import json

import aria_files
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.core import files
from epfv2_jax.data import records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.readers import READERS, adt, aria, base
from epfv2_jax.geometry import cameras

CONFIG = conversion.ConversionConfig(reader="adt", image_size_hw=(32, 32), record_frames=4)


@pytest.fixture
def sequence(tmp_path, monkeypatch):
    """The folder of one sequence of split train."""
    monkeypatch.setattr(aria, "Vrs", aria_files.FakeVrs)
    folder = tmp_path / "adt" / "train" / "apartment_1"
    aria_files.write_adt(folder)
    return folder


def convert(sequence, tmp_path):
    summary = conversion.convert(sequence.parents[1], tmp_path / "out", CONFIG)["train"]
    return summary, records.read_manifest(tmp_path / "out" / "train").report["sequences"][0]


def test_records_hold_poses_and_joints_at_the_times_of_the_images(sequence, tmp_path):
    summary, report = convert(sequence, tmp_path)
    assert (summary["frames"], summary["frames_kept"], summary["views_missing"]) == (6, 6, 1)
    assert report["bad_views"] == [{"frame": 5, "view": 1, "reason": "video.vrs: image 5 of right: damaged"}]
    split = records.open_records(tmp_path / "out" / "train")
    body = split.skeleton
    solid = np.array([name in adt.JOINTS for name in body.joint_names])
    for run in (split[0], split[1]):
        assert (run.joint_valid == solid).all() and solid.sum() == 14
        for i, frame in enumerate(run.frame_index):
            time_ns = aria_files.START_NS + aria_files.FRAME_NS * int(frame)
            np.testing.assert_allclose(run.T_world_headset[i], aria_files.pose(time_ns), atol=1e-6)
            expected_m = aria_files.joints(time_ns)
            np.testing.assert_allclose(run.joints_world_m[i][solid], expected_m[solid], atol=1e-6)
            np.testing.assert_allclose(run.time_s[i], int(frame) * 0.033328)
    assert split[1].view_valid.tolist() == [[True, True], [True, False]]
    picture = records.decode_images(split[0])[0][0, 0].astype(int)
    assert (np.diff(picture.mean(axis=1)) > 0).all()  # what is right in the stored image is below


def test_the_rig_projects_into_the_upright_images(sequence, tmp_path):
    convert(sequence, tmp_path)
    rig = records.open_records(tmp_path / "out" / "train")[0].rig
    points_headset_m = np.array([[0.2, -0.3, 0.5], [-0.3, -0.4, 0.4], [0.0, -0.1, 0.6]])
    for view in range(2):
        stored = aria_files.camera(view)
        T_cam_headset = np.linalg.inv(stored.T_body_cam) @ aria_files.T_DEVICE_HEADSET
        in_cam_m = points_headset_m @ T_cam_headset[:3, :3].T + T_cam_headset[:3, 3]
        stored_px = np.asarray(cameras.project(stored.camera, in_cam_m)[0])
        (W, H), T = aria_files.SIZE_WH, rig.T_cam_headset[view]
        turned_px = np.stack([H - 1 - stored_px[:, 1], stored_px[:, 0]], axis=-1)  # np.rot90(image, -1)
        expected_px = (turned_px + 0.5) * np.array([32 / H, 32 / W]) - 0.5
        upright_m = points_headset_m @ T[:3, :3].T + T[:3, 3]
        lens = cameras.stack([stored.camera]).replace(
            **{k: v[view : view + 1] for k, v in vars(rig.cameras).items() if k != "model"}
        )
        np.testing.assert_allclose(np.asarray(cameras.project(lens, upright_m[None])[0])[0], expected_px, atol=1e-3)


def test_images_without_a_pose_and_joints_that_are_too_far_are_left_out(sequence, tmp_path):
    aria_files.write_adt(sequence, num_frames=12)
    aria_files.write_trajectory(sequence / "aria_trajectory.csv", np.eye(3), start_ns=aria_files.START_NS + 30_000_000)
    summary, report = convert(sequence, tmp_path)
    assert (summary["frames_kept"], summary["frames_quarantined"]) == (5, 1)
    assert report["quarantined_frames"][0]["reason"].startswith("no pose within 20 ms of 87551000000000 ns")
    valid = records.open_records(tmp_path / "out" / "train")[0].joint_valid.any(-1)
    assert valid.tolist() == [True, True, False, False]  # the skeleton ends 81.7 ms after the first image


def test_a_world_with_another_axis_up_is_turned(tmp_path):
    turn = Rotation.from_euler("x", 90, degrees=True).as_matrix()  # y up to z up
    aria_files.write_trajectory(tmp_path / "t.csv", turn)
    track = aria.read_trajectory(tmp_path / "t.csv")
    times_ns = aria_files.START_NS + np.arange(0, 150_000_000, 7_000_000)
    expected = np.stack([aria_files.pose(time_ns) for time_ns in times_ns])
    np.testing.assert_allclose(track.at(times_ns) @ aria_files.T_DEVICE_HEADSET, expected, atol=1e-6)


def test_a_damaged_frame_of_the_skeleton_is_left_out(sequence):
    path = sequence / "Skeleton_T.json"
    content = json.loads(path.read_text())
    content["frames"][3]["joints"][7] = [0.0, "x", 0.0]
    content["frames"][5]["timestamp_ns"] = content["frames"][4]["timestamp_ns"]
    path.write_text(json.dumps(content))
    track, finding = adt.read_joints(path)
    assert len(track.stamps_ns) == 26 and finding.verdict == "warning"
    assert finding.value == "2 of 28 frames are damaged"
    assert "Skeleton_T.json: frames[3]: joints: expected 51 triples of numbers" in finding.problem


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("skeleton_aria_association.json", "1WM", "2XY", "for serial of metadata.json: '1WM' is not one of '2XY'"),
        ("skeleton_aria_association.json", "Skeleton_T", "NONE", "no skeleton wears these glasses"),
        ("skeleton_aria_association.json", "Skeleton_T", "../x", "no skeleton wears these glasses"),
        ("aria_trajectory.csv", "qw_world_device", "qw", "column: 'qw_world_device' is not one of"),
        ("aria_trajectory.csv", "-9.81", "-98.1", "gravity"),
        ("aria_trajectory.csv", ",1.6", ",x1.6", "could not convert string"),
    ],
)
def test_what_is_wrong_is_named(sequence, tmp_path, file, old, new, message):
    content = (sequence / file).read_text()
    assert old in content
    (sequence / file).write_text(content.replace(old, new))
    summary, report = convert(sequence, tmp_path)
    assert summary["frames_kept"] == 0
    assert report["quarantined"].startswith(f"{file}: ") and message in report["quarantined"]


def test_sequences_outside_of_splits_are_refused(sequence):
    with pytest.raises(ValueError, match=r"folders of splits: there are none; .* put its sequences into folders train"):
        adt.AriaDigitalTwin(sequence).find_sequences()


def test_joints_are_mapped_to_the_same_points(shared_data):
    expected = {"b_l_arm": "LUArm", "b_l_forearm": "LFArm", "b_l_wrist": "LHand", "b_l_upleg": "LThigh"}
    expected |= {"b_l_leg": "LShin", "b_l_talocrural": "LFoot", "b_l_foot_twist": "LFoot"}
    expected |= {name.replace("_l_", "_r_"): "R" + label[1:] for name, label in expected.items()}
    assert expected == adt.JOINTS
    copy = shared_data / "aria_adt_asl" / "test" / "adt_apartment_3frames" / "mav0" / "joints0" / "sensor.yaml"
    assert list(adt.LABELS) == files.read_yaml(copy)["names"]


@pytest.mark.extras
def test_the_public_excerpt_gives_what_its_copy_in_the_layout_of_recordings_gives(shared_data, tmp_path):
    pytest.importorskip("projectaria_tools")
    excerpt = shared_data / "aria_digital_twin_test_data"
    if not excerpt.is_dir():
        pytest.skip("data/gen1/aria_digital_twin_test_data of projectaria_tools is not in ../shared/data")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "apartment").symlink_to(excerpt)
    runs = []
    for name, folder in (("adt", tmp_path), ("recording", shared_data / "aria_adt_asl")):
        reader = READERS[name](folder)
        (source,) = reader.find_sequences()
        (run,) = reader.read(source, CONFIG, base.ReadReport())
        runs.append(run)
    ours, copy = runs
    assert ours.joint_valid.sum() == 3 * 14 and not (ours.joint_valid & ~copy.joint_valid).any()
    assert ours.jpegs == copy.jpegs
    for name in ("time_s", "T_world_headset"):
        np.testing.assert_allclose(getattr(ours, name), getattr(copy, name), atol=1e-6)
    np.testing.assert_allclose(ours.joints_world_m[ours.joint_valid], copy.joints_world_m[ours.joint_valid], atol=1e-6)
    np.testing.assert_allclose(ours.rig.T_cam_headset, copy.rig.T_cam_headset, atol=1e-6)
    for name in ("focal_px", "center_px", "radial", "tangential", "thin_prism", "max_angle_rad"):
        np.testing.assert_allclose(getattr(ours.rig.cameras, name), getattr(copy.rig.cameras, name), rtol=1e-6)
