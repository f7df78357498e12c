"""Nymeria: the suit's body comes into the world of the glasses, from files that the test writes."""

import io
import json
import zipfile

import aria_files
import numpy as np
import nymeria_files
import pytest
from scipy.spatial.transform import Rotation

from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import aria, base, nymeria

CONFIG = ConversionConfig(reader="nymeria", image_size_hw=(32, 32), record_frames=8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of one sequence."""
    monkeypatch.setattr(aria, "Vrs", aria_files.FakeVrs)
    nymeria_files.write(tmp_path / nymeria_files.NAME)
    return tmp_path / nymeria_files.NAME


def read(folder):
    reader, report = nymeria.Nymeria(folder.parent), base.ReadReport()
    (source,) = reader.find_sequences()
    (run,) = reader.read(source, CONFIG, report)
    run.check_motion()
    return run, {finding.check: finding for finding in report.findings}


def check_truth(run, atol):
    for i in range(6):
        time_ns = aria_files.START_NS + i * aria_files.FRAME_NS
        np.testing.assert_allclose(run.T_world_headset[i], nymeria_files.pose(time_ns), atol=1e-5)
        expected_m = nymeria_files.joints(time_ns)
        valid = run.joint_valid[i]
        np.testing.assert_allclose(run.joints_world_m[i][valid], expected_m[valid], atol=atol)


def test_the_joints_of_the_suit_come_to_the_images_times_and_world(folder):
    run, findings = read(folder)
    assert run.frame_index.tolist() == [0, 1, 2, 3, 4, 5] and run.view_valid.sum() == 11
    names = [name for name, valid in zip(nymeria_files.BODY.joint_names, run.joint_valid[0], strict=True) if valid]
    assert sorted(names) == sorted(nymeria.JOINTS) and len(names) == 14
    check_truth(run, atol=5e-4)
    assert findings["alignment"].verdict == "ok" and findings["xsens"].value == "nothing was repaired"
    assert findings["momentum"].verdict == "warning"
    assert "xdata_blueman.glb: no such file; the 14 joints of the suit are taken" in findings["momentum"].problem


def test_segments_are_in_the_order_of_the_files_and_mapped_to_the_same_points():
    order = (
        "Pelvis L5 L3 T12 T8 Neck Head R_Shoulder R_UpperArm R_Forearm R_Hand L_Shoulder L_UpperArm L_Forearm L_Hand"
    )
    order += " R_UpperLeg R_LowerLeg R_Foot R_Toe L_UpperLeg L_LowerLeg L_Foot L_Toe"
    assert " ".join(nymeria.PARTS) == order
    expected = {"b_l_arm": "L_UpperArm", "b_l_forearm": "L_Forearm", "b_l_wrist": "L_Hand", "b_l_upleg": "L_UpperLeg"}
    expected |= {"b_l_leg": "L_LowerLeg", "b_l_talocrural": "L_Foot", "b_l_foot_twist": "L_Foot"}
    expected |= {name.replace("_l_", "_r_"): "R" + part[1:] for name, part in expected.items()}
    assert expected == nymeria.JOINTS


def test_the_joints_of_a_momentum_body_are_taken_by_name(folder):
    nymeria_files.write_glb(folder / "body" / "xdata_blueman.glb")
    run, findings = read(folder)
    assert run.joint_valid.all()
    check_truth(run, atol=5e-4)
    assert findings["momentum"].verdict == "ok" and findings["momentum"].value.startswith("26 joints, 0.000 m off")


def test_a_momentum_body_elsewhere_than_the_suit_is_not_taken(folder):
    nymeria_files.write_glb(folder / "body" / "xdata_blueman.glb", offset_m=0.2)
    run, findings = read(folder)
    assert run.joint_valid[0].sum() == 14
    check_truth(run, atol=5e-4)
    assert (
        "xdata_blueman.glb: median distance to the suit's joints: must be in [0, 0.1]" in findings["momentum"].problem
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"b_head"', b'"c_head"', "node: 'b_head' is not one of"),
        (b'"animations"', b'"animation_"', "animations: there are none"),
        (b'"VEC4"', b'"VEC3"', r"values of rotation: expected \(480, 4\) floating, got \(480, 3\)"),
        (b'"count": 480', b'"count": 900', r"accessors\[28\], bytes in the file"),
        (b"glTF", b"gltf", "GLB header"),
    ],
)
def test_damaged_glb_files_are_refused_by_what_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "a.glb"
    nymeria_files.write_glb(path)
    content = path.read_bytes()
    assert old in content
    at = content.rindex(old) if old.startswith(b'"count') else content.index(old)
    path.write_bytes(content[:at] + new + content[at + len(old) :])
    with pytest.raises(ValueError, match=rf"a\.glb: .*{message}"):
        nymeria.read_motion(path, nymeria_files.BODY.joint_names, nymeria_files.ROWS)


def motions(rng, n, spread_rad=(0.3, 0.3, 0.3)):
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, spread_rad, (n, 3)), axis=0))
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, :3], T[:, :3, 3] = turns.as_matrix(), np.cumsum(rng.normal(0, 0.1, (n, 3)), axis=0)
    return T


def test_hand_eye_finds_where_a_body_is_in_the_other():
    rng = np.random.default_rng(0)
    T_worlda_a, T_a_b = motions(rng, 50), motions(rng, 1)[0]
    T_worldb_worlda = motions(rng, 1)[0]
    found, off_rad, off_m = nymeria.hand_eye(T_worlda_a, T_worldb_worlda @ T_worlda_a @ T_a_b, stride=2)
    np.testing.assert_allclose(found, T_a_b, atol=1e-9)
    assert off_rad < 1e-9 and off_m < 1e-9


def test_hand_eye_averages_noise_and_tells_it():
    rng = np.random.default_rng(0)
    T_worlda_a, T_a_b = motions(rng, 2000, (0.1, 0.1, 0.1)), motions(rng, 1)[0]
    T_worldb_b = T_worlda_a @ T_a_b
    T_worldb_b[:, :3, :3] @= Rotation.from_rotvec(rng.normal(0, 0.005, (2000, 3))).as_matrix()
    T_worldb_b[:, :3, 3] += rng.normal(0, 0.002, (2000, 3))
    found, off_rad, off_m = nymeria.hand_eye(T_worlda_a, T_worldb_b, stride=2)
    np.testing.assert_allclose(found, T_a_b, atol=5e-3)
    assert 0.005 < off_rad < 0.02 and 0.002 < off_m < 0.02


def test_hand_eye_refuses_a_head_that_turns_about_one_axis():
    rng = np.random.default_rng(0)
    T_worlda_a = motions(rng, 50, (0.0, 0.3, 0.0))
    with pytest.raises(ValueError, match="rotation about a second axis"):
        nymeria.hand_eye(T_worlda_a, T_worlda_a @ motions(rng, 1)[0], stride=2)


def test_another_motion_than_that_of_the_glasses_is_told(folder):
    arrays = nymeria_files.segments()
    arrays["segment_qWXYZ"] = arrays["segment_qWXYZ"][::-1]
    np.savez(folder / "body" / "xdata.npz", **arrays)
    _, findings = read(folder)
    assert findings["alignment"].verdict == "warning"
    assert "are their clocks the same" in findings["alignment"].problem


def test_steps_of_time_and_lost_rotations_are_repaired_as_officially(tmp_path):
    arrays = nymeria_files.segments()
    exact = arrays["timestamps_us"].copy()
    arrays["timestamps_us"][200:] += 3000  # a step that is 3 ms too long
    quaternions = arrays["segment_qWXYZ"].reshape(nymeria_files.ROWS, -1, 4)
    quaternions[100:103, 6] = 0
    quaternions[0, 3] = 0
    np.savez(tmp_path / "x.npz", **arrays)
    suit = nymeria.read_xsens(tmp_path / "x.npz")
    assert suit.repaired == "1 times and 3 rotations"
    np.testing.assert_allclose(suit.timecode_ns, exact * 1000, atol=1500)  # microseconds are rounded in the file
    np.testing.assert_array_equal(suit.quaternions[100:103, 6], np.tile(quaternions[99, 6], (3, 1)))
    np.testing.assert_array_equal(suit.quaternions[0, 3], [1, 0, 0, 0])
    arrays["timestamps_us"][200:] += 20_000
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=r"x\.npz: timestamps_us, by how much repairs of steps move the last"):
        nymeria.read_xsens(tmp_path / "x.npz")


def test_objects_are_not_unpickled_and_headers_take_no_memory(tmp_path):
    arrays = nymeria_files.segments()
    np.savez(tmp_path / "x.npz", **{**arrays, "segment_tXYZ": np.array([{}], object)})
    with pytest.raises(ValueError, match=r"x\.npz: segment_tXYZ, kind of numbers: 'O' is not one of"):
        nymeria.read_xsens(tmp_path / "x.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**12,), "fortran_order": False, "descr": "<f8"})
    np.savez(tmp_path / "x.npz", frameRate=arrays["frameRate"])
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("timestamps_us.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(ValueError, match="cannot reshape array of size 8"):
        nymeria.read_xsens(tmp_path / "x.npz")


def test_a_sequence_without_a_common_clock_is_refused(folder):
    (folder / "metadata.json").write_text(json.dumps({"timesync": False}))
    with pytest.raises(ValueError, match=r"metadata\.json: timesync: False is not one of True"):
        read(folder)


def test_participants_are_in_one_split_each(tmp_path):
    names = [f"2023060{i % 9 + 1}_s{i % 3}_{'ab'[i % 2]}_x{i // 4}_act{i}_e72nh{i % 10}" for i in range(200)]
    for name in names:
        (tmp_path / name / "body").mkdir(parents=True)
    (tmp_path / "download_summary.json").write_text("{}")
    (tmp_path / "scripts").mkdir()
    found = nymeria.Nymeria(tmp_path).find_sequences()
    assert [source.sequence for source in found] == sorted(names)
    splits = {}
    for source in found:
        splits.setdefault(source.sequence.split("_act")[0].split("_", 2)[2], set()).add(source.split)
    assert all(len(split) == 1 for split in splits.values())
    counts = [sum(split == {name} for split in splits.values()) / len(splits) for name in base.SPLITS]
    assert 0.65 < counts[0] < 0.95 and counts[1] > 0 and counts[2] > 0
    with pytest.raises(ValueError, match="sequences with a folder 'body'"):
        nymeria.Nymeria(tmp_path / "scripts").find_sequences()
