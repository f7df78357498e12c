import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest
from array_record.python import array_record_module
from flax import serialization

from epfv2_jax.data import images, records, rig
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing import fakes

SIZE_HW = (16, 24)
J = skeleton.EGOBODY3M.num_joints
SPEC = fakes.record_spec(SIZE_HW)


def make_run(num_frames=5, first=3, sequence="100"):
    rng = np.random.default_rng(first)
    jpegs = tuple(
        tuple(images.encode_grey(np.full(SIZE_HW, 20 * v + f, np.uint8), 95) for v in range(4))
        for f in range(num_frames)
    )
    return records.FrameRun(
        sequence=sequence,
        split="train",
        frame_index=np.arange(first, first + num_frames, dtype=np.int32),
        time_s=np.arange(first, first + num_frames) / 30,
        jpegs=jpegs,
        T_world_headset=np.broadcast_to(np.eye(4, dtype=np.float32), (num_frames, 4, 4)).copy(),
        joints_world_m=rng.normal(size=(num_frames, J, 3)).astype(np.float32),
        joint_valid=rng.random((num_frames, J)) < 0.8,
        view_valid=np.ones((num_frames, 4), bool),
        rig=jax.tree.map(np.asarray, rig.upright(rig.default_rig(), layout.EGOBODY3M, SIZE_HW)),
    )


def write_split(folder, shards=((3, 2), (4,))):
    entries = []
    for i, lengths in enumerate(shards):
        runs = [make_run(n, first=100 * j, sequence=f"s{i}") for j, n in enumerate(lengths)]
        entries.append(records.write_shard(folder / f"s{i}.arrayrecord", runs))
    manifest = records.Manifest(split="train", spec=SPEC, shards=tuple(entries))
    records.write_manifest(folder, manifest)
    return manifest


def assert_same_run(a, b):
    assert (a.sequence, a.split, a.jpegs, a.rig.cameras.model) == (b.sequence, b.split, b.jpegs, b.rig.cameras.model)
    for x, y in zip(jax.tree.leaves(a.rig), jax.tree.leaves(b.rig), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    for name in ("frame_index", "time_s", "T_world_headset", "joints_world_m", "joint_valid", "view_valid"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_round_trip():
    run = make_run()
    assert_same_run(records.decode(records.encode(run)), run)
    assert records.encode(run) == records.encode(make_run())


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"joints_world_m": np.zeros((5, 25, 3), np.float32)},
            r"100: joints_world_m: expected \(5, 26, 3\) .*\(5, 25, 3\)",
        ),
        ({"frame_index": np.array([0, 1, 2, 4, 5], np.int32)}, "frame_index has a gap"),
        (
            {"time_s": np.array([0.0, 0.1, 0.1, 0.2, 0.3])},
            r"run of 100: time_s of frame 5 is 0\.1, not later than 0\.1 of the frame before it; sort the frames",
        ),
        ({"time_s": np.array([0.0, 0.2, 0.1, 0.3, 0.4])}, r"time_s of frame 5 is 0\.1, not later than 0\.2"),
        ({"time_s": np.array([0.0, np.nan, 0.1, 0.2, 0.3])}, "time_s: holds values that are not finite; leave out"),
        ({"time_s": np.zeros(5, np.float32)}, r"time_s: expected \(5,\) float64, got \(5,\) float32"),
        ({"jpegs": ()}, "jpegs must be 5 frames of 4 views"),
        ({"jpegs": ((b"",) * 4,) * 5}, "frame 3 view 0 is marked valid but has no image"),
    ],
)
def test_bad_runs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_run(), **changes)


def test_frame_gaps_are_differences_of_time_in_nominal_frame_times():
    time_s = np.array([0.7, 0.8, 0.97, 1.0, 1.2, 1e12])
    assert records.frame_gaps(time_s, 0.1).tolist() == [1, 1, 2, 1, 2, 2**31 - 1]
    assert records.frame_gaps(time_s[:2], 0.1, before_s=0.4).tolist() == [3, 1]
    assert records.frame_gaps(np.arange(100) * (1 / 7.5), 1 / 7.5).tolist() == [1] * 100


def test_the_frame_time_of_the_manifest_must_fit():
    run = make_run()
    assert dataclasses.replace(SPEC, frame_s=0.02).difference(run) == ""  # frames may have been dropped
    assert dataclasses.replace(SPEC, frame_s=4 / 30).difference(run) == "frame time 0.03333 s instead of 0.1333 s"
    with pytest.raises(ValueError, match=r"frame_s: must be above 0, got 0\.0"):
        dataclasses.replace(SPEC, frame_s=0.0)


def test_bad_bytes_are_refused():
    data = records.encode(make_run())
    with pytest.raises(ValueError, match="not a record"):
        records.decode(data[: len(data) // 2])
    fields = serialization.msgpack_restore(data)
    with pytest.raises(ValueError, match=r"record: joint_valid: required key is missing; convert the data again"):
        records.decode(serialization.msgpack_serialize({k: v for k, v in fields.items() if k != "joint_valid"}))
    with pytest.raises(ValueError, match="record: version: expected 2, got 99"):
        records.decode(serialization.msgpack_serialize({**fields, "version": 99}))
    for cameras, message in (
        (3, "cameras: expected a mapping"),
        ({}, r"cameras\.focal_px: required key is missing"),
        ({**fields["cameras"], "zoom": 1.0}, r"cameras\.zoom: unknown key"),
    ):
        with pytest.raises(ValueError, match=message):
            records.decode(serialization.msgpack_serialize({**fields, "cameras": cameras}))


def test_bad_images_become_invalid_views(bomb_jpeg):
    run = make_run()
    other_size = images.encode_grey(np.zeros((16, 16), np.uint8))
    jpegs = [list(frame) for frame in run.jpegs]
    jpegs[1][0] = bomb_jpeg
    jpegs[2][1] = jpegs[2][1][: len(jpegs[2][1]) // 2]
    jpegs[3][2] = other_size
    jpegs[4][3] = b""
    view_valid = run.view_valid.copy()
    view_valid[4, 3] = False
    run = dataclasses.replace(run, jpegs=tuple(map(tuple, jpegs)), view_valid=view_valid)
    pictures, valid = records.decode_images(run, 1, 5)
    assert pictures.shape == (4, 4, *SIZE_HW) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(valid, ~np.eye(4, dtype=bool))
    assert not pictures[~valid].any()
    means = pictures.mean(axis=(2, 3))[valid]
    expected = (20 * np.arange(4)[None] + np.arange(1, 5)[:, None])[valid]
    assert np.abs(means - expected).max() < 1.5


def test_reading_by_index(tmp_path):
    manifest = write_split(tmp_path)
    split = records.open_records(tmp_path)
    assert (len(split), split.num_frames, split.image_size_hw, split.num_views) == (3, 9, SIZE_HW, 4)
    assert [(e.sequence, e.first_frame, e.num_frames) for e in split.entries] == [
        ("s0", 0, 3),
        ("s0", 100, 2),
        ("s1", 0, 4),
    ]
    assert_same_run(split[1], make_run(2, first=100, sequence="s0"))
    assert_same_run(pickle.loads(pickle.dumps(split))[2], make_run(4, first=0, sequence="s1"))
    assert records.verify(tmp_path) == manifest
    assert not list(tmp_path.glob("*.tmp"))


def test_same_runs_give_same_bytes(tmp_path):
    first = records.write_shard(tmp_path / "a.arrayrecord", [make_run(3), make_run(2)])
    second = records.write_shard(tmp_path / "b.arrayrecord", [make_run(3), make_run(2)])
    assert first.sha256 == second.sha256


def test_half_written_shard(tmp_path):
    manifest = write_split(tmp_path)
    path = tmp_path / "s1.arrayrecord"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"s1\.arrayrecord: bytes: expected {len(whole)}, got {len(content)}; half-written"
        ):
            records.open_records(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no such file; run the conversion again"):
        records.open_records(tmp_path)
    # A 0-byte file opens as an empty one: sizes must be compared.
    path.write_bytes(b"")
    reader = array_record_module.ArrayRecordReader(str(path))
    assert reader.num_records() == 0
    with pytest.raises(RuntimeError, match="at least 64KB"):
        reader.close()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"s1.arrayrecord: sha256: expected '{manifest.shards[1].sha256}', got '"):
        records.verify(tmp_path)


def test_a_damaged_shard_names_file_and_record(tmp_path):
    write_split(tmp_path)
    path = tmp_path / "s0.arrayrecord"
    data = bytearray(path.read_bytes())
    start = data.index(b"joints_world_m")
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    split = records.open_records(tmp_path)
    with pytest.raises(
        ValueError, match=rf"^{path}: record 0 \(s0\) is damaged: .*; delete the file and convert the data"
    ):
        split[0]
    assert split[2].sequence == "s1"


def spoilt(**changes):
    """A run with values put into its arrays: name -> (index, value)."""
    run = make_run()
    for name, (index, value) in changes.items():
        array = getattr(run, name).copy()
        array[index] = value
        run = dataclasses.replace(run, **{name: array})
    return run


@pytest.mark.parametrize(
    "run, message",
    [
        (spoilt(T_world_headset=((2, 0, 0), np.nan)), "frame 5 of 100: the pose of the headset: .*not finite"),
        (spoilt(T_world_headset=((2, 0, 0), 2.0)), "frame 5 of 100: the pose of the headset: .*not orthonormal"),
        (
            spoilt(T_world_headset=((0, 1, 3), 1e20)),
            r"frame 3 of 100: .*largest coordinate, m: must be in \[0, 1000\.0\]",
        ),
        (
            spoilt(joint_valid=((4, 7), True), joints_world_m=((4, 7, 1), np.inf)),
            "frame 7 of 100: joints_world_m: holds values that are not finite",
        ),
        (
            spoilt(joint_valid=((4, 7), True), joints_world_m=((4, 7, 1), -2000)),
            r"frame 7 of 100: largest coordinate of a joint, m: must be in \[0, 1000\.0\], got 2000",
        ),
    ],
)
def test_impossible_poses_are_refused_where_they_are_read(tmp_path, run, message):
    path = tmp_path / "a.arrayrecord"
    shard = records.write_shard(path, [make_run(2, first=0), run])
    records.write_manifest(tmp_path, records.Manifest(split="train", spec=SPEC, shards=(shard,)))
    split = records.open_records(tmp_path)
    assert split[0].num_frames == 2
    with pytest.raises(ValueError, match=rf"^{path}: record 1 \(100\): {message}"):
        split[1]
    with pytest.raises(ValueError, match=message):
        records.verify(tmp_path)


def test_joints_that_are_not_valid_may_be_anything():
    spoilt(joint_valid=((4, 7), False), joints_world_m=((4, 7, 1), np.nan)).check_motion()


@pytest.mark.parametrize("name, value", [("focal_px", np.nan), ("T_cam_headset", np.inf)])
def test_cameras_that_are_not_finite_are_refused(name, value):
    rig = jax.tree.map(np.copy, make_run().rig)
    (rig.T_cam_headset if name == "T_cam_headset" else rig.cameras.focal_px)[0] = value
    assert "cameras that are not finite" in SPEC.difference(dataclasses.replace(make_run(), rig=rig))


@pytest.mark.parametrize("size", [0.0, 1e6, np.nan, np.inf])
def test_images_that_no_camera_takes_are_refused(size):
    run = make_run()
    cameras = run.rig.cameras.replace(size_px=np.full_like(run.rig.cameras.size_px, size))
    with pytest.raises(ValueError, match=r"size_px: must be in \[1, 2048\]"):
        dataclasses.replace(run, rig=run.rig.replace(cameras=cameras))
    cameras.size_px[:] = 16
    cameras.size_px[1] = 17
    with pytest.raises(ValueError, match=r"run of 100: views differ in size .*; convert them to one size"):
        dataclasses.replace(run, rig=run.rig.replace(cameras=cameras))


def test_killed_writer_leaves_no_shard(tmp_path):
    def runs():
        yield make_run()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_shard(tmp_path / "s0.arrayrecord", runs())
    assert not list(tmp_path.iterdir())


def test_unfinished_or_empty_directory(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json; the data is missing or its conversion unfinished: run '"):
        records.open_records(tmp_path)
    write_split(tmp_path / "train")
    with pytest.raises(ValueError, match=r"no manifest\.json here, but in train"):
        records.open_records(tmp_path)
    records.write_manifest(tmp_path, records.Manifest(split="test", spec=SPEC, shards=()))
    with pytest.raises(ValueError, match="records of split 'test': there are none"):
        records.open_records(tmp_path)
    with pytest.raises(ValueError, match="records: there are none; a shard needs at least one"):
        records.write_shard(tmp_path / "x.arrayrecord", [])


def test_a_split_that_is_missing_names_those_that_exist(tmp_path):
    absent = tmp_path / "records" / "trian"
    command = rf"'python -m epfv2_jax\.convert --in SOURCE --out {absent.parent}'"
    with pytest.raises(ValueError, match=rf"trian: no such folder; {command}"):
        records.open_records(absent)
    for split in ("train", "validation"):
        write_split(absent.parent / split)
    with pytest.raises(ValueError, match=r"trian: no such split; .* holds train, validation; did you mean train\?"):
        records.open_records(absent)


def test_records_carry_skeleton_and_layout(tmp_path):
    write_split(tmp_path)
    split = records.open_records(tmp_path)
    assert split.skeleton == skeleton.EGOBODY3M and split.layout == layout.EGOBODY3M
    assert split.camera_model == "fisheye" and split.frame_s == 1 / 30
    content = json.loads((tmp_path / records.MANIFEST_NAME).read_text())
    assert content["spec"]["skeleton"]["joint_names"] == list(skeleton.EGOBODY3M.joint_names)


@pytest.mark.parametrize("version", [1, 2, None])
def test_manifest_of_another_version(tmp_path, version):
    write_split(tmp_path)
    path = tmp_path / records.MANIFEST_NAME
    path.write_text(json.dumps({"version": version, "split": "train", "num_views": 4}))
    with pytest.raises(ValueError, match=rf"manifest\.json: version: expected 3, got {version}; convert .*again$"):
        records.open_records(tmp_path)


def test_manifest_is_strict(tmp_path):
    write_split(tmp_path)
    path = tmp_path / records.MANIFEST_NAME
    content = json.loads(path.read_text())
    content["shards"][0]["file"] = "../s0.arrayrecord"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shards\[0\].*not a plain file name"):
        records.open_records(tmp_path)
    for change, message in (
        ({"image_size_hw": [10**6, 10**6]}, r"spec: image_size_hw\[0\]: must be in \[1, 2048\], got 1000000"),
        ({"frame_s": 10**400}, r"spec\.frame_s: must fit in 64 bits"),
        ({"frame_s": 0.05}, "sha256 of the rest of the content: expected .* it was changed or damaged"),
    ):
        write_split(tmp_path)
        content = json.loads(path.read_text())
        content["spec"].update(change)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"manifest\.json: {message}.*; convert the data again"):
            records.open_records(tmp_path)
    write_split(tmp_path)
    content = json.loads(path.read_text())
    content["shards"][0]["records"][0]["num_frames"] = 10**12
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"shards\[0\]\.records\[0\]: num_frames: must be in \[1, 4096\]"):
        records.open_records(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: not valid JSON"):
        records.open_records(tmp_path)
