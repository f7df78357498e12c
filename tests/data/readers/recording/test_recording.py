"""Recordings become runs of frames: nearest images, slerped poses, lerped joints, upright views."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
import recordings
import yaml
from PIL import Image
from scipy.spatial.transform import Rotation

from epfv2_jax.core import tasks
from epfv2_jax.data import images, records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base, recording
from epfv2_jax.data.readers.recording import tracks
from epfv2_jax.geometry import cameras, transforms

CONFIG = ConversionConfig(reader="recording", image_size_hw=(32, 48), record_frames=8)


def read(folder, config=CONFIG):
    """The runs of the only sequence, and the report."""
    reader, report = recording.Recording(folder), base.ReadReport()
    (source,) = reader.find_sequences()
    return list(reader.read(source, config, report)), report


def joined(runs, name):
    return np.concatenate([getattr(run, name) for run in runs])


@pytest.mark.parametrize("name", recordings.HEADSETS)
def test_what_was_written_is_read(name, tmp_path):
    """Poses in three formats, two body frames, joints of two frames, three world axes up: all become ours."""
    headset = recordings.HEADSETS[name]
    recordings.write(tmp_path, headset, frames=12)
    runs, report = read(tmp_path)
    T_world_headset, joints_m = recordings.person(12)
    up = recordings.up_rotation(headset.world_up)
    # Which way is north is not kept: compare in the world of the first frame.
    found = joined(runs, "T_world_headset")
    relative = np.linalg.inv(found[0]) @ found
    np.testing.assert_allclose(relative, np.linalg.inv(T_world_headset[0]) @ T_world_headset, atol=2e-5)
    np.testing.assert_allclose(found[:, 1], T_world_headset[:, 1], atol=2e-5)  # height and tilt are
    assert up.shape == (3, 3)
    if headset.joint_frame is None:
        assert not joined(runs, "joint_valid").any() and not joined(runs, "joints_world_m").any()
    else:
        local = transforms.apply(np.linalg.inv(found), joined(runs, "joints_world_m"))
        expected = transforms.apply(np.linalg.inv(T_world_headset).astype(np.float32), joints_m.astype(np.float32))
        np.testing.assert_allclose(local, expected, atol=1e-4)
        assert joined(runs, "joint_valid").all()
    assert joined(runs, "view_valid").all() and joined(runs, "frame_index").tolist() == list(range(12))
    np.testing.assert_allclose(joined(runs, "time_s"), np.arange(12) * recordings.FRAME_NS / 1e9)
    assert [run.num_frames for run in runs] == [8, 4] and report.num_frames == 12
    for v, view in enumerate(headset.views):
        T_headset_cam = np.linalg.inv(runs[0].rig.T_cam_headset[v])
        np.testing.assert_allclose(T_headset_cam[:3, 3], view.position_m, atol=1e-6)
        assert T_headset_cam[1, 1] < -0.1  # +y of the upright image is down
        lens = runs[0].rig.cameras
        assert lens.size_px[v].tolist() == [48, 32]
        # The stored image grows brighter to the right, and more so below.
        picture = images.decode_grey(runs[0].jpegs[3][v]).astype(float)
        stored = np.rot90(picture, -view.turns)
        assert stored[:, -8:].mean() > stored[:, :8].mean() + 10 and stored[-8:].mean() > stored[:8].mean() + 30
        assert picture.mean() == pytest.approx(recordings.stored_image(3, view.size_wh).mean(), abs=1.5)


def test_a_point_falls_where_the_stored_camera_sees_it(tmp_path):
    """Turning and resizing images and cameras agree, for images that are not square."""
    recordings.write(tmp_path, recordings.FOUR, frames=2)
    (run,), _ = read(tmp_path)
    reader = recording.Recording(tmp_path)
    (source,) = reader.find_sequences()
    path = source.nearest("headset.yaml")
    headset = recording.read_headset(path)
    stored, layout = recording.rig_of(headset, recording.cameras_of(source, headset))
    points = np.tile(np.random.default_rng(0).uniform((-0.4, -0.9, 0.1), (0.4, -0.2, 0.6), (20, 3)), (4, 1, 1))
    points = points.astype(np.float32)
    uv, _ = cameras.project(stored.cameras, transforms.apply(stored.T_cam_headset, points))
    new, _ = cameras.project(run.rig.cameras, transforms.apply(run.rig.T_cam_headset, points))
    for v, turns in enumerate(layout.upright_turns):
        width, height = stored.cameras.size_px[v]
        u, w = (np.asarray(uv[v]).T + 0.5) / np.array([[width], [height]])
        turned = {0: (u, w), 1: (w, 1 - u), -1: (1 - w, u)}[turns]
        expected = np.stack(turned, axis=-1) * [48, 32] - 0.5
        np.testing.assert_allclose(new[v], expected, atol=1e-3)


def test_images_and_poses_of_other_times(tmp_path):
    """The nearest image within the skew; a pose between its neighbours; frames without a pose are left out."""
    root = recordings.write(tmp_path, recordings.FRONT, frames=12)
    rows = (root / "cam1/data.csv").read_text().splitlines()
    (root / "cam1/data.csv").write_text("\n".join(rows[:5] + rows[6:]))  # the image of frame 4 was lost
    recordings.edit_stamps(root / "gt/data.csv", lambda stamp: stamp - 10_000_000)
    rows = (root / "gt/data.csv").read_text().splitlines()
    (root / "gt/data.csv").write_text("\n".join(rows[:7] + rows[10:]) + "\n")  # poses 6, 7 and 8 are lost
    runs, report = read(tmp_path, dataclasses.replace(CONFIG, doubtful="keep"))
    # Frames 0 to 5 lie 10 ms after a pose; 11, the last, 10 ms after the last: nothing follows.
    assert joined(runs, "frame_index").tolist() == [0, 1, 2, 3, 4, 5, 9, 10]
    assert [frame.frame for frame in report.quarantined_frames] == [6, 7, 8, 11]
    assert re.search("gt/data.csv: no pose near its time", report.quarantined_frames[0].reason)
    assert [(bad.frame, bad.view) for bad in report.bad_views] == [(4, 1)]
    assert re.search(r"cam1: time to the nearest image, ms: must be in .0, 5.0., got 33.3", report.bad_views[0].reason)
    expected, _ = recordings.person(12)
    found = joined(runs, "T_world_headset")
    between = expected[0, :3, 3] + (expected[1, :3, 3] - expected[0, :3, 3]) * 10 / 33.333333
    np.testing.assert_allclose(found[0, :3, 3], between, atol=1e-5)
    turned = Rotation.from_matrix(expected[0, :3, :3].T @ expected[1, :3, :3]).magnitude()
    there = Rotation.from_matrix(expected[0, :3, :3].T @ found[0, :3, :3]).magnitude()
    assert there == pytest.approx(turned * 10 / 33.333333, rel=1e-3)


def test_joints_that_are_not_known(tmp_path):
    """Empty cells, joints that the map leaves out, and times far from any row: joint_valid is False."""
    root = recordings.write(tmp_path, recordings.FRONT, frames=12)
    path = root / "joints0/data.csv"
    header, *rows = path.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    cells[3][1:4] = ["", "", ""]  # b_head in frame 3
    path.write_text("\n".join([header, *(",".join(row) for row in cells[:9])]) + "\n")
    recordings.edit_yaml(root / "joints0/sensor.yaml", lambda y: y["names"].remove("b_l_wrist"))
    runs, _ = read(tmp_path)
    valid = joined(runs, "joint_valid")
    head, wrist = (recordings.BODY.index(name) for name in ("b_head", "b_l_wrist"))
    assert valid[:, head].tolist() == [t < 9 and t != 3 for t in range(12)]
    assert not valid[:, wrist].any() and valid[:9, 1].all() and not valid[9:].any()
    assert not joined(runs, "joints_world_m")[~valid].any()


def test_lerp_of_joints_and_slerp_between_rows():
    sensor = tracks.JointSensor(sensor_type="joints", frame="world", unit="m", names=("a",))
    ns = np.array([0, 100_000_000])
    track = tracks.JointTrack(
        path=None, sensor=sensor, stamps_ns=ns, positions_m=np.array([[[0.0, 0, 0]], [[1.0, 2, 3]]])
    )
    found, valid = track.at(np.array([-1, 0, 25_000_000, 100_000_000, 200_000_000]))
    np.testing.assert_allclose(found[:, 0, 0], [0, 0, 0.25, 1, 1])
    assert valid.all()
    quaternions = Rotation.from_rotvec([[0, 0, 0], [0, 0, np.pi / 2]]).as_quat(scalar_first=True) * [[1], [-1]]
    poses = tracks.PoseTrack(path=None, stamps_ns=ns, positions_m=np.zeros((2, 3)), quaternions=quaternions)
    turned = Rotation.from_matrix(poses.at(np.array([25_000_000]))[0, :3, :3]).as_rotvec()
    np.testing.assert_allclose(turned, [0, 0, np.pi / 8], atol=1e-9)  # the shorter way, though the sign differs


@pytest.mark.parametrize("kind", ["rgb png", "16 bit png", "rgb jpeg"])
def test_kinds_of_images(kind, tmp_path):
    grey = recordings.stored_image(5, (40, 30))
    if kind == "rgb png":
        Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.png")
    elif kind == "16 bit png":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    else:
        Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.png", format="JPEG", quality=95)
    found = images.decode_stored((tmp_path / "a.png").read_bytes())
    assert found.shape == (30, 40) and found.dtype == np.uint8
    np.testing.assert_allclose(found, grey, atol=3)


def test_an_image_that_is_damaged_or_missing_costs_its_view(tmp_path):
    root = recordings.write(tmp_path, recordings.FRONT, frames=6)
    stored = sorted((root / "cam0/data").iterdir())
    stored[2].write_bytes(stored[2].read_bytes()[:60])
    stored[4].unlink()
    runs, report = read(tmp_path)
    assert joined(runs, "view_valid")[:, 0].tolist() == [True, True, False, True, False, True]
    assert [(bad.frame, bad.view) for bad in report.bad_views] == [(2, 0), (4, 0)]
    assert all(path.name in bad.reason for path, bad in zip((stored[2], stored[4]), report.bad_views, strict=True))


@pytest.mark.extras
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_videos_are_read_frame_by_frame(container, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    root = recordings.write(tmp_path, recordings.FRONT, frames=9)
    files, _ = read(tmp_path)
    for folder in (root / "cam0", root / "cam1"):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray"]
        command += ["-s", "64x48", "-r", "30", "-i", "-", "-crf", "5", str(folder / f"data.{container}")]
        frames = b"".join(recordings.stored_image(row, (64, 48)).tobytes() for row in range(9))
        subprocess.run(command, input=frames, check=True)
        shutil.rmtree(folder / "data")
    videos, report = read(tmp_path)
    assert joined(videos, "view_valid").all() and not report.bad_views
    for a, b in zip(files[0].jpegs + files[1].jpegs, videos[0].jpegs + videos[1].jpegs, strict=True):
        for one, other in zip(a, b, strict=True):  # each row differs from the next by 8 levels
            assert images.decode_grey(one).mean() == pytest.approx(images.decode_grey(other).mean(), abs=3)
    rows = (root / "cam1/data.csv").read_text() + f"{recordings.START_NS + 9 * recordings.FRAME_NS},x\r\n"
    (root / "cam1/data.csv").write_text(rows, newline="")
    (root / "cam0/data.csv").write_text(rows, newline="")
    recordings.edit_stamps(root / "gt/data.csv", lambda stamp: stamp + 30_000_000)
    _, report = read(tmp_path)
    assert re.search(rf"cam0/data.{container}: ends after 9 frames", report.bad_views[0].reason)
    (root / f"cam0/data.{container}").write_bytes(b"no video")
    with pytest.raises(ValueError, match=rf"cam0/data.{container}: damaged, or no video: "):
        read(tmp_path)


def test_a_calibration_file_for_all_cameras(tmp_path):
    """Kalibr's camchain.yaml beside headset.yaml, which has T_cam_imu, in the place of the sensor.yaml files."""
    root = recordings.write(tmp_path, recordings.FOUR, frames=2)
    (before,), _ = read(tmp_path)
    chain = {}
    for folder in sorted(root.glob("cam*")):
        sensor = yaml.safe_load((folder / "sensor.yaml").read_text())
        chain[folder.name] = {
            "T_cam_imu": np.linalg.inv(np.reshape(sensor["T_BS"]["data"], (4, 4))).tolist(),
            "distortion_coeffs": sensor["distortion_coefficients"],
            **{k: sensor[k] for k in ("camera_model", "intrinsics", "distortion_model", "resolution")},
        }
        (folder / "sensor.yaml").unlink()
    (tmp_path / "camchain.yaml").write_text(yaml.safe_dump(chain))
    (after,), _ = read(tmp_path)
    np.testing.assert_allclose(after.rig.T_cam_headset, before.rig.T_cam_headset, atol=1e-6)
    np.testing.assert_array_equal(after.rig.cameras.focal_px, before.rig.cameras.focal_px)


def test_lenses_of_two_models_become_one(tmp_path):
    views = recordings.FRONT.views
    other = dataclasses.replace(views[1], lens="radtan", coefficients=(-0.1, 0.02, 0.001, 0.0))
    recordings.write(tmp_path, dataclasses.replace(recordings.FRONT, views=(views[0], other)), frames=2)
    (run,), report = read(tmp_path)
    assert run.camera_model == "fisheye"
    assert [camera.verdict for camera in report.calibration] == ["as given", "refitted"]
    assert 0 < report.calibration[1].rms_px < 0.5


@pytest.fixture
def source(tmp_path):
    """Two recordings for training and one for testing; joints of one are in centimetres."""
    folder = tmp_path / "source"
    recordings.write(folder, recordings.FRONT, 10, "train", "a")
    bad = recordings.write(folder, recordings.FRONT, 10, "train", "b")
    recordings.write(folder, recordings.FRONT, 10, "test", "c")
    recordings.edit_numbers(bad / "joints0/data.csv", lambda values: 100 * values)
    return folder


def test_conversion_resumes_shares_and_quarantines(source, tmp_path):
    out = tmp_path / "out"
    assert conversion.convert(source, out, CONFIG, engine=tasks.Engine(index=0, count=2)) is None
    summary = conversion.convert(source, out, CONFIG, engine=tasks.Engine(index=1, count=2))
    assert summary["train"]["sequences_quarantined"] == ["b"] and summary["test"]["frames_kept"] == 10
    split = records.open_records(out / "train")
    assert split.layout.view_names == ("left", "right") and split.frame_s == pytest.approx(1 / 30, abs=1e-6)
    reasons = [r["quarantined"] for r in split.manifest.report["sequences"]]
    assert reasons[0] is None and re.search(
        "implausible: the body is .* Times 0.01 they fit: they are in cm", reasons[1]
    )
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.arrayrecord")}
    conversion.convert(source, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.arrayrecord")} == done
    picture = next((source / "test").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:50])  # another image: its sequence is converted again
    assert conversion.convert(source, out, CONFIG)["test"]["views_missing"] == 1
    keep = dataclasses.replace(CONFIG, doubtful="keep")
    assert conversion.convert(source, tmp_path / "all", keep)["train"]["sequences_quarantined"] == []


def test_a_sequence_with_other_views_is_quarantined(source, tmp_path):
    other = source / "train" / "b"
    content = yaml.safe_load((source / "headset.yaml").read_text())
    content["views"] = content["views"][:1]
    del content["views"][0]["mirror"]
    (other / "headset.yaml").write_text(yaml.safe_dump(content))
    conversion.convert(source, tmp_path / "out", CONFIG)
    reports = records.read_manifest(tmp_path / "out" / "train").report["sequences"]
    assert [r["quarantined"] is None for r in reports] == [True, False]
    assert "headset.yaml: views: expected" in reports[1]["quarantined"]


def test_where_recordings_lie(source, tmp_path):
    def found(folder):
        return [(f.split, f.sequence) for f in recording.find_sequences(folder)]

    assert found(source) == [("train", "a"), ("train", "b"), ("test", "c")]
    assert found(source / "train") == [("train", "a"), ("train", "b")]
    assert found(source / "test" / "c") == [("test", "c")]
    alone = recordings.copy(source / "train" / "a" / "mav0", tmp_path / "alone")  # without mav0
    (alone / "headset.yaml").write_bytes((source / "headset.yaml").read_bytes())
    assert found(alone) == [("test", "alone")] and read(alone)[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: recordings: there are none; a recording holds mav0/ or cam0/"):
        found(tmp_path / "empty")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("gt/data.csv", lambda t: t.replace("q_RS_w []", "q_w []"), "gt/data.csv: header: column: 'q_RS_w' is not"),
        ("gt/data.csv", lambda t: t.replace("p_RS_R_x [m]", "p_RS_R_x [mm]"), "unit of column 'p_RS_R_x': 'mm' is not"),
        ("gt/data.csv", lambda t: t.replace("1.6", "x", 1), r"gt/data.csv row 0: p_RS_R_y is 'x.*', expected a finite"),
        ("gt/data.csv", lambda t: t.splitlines()[0], "gt/data.csv: rows: there are none"),
        ("gt/data.csv", lambda t: t.rstrip() + ",1\n", r"gt/data.csv row 11: number of cells: expected 8, got 9"),
        ("cam0/data.csv", lambda t: t.replace(",17", ",../17"), r"cam0/data.csv row 0: filename '../17.*' is not"),
        ("cam0/data.csv", lambda t: t.replace("\r\n17", "\r\nt17"), r"cam0/data.csv row 0: timestamp is 't17"),
        ("joints0/sensor.yaml", lambda t: t.replace("unit: m", "unit: cm"), "joints0/sensor.yaml: unit: 'cm' is"),
        ("joints0/sensor.yaml", lambda t: t.replace("- b_head", "- head"), "data.csv: header: column: 'head_x'"),
        ("../../../headset.yaml", lambda t: t.replace("joints: {}", "joints: {b_l_am: b_l_arm}"), "'b_l_am' is not"),
        ("../../../headset.yaml", lambda t: t.replace("joints: {}", "joints: {b_l_arm: arm}"), "joints.b_l_arm.*'arm'"),
        ("../../../headset.yaml", lambda t: t.replace("camera: cam1", "camera: cam7"), "cam7/sensor.yaml: no such"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(name, change, message, tmp_path):
    path = recordings.write(tmp_path, recordings.FRONT, frames=12) / name
    text = path.read_bytes().decode()
    assert change(text) != text
    path.write_bytes(change(text).encode())
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_files_that_are_missing_are_named(tmp_path):
    root = recordings.write(tmp_path, recordings.FRONT, frames=2)
    shutil.rmtree(root / "cam1/data")
    with pytest.raises(ValueError, match=r"cam1: images: there are none; give a folder data/, or one of data.mp4"):
        read(tmp_path)
    (root / "cam1/data.csv").unlink()
    with pytest.raises(ValueError, match=r"cam1/data\.csv: no such file"):
        read(tmp_path)
    shutil.rmtree(root / "gt")
    (root / "cam1/data.csv").write_bytes((root / "cam0/data.csv").read_bytes())
    shutil.copytree(root / "cam0/data", root / "cam1/data")
    with pytest.raises(ValueError, match=r"files of poses: there are none; give one of gt/data\.csv"):
        read(tmp_path)
    (tmp_path / "headset.yaml").unlink()
    with pytest.raises(ValueError, match=r"no headset\.yaml here or in the recording"):
        read(tmp_path)
