import json
import zipfile

import numpy as np
import pytest

from epfv2_jax.data import images
from epfv2_jax.data.calibration.report import report
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.geometry import layout


def only(folder):
    (files,) = egobody3m.find_sequences(folder)
    return files


def test_sequences_are_found_by_the_folders_of_the_download(tmp_path, new_sequence):
    for split, sequence in (("train", "7"), ("test", "8"), ("validation", "9"), ("train", "10")):
        new_sequence(sequence, range(1), split).write()
    (tmp_path / "zips" / "train" / "11.images.zip_tmp").touch()  # of a download that was cut
    found = [(f.split, f.sequence) for f in egobody3m.find_sequences(tmp_path / "zips")]
    assert found == [("train", "10"), ("train", "7"), ("validation", "9"), ("test", "8")]
    assert [f.sequence for f in egobody3m.find_sequences(tmp_path / "zips" / "train")] == ["10", "7"]


def test_files_that_are_no_sequences_do_not_stop_the_others(tmp_path, new_sequence):
    new_sequence("7", range(1)).write()
    folder = tmp_path / "zips" / "train"
    for name in ("._7.images.zip", "._7.metadata.zip", ".8.images.zip", "notes.txt"):
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / "7 (1).images.zip").write_bytes((folder / "7.images.zip").read_bytes())
    found = {f.sequence: f for f in egobody3m.find_sequences(folder)}
    assert sorted(found) == ["7", "7 (1)"]
    with egobody3m.SequenceReader(found["7"]) as reader:
        assert reader.frames == (0,)
    with pytest.raises(ValueError, match=r"7 \(1\)\.metadata\.zip: no such file; download the sequence again"):
        egobody3m.SequenceReader(found["7 (1)"])


def test_backslashes_in_a_zip_are_read_as_slashes(tmp_path, new_sequence):
    writer = new_sequence("7", range(2))
    writer.write()
    with egobody3m.SequenceReader(only(tmp_path / "zips")) as reader:
        expected = reader.jpeg(1, 3), reader.metadata(1).uvz
    for path in (tmp_path / "zips" / "train").glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                info = zipfile.ZipInfo("x")
                info.filename = name.replace("/", "\\")
                archive.writestr(info, content)
    with egobody3m.SequenceReader(only(tmp_path / "zips")) as reader:
        assert reader.jpeg(1, 3) == expected[0]
        np.testing.assert_array_equal(reader.metadata(1).uvz, expected[1])


def test_missing_or_empty_split(tmp_path):
    with pytest.raises(ValueError, match="no such folder; give the folder that holds train, validation, test"):
        egobody3m.find_sequences(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no folder named train, validation, test in it"):
        egobody3m.find_sequences(tmp_path)
    (tmp_path / "validation").mkdir()
    with pytest.raises(ValueError, match=r"of split 'validation': there are none; download them or remove the folder"):
        egobody3m.find_sequences(tmp_path)


def test_reads_what_was_written(tmp_path, new_sequence):
    writer = new_sequence(frames=(0, 1, 2, 5, 10000))
    writer.extra = {"100/notes.txt": b"x", "100/frame00003.json": b"{}"}  # no names of the release: not read
    writer.write()
    with egobody3m.SequenceReader(only(tmp_path / "zips")) as reader:
        assert reader.frames == (0, 1, 2, 3, 5, 10000)
        with pytest.raises(ValueError, match=r"100\.metadata\.zip:100/frame0003\.json: member is missing"):
            reader.metadata(3)
        frame = reader.metadata(5)
        fields = writer.fields[5]
        assert (frame.frame_index, frame.annotation_level) == (5, 1)
        np.testing.assert_allclose(frame.joints_world_m * 100, fields["joint_positions_world_cm"], rtol=1e-12)
        np.testing.assert_allclose(frame.T_world_headset[:3, :3], np.array(fields["world_from_headset_xf_cm"])[:3, :3])
        np.testing.assert_allclose(
            frame.T_world_headset[:3, 3] * 100, np.array(fields["world_from_headset_xf_cm"])[:3, 3]
        )
        np.testing.assert_allclose(frame.uvz[2] * (1, 1, 100), fields["projected_joint_positions_cam2_px"])
        assert reader.jpeg(10000, 3) == writer.jpegs[10000, 3]
        assert reader.view_sizes_px() == [(64, 48), (128, 102), (128, 102), (64, 48)]


def test_size_of_a_view_is_the_commonest(tmp_path, new_sequence):
    writer = new_sequence()
    writer.jpegs[0, 0] = images.encode_grey(np.zeros((20, 20), np.uint8))
    writer.jpegs = {(f, v): jpeg for (f, v), jpeg in writer.jpegs.items() if v != 1}
    writer.jpegs = {(f, v): jpeg if v != 2 or f == 7 else jpeg[:9] for (f, v), jpeg in writer.jpegs.items()}
    writer.write()
    with egobody3m.SequenceReader(only(tmp_path / "zips")) as reader:
        assert reader.view_sizes_px() == [(64, 48), None, (128, 102), (64, 48)]


def _nan_pose(fields):
    fields["world_from_headset_xf_cm"][1][3] = float("nan")


def _sheared_pose(fields):
    fields["world_from_headset_xf_cm"][0][0] += 0.1


def _mirrored_pose(fields):
    fields["world_from_headset_xf_cm"][1][1] *= -1


def _infinite_joint(fields):
    fields["joint_positions_world_cm"][4][2] = float("inf")


def _far_joint(fields):
    fields["joint_positions_world_cm"][4][2] = 1e9


def _joint_count(fields):
    fields["joint_positions_world_cm"].pop()


def _ragged(fields):
    fields["joint_positions_world_cm"][0].pop()


def _text(fields):
    fields["joint_positions_world_cm"] = "none"


def _projection_count(fields):
    fields["projected_joint_positions_cam3_px"].append([0, 0, 0])


def _missing_camera(fields):
    del fields["projected_joint_positions_cam3_px"]


def _level(fields):
    fields["annotation_level"] = True


def _index(fields):
    fields["frame_index"] = 9


def _no_frame_time(fields):
    fields["frame_s"] = 0


def _frame_time_in_words(fields):
    fields["frame_s"] = "1/30"


BAD_FIELDS = [
    (_no_frame_time, "frame_s: must be above 0, got 0"),
    (_frame_time_in_words, "frame_s: expected seconds from one frame to the next, got '1/30'"),
    (_nan_pose, r"world_from_headset_xf_cm\[1, 3\] is nan, expected finite"),
    (_sheared_pose, "world_from_headset_xf_cm: the rotation part is not orthonormal"),
    (_mirrored_pose, "world_from_headset_xf_cm: the rotation part is a reflection"),
    (_infinite_joint, r"joint_positions_world_cm\[4, 2\] is inf, expected finite"),
    (_far_joint, r"joint_positions_world_cm\[4\], metres from the headset: must be in \[0, 5\.0\], got 1000"),
    (_joint_count, r"joint_positions_world_cm: expected \(26, 3\) number, got \(25, 3\)"),
    (_ragged, r"joint_positions_world_cm: expected \(26, 3\) number, got \(26,\) object"),
    (_text, r"joint_positions_world_cm: expected \(26, 3\) number, got \(\) <U4"),
    (_projection_count, r"projected_joint_positions_cam3_px: expected \(26, 3\) number, got \(27, 3\)"),
    (_missing_camera, "projected_joint_positions_cam3_px is missing"),
    (_level, "annotation_level: expected an integer, got True"),
    (_index, "frame_index: expected 0, got 9; as in its file name"),
]


@pytest.mark.parametrize("spoil, message", BAD_FIELDS, ids=lambda x: getattr(x, "__name__", ""))
def test_bad_metadata_names_file_field_and_value(tmp_path, new_sequence, spoil, message):
    writer = new_sequence(frames=range(1))
    spoil(writer.fields[0])
    writer.write()
    with (
        egobody3m.SequenceReader(only(tmp_path / "zips")) as reader,
        pytest.raises(ValueError, match=r"100\.metadata\.zip:100/frame0000\.json: " + message),
    ):
        reader.metadata(0)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 5000, b"9" * 5000])
def test_json_that_is_none(content):
    with pytest.raises(ValueError, match="frame7: "):
        egobody3m.parse_frame(content, "frame7")


def test_meaningless_projections_are_no_error(new_sequence):
    fields = new_sequence(frames=range(1)).fields[0]
    fields["projected_joint_positions_cam0_px"][3] = [float("nan"), float("inf"), -1.0]
    assert np.isnan(egobody3m.parse_frame(json.dumps(fields).encode(), "x").uvz[0, 3, 0])


@pytest.mark.parametrize("name", ["../100/frame0001.json", "100/../../x", "/etc/x", "..\\x", "C:/x"])
def test_members_that_leave_the_folder(tmp_path, new_sequence, name):
    writer = new_sequence(frames=range(1))
    writer.extra = {name: b"{}"}
    writer.write()
    with pytest.raises(ValueError, match=r"100\.metadata\.zip: member .* points outside its folder"):
        egobody3m.SequenceReader(only(tmp_path / "zips"))


def test_member_twice(tmp_path, new_sequence):
    writer = new_sequence(frames=range(1))
    writer.extra = {"100/frame0000.json": b"{}"}
    with pytest.warns(UserWarning, match="Duplicate"):
        writer.write()
    with pytest.raises(ValueError, match=r"'100/frame0000\.json' is there 2 times"):
        egobody3m.SequenceReader(only(tmp_path / "zips"))


def test_zip_bombs(tmp_path, new_sequence):
    writer = new_sequence(frames=range(2))
    writer.fields[0] = b" " * 900_000  # deflates a thousandfold
    writer.fields[1] = b" " * 2_000_000
    writer.write()
    with egobody3m.SequenceReader(only(tmp_path / "zips")) as reader:
        with pytest.raises(
            ValueError, match=r"frame0000\.json: declared bytes a stored byte: must be in \[0, 100\], got 10"
        ):
            reader.metadata(0)
        with pytest.raises(
            ValueError, match=r"frame0001\.json: declared bytes: must be in \[0, 1000000\], got 2000000"
        ):
            reader.metadata(1)


def test_member_longer_than_declared(tmp_path, new_sequence):
    """A lying directory entry gives an error, not more bytes than it declares."""
    new_sequence(frames=range(1)).write()
    path = tmp_path / "zips" / "train" / "100.metadata.zip"
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with (
        egobody3m.SequenceReader(only(tmp_path / "zips")) as reader,
        pytest.raises(ValueError, match=r"frame0000.json: damaged member"),
    ):
        reader.metadata(0)


def test_zips_that_are_missing_damaged_or_of_another_sequence(tmp_path, new_sequence):
    new_sequence(frames=range(2)).write()
    files = only(tmp_path / "zips")
    whole = files.images.read_bytes()
    files.images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"100\.images\.zip: not a readable zip: .*; download it again"):
        egobody3m.SequenceReader(files)
    files.images.unlink()
    with pytest.raises(ValueError, match=r"100\.images\.zip: no such file"):
        egobody3m.SequenceReader(files)
    with egobody3m.SequenceReader(files, with_images=False) as reader:
        assert reader.view_sizes_px() == [None] * 4
    with zipfile.ZipFile(files.metadata, "w") as file:
        file.writestr("200/frame0000.json", "{}")
    with pytest.raises(ValueError, match=r"members named 100/frameNNNN\.json: there are none"):
        egobody3m.SequenceReader(files, with_images=False)


def test_real_sample(shared_data, tmp_path):
    """The released sample clip: 20 frames, level 0, joints under the headset, cameras that can be fitted."""
    sample = shared_data / "egobody3m_sample" / "603778748449547.metadata.zip"
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / sample.name).write_bytes(sample.read_bytes())
    files = only(tmp_path)
    assert (files.split, files.sequence) == ("test", "603778748449547")
    with egobody3m.SequenceReader(files, with_images=False) as reader:
        assert reader.frames == tuple(range(20))
        good, bad = egobody3m.read_metadata(reader)
        fits = egobody3m.calibrate(reader)
    assert len(good) == 20 and not bad
    assert {f.annotation_level for f in good} == {0}
    heights_m = np.stack([f.joints_world_m for f in good])[..., 1]
    assert heights_m.min() > -0.05 and 1.2 < heights_m.max() < 2.0
    assert all(fit.good and fit.rms_px < 1e-3 for fit in fits), report(fits, layout.EGOBODY3M)
