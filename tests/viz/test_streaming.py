"""Streaming: a sequence streams alike from zips and from records, and what goes in comes out in the frames."""

import dataclasses
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
import recordings as own_recordings

from epfv2_jax import structs
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.deploy import sequences
from epfv2_jax.geometry import cameras, layout, skeleton
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes
from epfv2_jax.viz import demo, recordings

SKELETON, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M
J, SIZE_HW = SKELETON.num_joints, (32, 40)
NAME, FRAMES = "walk", (0, 1, 3, 4, 5)
MODEL = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)


def write_zips(folder, frames) -> None:
    """A sequence in the released layout: random joints, seen by the default headset at a tenth of its image size."""
    rng = np.random.default_rng(0)
    rig = rig_lib.default_rig()
    sizes = np.round(rig.cameras.size_px / 10).astype(int)
    small = [
        cameras.resize(jax.tree.map(lambda leaf, v=v: leaf[v], rig.cameras), *size) for v, size in enumerate(sizes)
    ]
    T_cam_headset = np.asarray(rig.T_cam_headset, np.float64)
    folder.mkdir(parents=True)
    with (
        zipfile.ZipFile(folder / f"{NAME}.metadata.zip", "w") as metadata,
        zipfile.ZipFile(folder / f"{NAME}.images.zip", "w") as pictures,
    ):
        for frame in frames:
            joints_m = rng.uniform((-0.7, -1.5, -0.3), (0.7, 0.2, 0.7), (J, 3))
            joints_cam_m = np.einsum("vij,nj->vni", T_cam_headset[:, :3, :3], joints_m) + T_cam_headset[:, None, :3, 3]
            uv, _ = cameras.project(cameras.without_turning_limit(cameras.stack(small)), joints_cam_m)
            uvz = np.concatenate([uv, 100 * joints_cam_m[..., 2:]], axis=-1)
            origin_m = np.array([0.1 * frame, 1.6, -0.3])
            T_world_headset_cm = np.eye(4)
            T_world_headset_cm[:3] = np.concatenate(
                [[[0, 0, 1], [0, 1, 0], [-1, 0, 0]], 100 * origin_m[:, None]], axis=1
            )
            fields = {
                "frame_index": frame,
                "annotation_level": 0,
                "world_from_headset_xf_cm": T_world_headset_cm.tolist(),
                "joint_positions_world_cm": (100 * (joints_m @ T_world_headset_cm[:3, :3].T + origin_m)).tolist(),
            }
            for v, (width, height) in enumerate(sizes):
                fields[f"projected_joint_positions_cam{v}_px"] = uvz[v].tolist()
                image = np.add.outer(np.arange(height), 2 * np.arange(width) / 3) + 10 * frame + 20 * v
                jpeg = images.encode_grey(image.astype(np.uint8), 95)
                pictures.writestr(f"{NAME}/frame{frame:04d}_cam{v}.jpg", jpeg)
            metadata.writestr(f"{NAME}/frame{frame:04d}.json", json.dumps(fields))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with zips/test and records/test: one sequence of five frames, with a gap after the second."""
    folder = tmp_path_factory.mktemp("data")
    write_zips(folder / "zips" / "test", FRAMES)
    config = ConversionConfig(image_size_hw=SIZE_HW, jpeg_quality=100, doubtful="keep")  # random joints are no body
    conversion.convert(folder / "zips", folder / "records", config)
    return folder


@pytest.fixture(scope="module")
def zip_path(data):
    return data / "zips" / "test" / f"{NAME}.images.zip"


def test_zip_and_records_stream_alike(data, zip_path):
    of_zip = recordings.open_recording(zip_path, SIZE_HW)
    of_metadata = recordings.open_recording(data / "zips" / "test" / f"{NAME}.metadata.zip", SIZE_HW)
    of_folder = recordings.open_recording(data / "records" / "test", SIZE_HW)
    of_shard = recordings.open_recording(data / "records" / "test" / f"{NAME}.arrayrecord", SIZE_HW)
    for other in (of_metadata, of_folder, of_shard):
        assert (other.name, other.num_frames) == (of_zip.name, of_zip.num_frames) == (NAME, 5)
        assert other.frame_s == of_zip.frame_s == 1 / 30
        for name in ("focal_px", "center_px", "radial", "tangential", "size_px"):
            np.testing.assert_array_equal(getattr(other.rig.cameras, name), getattr(of_zip.rig.cameras, name))
        np.testing.assert_array_equal(other.rig.T_cam_headset, of_zip.rig.T_cam_headset)
    quartets = zip(of_zip.frames, of_metadata.frames, of_folder.frames, of_shard.frames, strict=True)
    for index, (frame, *others) in zip(FRAMES, quartets, strict=True):
        assert frame.frame_index == index and frame.view_valid.all() and frame.images.shape == (4, *SIZE_HW)
        for other in others:
            assert np.abs(other.images.astype(int) - frame.images).max() <= 4  # one more JPEG
            for name in ("frame_index", "time_s", "T_world_headset", "joints_world_m", "joint_valid", "view_valid"):
                np.testing.assert_array_equal(getattr(other, name), getattr(frame, name))


def test_a_recording_and_its_records_stream_alike(tmp_path):
    """Of another headset; the poses of one frame are missing."""
    folder = own_recordings.write(tmp_path / "raw", own_recordings.FRONT, 4, "test", "walk")
    rows = (folder / "gt/data.csv").read_text().splitlines(keepends=True)
    (folder / "gt/data.csv").write_text("".join(rows[:1] + rows[2:]))
    config = ConversionConfig(reader="recording", image_size_hw=SIZE_HW, record_frames=2)
    conversion.convert(tmp_path / "raw", tmp_path / "records", config)
    of_records = recordings.open_recording(tmp_path / "records" / "test", SIZE_HW)
    expected = list(of_records.frames)
    for path in (folder.parent, tmp_path / "raw"):
        found = recordings.open_recording(path, SIZE_HW)
        for name in ("name", "skeleton", "layout", "num_frames", "frame_s"):
            assert getattr(found, name) == getattr(of_records, name), name
        jax.tree.map(np.testing.assert_array_equal, found.rig, of_records.rig)
        for frame, other in zip(found.frames, expected, strict=True):
            for field in dataclasses.fields(frame):
                np.testing.assert_array_equal(getattr(frame, field.name), getattr(other, field.name))
    assert len(expected) == found.num_frames == 3


def test_stream_passes_gaps_and_starts_anew_after_the_first_compilation(zip_path):
    streams = []

    def start():
        streams.append([])

        def step(frame, gap):
            streams[-1].append((frame.frame_index, gap))
            T = frame.T_world_headset.astype(np.float64)
            joints = (frame.joints_world_m - T[:3, 3]) @ T[:3, :3]
            return (joints + np.array([0.03, 0.0, 0.04])).astype(np.float32), None

        return step

    recording = recordings.open_recording(zip_path, SIZE_HW)
    frames = list(demo.stream(recording, start))
    assert streams == [[(0, 1)], [(0, 1), (1, 1), (3, 2), (4, 1), (5, 1)]]
    assert [f.example.frame for f in frames] == list(FRAMES)
    for f in frames:
        assert f.example.err_cm == pytest.approx(5.0, abs=1e-3)
        assert f.example.joint_valid.all() and f.latency_ms > 0
    assert len(list(demo.stream(recordings.open_recording(zip_path, SIZE_HW), start, max_frames=2))) == 2


def test_a_stream_without_truth_has_no_error(zip_path):
    recording = recordings.open_recording(zip_path, SIZE_HW)
    unknown = (
        dataclasses.replace(
            frame,
            joint_valid=np.zeros(J, bool),
            joints_world_m=np.full((J, 3), np.nan, np.float32),
        )
        for frame in recording.frames
    )
    pose = np.zeros((J, 3), np.float32)
    frames = demo.stream(dataclasses.replace(recording, frames=unknown), lambda: lambda frame, gap: (pose, None), 1)
    (frame,) = frames
    assert np.isnan(frame.example.err_cm) and np.isfinite(frame.example.true_joints_headset_m).all()


def test_a_missing_image_is_a_view_that_is_not_valid(zip_path, tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    shutil.copy(str(zip_path).replace("images", "metadata"), folder)
    with zipfile.ZipFile(zip_path) as source, zipfile.ZipFile(folder / zip_path.name, "w") as target:
        for info in source.infolist():
            if "frame0001_cam2" not in info.filename:
                target.writestr(info, b"\xff\xd8no jpeg" if "frame0003_cam0" in info.filename else source.read(info))
    frames = list(recordings.open_recording(folder / zip_path.name, SIZE_HW).frames)
    missing = {(f.frame_index, v) for f in frames for v in range(4) if not f.view_valid[v]}
    assert missing == {(1, 2), (3, 0)}
    assert all((f.images[~f.view_valid] == 0).all() for f in frames)


def test_sequences_that_cannot_be_played_are_refused(data, zip_path, tmp_path):
    records_dir = data / "records" / "test"
    (tmp_path / "walk.mkv").write_bytes(b"x")
    shutil.copy(zip_path, tmp_path)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "absent.images.zip", "no such file or folder; give"),
        (tmp_path / "walk.mkv", "neither a sequence's zip nor records; give"),
        (tmp_path / zip_path.name, "metadata.zip: no such file"),
        (tmp_path, "name one of them"),
        (tmp_path / "empty", "recordings: there are none; .*; give a recording"),
        (data / "records", "name one of these"),
        (records_dir / "other.arrayrecord", "name one of"),
    ):
        with pytest.raises(ValueError, match=message):
            recordings.open_recording(path, SIZE_HW)
    with pytest.raises(ValueError, match=r"images of 32x40.*the model takes 48x48; convert"):
        recordings.open_recording(records_dir, (48, 48))
    assert records.open_records(records_dir).num_frames == 5


@pytest.fixture(scope="module")
def predictor():
    model = EPFv2(MODEL, SKELETON, LAYOUT)
    frames = fakes.fake_batch(B=1, T=1, image_hw=SIZE_HW).frames
    return Predictor(model, fakes.random_variables(model, frames), SIZE_HW)


def test_the_stream_is_the_clip(predictor, zip_path):
    frames = list(recordings.open_recording(zip_path, SIZE_HW).frames)
    frames[1].view_valid[2] = False
    recording = dataclasses.replace(recordings.open_recording(zip_path, SIZE_HW), frames=iter(frames))
    streamed = list(demo.stream(recording, lambda: demo.ModelPoses(predictor).start(recording.rig)))

    def stacked(name):
        return np.stack([getattr(frame, name) for frame in frames])[None]

    clip = structs.Frames(
        images=stacked("images"),
        rig=jax.tree.map(lambda leaf: leaf[None], recording.rig),
        T_world_headset=stacked("T_world_headset"),
        view_valid=stacked("view_valid"),
        frame_valid=np.ones((1, len(frames)), bool),
        frame_gap=np.array([[1, 1, 2, 1, 1]], np.int32),
    )
    pose = predictor.clip(clip)
    found = np.stack([frame.example.joints_headset_m for frame in streamed])
    np.testing.assert_allclose(found, np.asarray(pose.joints_headset_m[0]), atol=1e-5)
    found = np.stack([frame.example.distribution.cholesky_m for frame in streamed])
    np.testing.assert_allclose(found, np.asarray(pose.distribution.cholesky_m[0]), atol=1e-5)
    assert {f.example.distribution.degrees_of_freedom for f in streamed} == {pose.distribution.degrees_of_freedom}


class Graph:
    """A stand-in for ONNX Runtime that runs the model itself, one frame at a time."""

    def __init__(self, predictor, rig, **metadata):
        self._predictor, self._rig = predictor, rig
        self.metadata = {
            "image_size_hw": list(SIZE_HW),
            "joint_names": list(SKELETON.joint_names),
            "camera_order": list(LAYOUT.view_names),
            **metadata,
        }

    def reset(self):
        self._state = self._predictor.start(self._rig)

    def step(self, inputs):
        assert {name: value.shape for name, value in inputs.items()} == {
            **{"images": (1, 4, *SIZE_HW), "T_world_headset": (1, 4, 4), "view_valid": (1, 4), "frame_gap": (1,)},
            **{name: (1, 4, 2) for name in ("focal_px", "center_px", "tangential")},
            **{"radial": (1, 4, 6), "thin_prism": (1, 4, 4), "max_angle_rad": (1, 4), "T_cam_headset": (1, 4, 4, 4)},
        }
        given = (inputs[name] for name in ("images", "T_world_headset", "view_valid", "frame_gap"))
        pose, self._state = self._predictor.step(self._state, *given)
        return {
            "joints_headset_m": np.asarray(pose.joints_headset_m),
            "cholesky_m": np.asarray(pose.distribution.cholesky_m),
        }


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"image_size_hw": None}, "image_size_hw: expected a sequence"),
        ({"image_size_hw": [0, 16]}, r"image_size_hw\[0\]: must be at least 1"),
        ({"joint_names": 3}, "joint_names: expected a sequence"),
        ({"degrees_of_freedom": "4"}, "degrees_of_freedom: expected float, got '4'"),
    ],
)
def test_metadata_that_cannot_be_of_a_graph_are_refused_by_field(wrong, message):
    with pytest.raises(ValueError, match=rf"metadata of the graph: {message}.*; export the checkpoint again"):
        demo.GraphPoses(Graph(None, None, **wrong), None)


def test_a_graph_gives_what_its_model_gives(predictor, zip_path):
    recording = recordings.open_recording(zip_path, SIZE_HW)
    expected = list(demo.stream(recording, lambda: demo.ModelPoses(predictor).start(recording.rig), 3))
    for metadata, nu in (({"degrees_of_freedom": 7.0}, 7.0), ({}, None)):
        poses = demo.GraphPoses(Graph(predictor, recording.rig, **metadata), sequences.calibration_of)
        again = recordings.open_recording(zip_path, poses.image_size_hw)
        found = list(demo.stream(again, lambda poses=poses: poses.start(recording.rig), 3))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.example.joints_headset_m, b.example.joints_headset_m)
            if nu is None:  # the ellipsoids of such a graph have no size
                assert a.example.distribution is None
            else:
                assert a.example.distribution.degrees_of_freedom == nu
                np.testing.assert_array_equal(a.example.distribution.cholesky_m, b.example.distribution.cholesky_m)


def test_a_sequence_of_other_joints_or_views_is_refused(predictor, zip_path):
    rig = recordings.open_recording(zip_path, SIZE_HW).rig
    for metadata, message in (
        ({"joint_names": ["hip", "knee"]}, r"walk: the model has 2 joints \(hip, knee\), the sequence 26 \(b_head, "),
        ({"camera_order": list(LAYOUT.view_names[::-1])}, r"walk: the model has 4 views \(right_side, "),
    ):
        poses = demo.GraphPoses(Graph(predictor, rig, **metadata), sequences.calibration_of)
        with pytest.raises(ValueError, match=message):
            demo.run(poses, demo.Options(sequence=zip_path))


def test_any_skeleton_and_layout_can_be_streamed(tmp_path):
    """Records of three joints and two views, through a source that knows the truth."""
    short = skeleton.Skeleton(
        name="arm",
        joint_names=("shoulder", "elbow", "wrist"),
        parents=(-1, 0, 1),
        mirror=(0, 1, 2),
        root_between=(0,),
        groups=(),
        rest_offsets_m=((0.0, 0.0, 0.0), (0.2, 0.0, 0.0), (0.2, 0.0, 0.0)),
        rest_root_headset_m=(0.0, -0.2, 0.0),
    )
    frames = fakes.fake_batch(B=1, T=2, image_hw=SIZE_HW).frames
    joints = np.broadcast_to(np.float32([[0.2, 1.3, 0.3], [0.3, 1.1, 0.4], [0.3, 0.9, 0.6]]), (2, 3, 3))
    run = records.FrameRun(
        sequence="reach",
        split="test",
        frame_index=np.arange(2, dtype=np.int32),
        time_s=np.arange(2) / 30,
        jpegs=tuple(tuple(images.encode_grey(view) for view in frame) for frame in frames.images[0, :, :2]),
        T_world_headset=frames.T_world_headset[0],
        joints_world_m=joints.copy(),
        joint_valid=np.ones((2, 3), bool),
        view_valid=np.ones((2, 2), bool),
        rig=jax.tree.map(lambda leaf: leaf[0, :2].copy(), frames.rig),
    )
    spec = records.RecordSpec(
        image_size_hw=SIZE_HW, camera_model="fisheye", frame_s=1 / 30, skeleton=short, layout=fakes.TWO_VIEWS
    )
    shard = records.write_shard(tmp_path / "a.arrayrecord", [run])
    records.write_manifest(tmp_path, records.Manifest(split="test", spec=spec, shards=(shard,)))

    class Truth:
        runtime, image_size_hw = "none", None
        joint_names, view_names = short.joint_names, fakes.TWO_VIEWS.view_names

        def start(self, rig):
            def step(frame, gap):
                T = frame.T_world_headset.astype(np.float64)
                return ((frame.joints_world_m - T[:3, 3]) @ T[:3, :3]).astype(np.float32), None

            return step

    summary = demo.run(Truth(), demo.Options(sequence=tmp_path, out=tmp_path / "reach.gif", frame_rate=10))
    assert summary.num_frames == 2 and summary.err_cm == pytest.approx(0, abs=1e-3)
    assert summary.path.stat().st_size > 10_000
