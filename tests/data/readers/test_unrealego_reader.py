"""UnrealEgo: files in its format, written by the test, become records with the poses and pixels they were made from."""

import json

import numpy as np
import pytest
import unrealego_files

from epfv2_jax.data import records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.readers import unrealego
from epfv2_jax.data.readers.unrealego import sequence as sequence_lib
from epfv2_jax.geometry import cameras

CONFIG = conversion.ConversionConfig(reader="unrealego", image_size_hw=(32, 32), record_frames=4)
NAME = unrealego_files.MOTION.replace("/", "__")


@pytest.fixture
def source(tmp_path):
    return tmp_path / "UnrealEgoData"


def convert(source, tmp_path, split="train"):
    summary = conversion.convert(source, tmp_path / "out", CONFIG)[split]
    report = records.read_manifest(tmp_path / "out" / split).report["sequences"][0]
    return summary, report


def test_records_hold_the_poses_joints_and_pixels_of_the_labels(source, tmp_path):
    unrealego_files.write(source)
    summary, report = convert(source, tmp_path)
    assert (summary["frames"], summary["frames_kept"], summary["views_missing"]) == (6, 6, 0)
    split = records.open_records(tmp_path / "out" / "train")
    assert split.skeleton == unrealego.UNREALEGO and split.layout == unrealego.LAYOUT
    assert [c["verdict"] for c in report["calibration"]] == ["good", "good"]
    assert max(c["rms_px"] for c in report["calibration"]) < 0.01
    run = split[1]
    assert run.frame_index.tolist() == [4, 5] and run.time_s.tolist() == [4 / 25, 5 / 25]
    for i, frame in enumerate(run.frame_index):
        T, joints_world_m = unrealego_files.truth(int(frame))
        np.testing.assert_allclose(run.T_world_headset[i], T, atol=2e-5)
        np.testing.assert_allclose(run.joints_world_m[i], joints_world_m, atol=2e-5)
        joints_headset_m = (joints_world_m - T[:3, 3]) @ T[:3, :3]
        T_cam_headset = run.rig.T_cam_headset
        joints_cam_m = joints_headset_m @ np.swapaxes(T_cam_headset[:, :3, :3], 1, 2) + T_cam_headset[:, None, :3, 3]
        uv_px, valid = map(np.asarray, cameras.project(run.rig.cameras, joints_cam_m))
        for view, side in enumerate(("left", "right")):
            joints = unrealego_files.labels(int(frame))["joints"].values()
            stored_px = np.array([joint[f"camera_{side}_pts2d"] for joint in joints])
            upright_px = (unrealego_files.SIZE - 1 - stored_px + 0.5) / 2 - 0.5  # half a turn, then half the size
            assert valid[view].sum() >= 8
            np.testing.assert_allclose(uv_px[view][valid[view]], upright_px[valid[view]], atol=0.01)
    picture = records.decode_images(run)[0][0, 0].astype(int)
    assert (np.diff(picture.mean(axis=1)) < 0).all()  # what is ahead is on top


def test_sequences_are_those_of_the_lists_that_are_there(source, caplog):
    unrealego_files.write(source, frames=())
    unrealego_files.write(source, "Lab_Scene/Night/x/glasses/001/falling", frames=(), split="test")
    with (source / "train.txt").open("a") as file:
        file.write("./UnrealEgoData/Lab_Scene/Day/x/glasses/001/not_downloaded\n\n../../etc\n")
    found = sequence_lib.find_sequences(source)
    names = [(s.split, s.sequence) for s in found]
    assert names == [("train", NAME), ("test", "Lab_Scene__Night__x__glasses__001__falling")]
    assert "1 of 3 listed sequences are not there" in caplog.text


@pytest.mark.parametrize(
    ("absent", "message"), [("train.txt", "lists of the splits"), ("fisheye_calibration_UEP.json", "no such file")]
)
def test_what_the_source_lacks_is_named(source, absent, message):
    unrealego_files.write(source, frames=())
    (source / absent).unlink()
    with pytest.raises(ValueError, match=message):
        sequence_lib.find_sequences(source)


def test_lists_of_sequences_that_are_elsewhere_are_refused(source):
    unrealego_files.write(source, frames=())
    (source / "train.txt").write_text("./UnrealEgoData/Lab_Scene/elsewhere\n")
    with pytest.raises(ValueError, match="folders of the 1 listed sequences"):
        sequence_lib.find_sequences(source)


def test_broken_frames_and_images_are_left_out_by_name(source, tmp_path):
    moved, apart = unrealego_files.labels(1), unrealego_files.labels(2)
    moved["joints"]["hand_l"]["trans"][2] += 5.0
    for joint in apart["joints"].values():
        joint["camera_left_pts3d"][0] += 0.5
    pixels = unrealego_files.labels(5)
    pixels["joints"]["head"]["camera_right_pts2d"] = [1e308, 0.0]
    unrealego_files.write(source, frame_0={"joints": {}}, frame_1=moved, frame_2=apart, frame_5=pixels)
    image = source / unrealego_files.MOTION / "fisheye_final_image" / "camera_right" / "final_4.png"
    image.write_bytes(image.read_bytes()[:-60])
    summary, report = convert(source, tmp_path)
    assert (summary["frames_kept"], summary["frames_quarantined"], summary["views_missing"]) == (2, 4, 1)
    reasons = [note["reason"] for note in report["quarantined_frames"]]
    assert "json/frame_0.json: ground_z_value is missing" in reasons[0]
    assert "frame_1.json: joints.trans against camera_*_pts3d, rms m: must be in [0, 0.002]" in reasons[1]
    assert "frame_2.json: camera_left_pts3d - camera_right_pts3d against" in reasons[2]
    assert "frame_5.json: camera_*_pts2d is inf px rms off the projected pts3d" in reasons[3]
    assert [note["frame"] for note in report["quarantined_frames"]] == [0, 1, 2, 5]
    assert (
        report["bad_views"][0]["view"] == 1
        and "final_4.png: neither a JPEG nor a PNG, or damaged" in report["bad_views"][0]["reason"]
    )


def test_another_calibration_than_that_of_the_labels_is_refused(source, tmp_path):
    unrealego_files.write(source)
    path = source / "fisheye_calibration_UEP.json"
    fields = json.loads(path.read_text())
    fields["image_center"][0] += 2
    path.write_text(json.dumps(fields))
    summary, report = convert(source, tmp_path)
    assert summary["sequences_quarantined"] == [NAME]
    assert "camera left is 2 px rms off the labels" in report["quarantined"]


def test_exchanged_cameras_are_refused(source, tmp_path):
    contents = {}
    for frame in range(6):
        contents[f"frame_{frame}"] = content = unrealego_files.labels(frame)
        for joint in content["joints"].values():
            for kind in ("pts3d", "pts2d"):
                left, right = joint[f"camera_left_{kind}"], joint[f"camera_right_{kind}"]
                joint[f"camera_left_{kind}"], joint[f"camera_right_{kind}"] = right, left
    unrealego_files.write(source, **contents)
    _, report = convert(source, tmp_path)
    assert "left lies 12.0 cm to the right of right; are they exchanged" in report["quarantined"]


def test_images_of_another_size_than_the_calibration_are_refused(source, tmp_path):
    unrealego_files.write(source)
    for path in source.rglob("*.png"):
        unrealego_files.picture().resize((48, 48)).save(path)
    _, report = convert(source, tmp_path)
    assert "no image is readable" in report["quarantined"]
    assert (
        "width and height: expected (64, 64), got (48, 48); as fisheye_calibration_UEP.json says"
        in report["quarantined"]
    )
