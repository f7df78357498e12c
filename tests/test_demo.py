"""The demo: a sequence streams alike from zips and from records, and what goes in comes out in the pictures."""

import dataclasses
import json
import shutil
import sys
import zipfile
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image

from epfv2_jax import demo, structs
from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import conversion, images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.geometry import cameras, skeleton
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.testing.fakes import fake_batch

SIZE_HW = (32, 40)
NAME, FRAMES = "walk", (0, 1, 3, 4, 5)
MODEL = epfv2.ModelConfig(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)


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
            joints_m = rng.uniform((-0.7, -1.5, -0.3), (0.7, 0.2, 0.7), (skeleton.NUM_JOINTS, 3))
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
    conversion.convert(
        folder / "zips", folder / "records", conversion.ConversionConfig(image_size_hw=SIZE_HW, jpeg_quality=100)
    )
    return folder


@pytest.fixture(scope="module")
def zip_path(data):
    return data / "zips" / "test" / f"{NAME}.images.zip"


def test_zip_and_records_stream_alike(data, zip_path):
    of_zip = demo.open_recording(zip_path, SIZE_HW)
    of_metadata = demo.open_recording(data / "zips" / "test" / f"{NAME}.metadata.zip", SIZE_HW)
    of_folder = demo.open_recording(data / "records" / "test", SIZE_HW)
    of_shard = demo.open_recording(data / "records" / "test" / f"{NAME}.arrayrecord", SIZE_HW)
    for other in (of_metadata, of_folder, of_shard):
        assert (other.name, other.num_frames) == (of_zip.name, of_zip.num_frames) == (NAME, 5)
        for name in ("focal_px", "center_px", "radial", "tangential", "size_px"):
            np.testing.assert_array_equal(getattr(other.rig.cameras, name), getattr(of_zip.rig.cameras, name))
        np.testing.assert_array_equal(other.rig.T_cam_headset, of_zip.rig.T_cam_headset)
    quartets = zip(of_zip.frames, of_metadata.frames, of_folder.frames, of_shard.frames, strict=True)
    for index, (frame, *others) in zip(FRAMES, quartets, strict=True):
        assert frame.frame_index == index and frame.view_valid.all() and frame.images.shape == (4, *SIZE_HW)
        for other in others:
            assert np.abs(other.images.astype(int) - frame.images).max() <= 4  # one more JPEG
            for name in ("frame_index", "T_world_headset", "joints_world_m", "joint_valid", "view_valid"):
                np.testing.assert_array_equal(getattr(other, name), getattr(frame, name))


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

    recording = demo.open_recording(zip_path, SIZE_HW)
    frames = list(demo.stream(recording, start))
    assert streams == [[(0, 1)], [(0, 1), (1, 1), (3, 2), (4, 1), (5, 1)]]
    assert [f.example.frame for f in frames] == list(FRAMES)
    for f in frames:
        assert f.example.err_cm == pytest.approx(5.0, abs=1e-3)
        assert f.example.joint_valid.all() and f.latency_ms > 0
    assert len(list(demo.stream(demo.open_recording(zip_path, SIZE_HW), start, max_frames=2))) == 2


def test_a_stream_without_truth_has_no_error(zip_path):
    recording = demo.open_recording(zip_path, SIZE_HW)
    unknown = (
        dataclasses.replace(
            frame,
            joint_valid=np.zeros(skeleton.NUM_JOINTS, bool),
            joints_world_m=np.full((skeleton.NUM_JOINTS, 3), np.nan, np.float32),
        )
        for frame in recording.frames
    )
    pose = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
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
    frames = list(demo.open_recording(folder / zip_path.name, SIZE_HW).frames)
    missing = {(f.frame_index, v) for f in frames for v in range(4) if not f.view_valid[v]}
    assert missing == {(1, 2), (3, 0)}
    assert all((f.images[~f.view_valid] == 0).all() for f in frames)


def test_sequences_that_cannot_be_played_are_refused(data, zip_path, tmp_path):
    records_dir = data / "records" / "test"
    (tmp_path / "walk.mkv").write_bytes(b"x")
    shutil.copy(zip_path, tmp_path)
    for path, message in (
        (tmp_path / "absent.images.zip", "no such file or folder; give"),
        (tmp_path / "walk.mkv", "neither a sequence's zip nor records; give"),
        (tmp_path / zip_path.name, "metadata.zip: no such file"),
        (tmp_path, "name one of them"),
        (data / "records", "name one of these"),
        (records_dir / "other.arrayrecord", "name one of"),
    ):
        with pytest.raises(ValueError, match=message):
            demo.open_recording(path, SIZE_HW)
    with pytest.raises(ValueError, match=r"images of 32x40.*the model takes 48x48; convert"):
        demo.open_recording(records_dir, (48, 48))
    assert records.open_records(records_dir).num_frames == 5


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    frames = fake_batch(B=1, T=1, image_hw=SIZE_HW).frames
    variables = jax.jit(epfv2.EPFv2(MODEL).init)(jax.random.key(0), frames)
    conversion_config = {"conversion": {"image_size_hw": list(SIZE_HW)}}
    writer = checkpoint.CheckpointWriter(
        directory, {"model": config_lib.to_mapping(MODEL), "dataset": conversion_config}
    )
    writer.save_if_best(1, variables, 1.0, {})
    writer.close()
    return directory


def run_main(monkeypatch, **arguments):
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    demo.main()


def test_the_stream_is_the_clip(checkpoint_dir, zip_path):
    predictor = Predictor.from_checkpoint(checkpoint_dir)
    frames = list(demo.open_recording(zip_path, SIZE_HW).frames)
    frames[1].view_valid[2] = False
    recording = dataclasses.replace(demo.open_recording(zip_path, SIZE_HW), frames=iter(frames))
    streamed = list(demo.stream(recording, lambda: demo.jax_step(predictor, recording.rig)))

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
    for name in ("joints_headset_m", "cholesky_m"):
        found = np.stack([getattr(frame.example, name) for frame in streamed])
        np.testing.assert_allclose(found, np.asarray(getattr(pose, name)[0]), atol=1e-5)


def test_writes_a_video(checkpoint_dir, zip_path, tmp_path, monkeypatch, capsys):
    out = tmp_path / "walk.gif"
    run_main(monkeypatch, checkpoint=checkpoint_dir, sequence=zip_path, out=out, frame_rate=10)
    printed = capsys.readouterr().out
    assert f"{out}: 5 frames, mean joint error" in printed and "latency p50" in printed
    with Image.open(out) as gif:
        assert gif.n_frames == 5 and gif.info["duration"] == 100
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.video, "can_write_mp4", lambda: False)
    run_main(monkeypatch, checkpoint=checkpoint_dir, sequence=zip_path, frames=2)
    assert "install the extra 'video'" in capsys.readouterr().out
    with Image.open(tmp_path / f"{NAME}.gif") as gif:
        assert gif.n_frames == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sequence": "absent.images.zip"}, "no such file or folder"),
        ({"out": "walk.avi"}, "written as .gif or .mp4"),
        ({"rerun": "walk.mp4"}, "ends in .rrd"),
        ({"frames": "-1"}, "--frames -1"),
        ({"frame_rate": "0"}, "--frame_rate 0"),
        ({"checkpoint": "absent"}, "no checkpoint here"),
    ],
)
def test_mistakes_end_with_a_message(change, message, checkpoint_dir, zip_path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {"checkpoint": checkpoint_dir, "sequence": zip_path, "out": "walk.gif", **change}
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, **arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.gif"))


@pytest.mark.slow
def test_a_graph_gives_what_its_model_gives(checkpoint_dir, zip_path, tmp_path, monkeypatch, capsys):
    """Through a stand-in for ONNX Runtime that runs the model itself, one frame at a time."""
    predictor = Predictor.from_checkpoint(checkpoint_dir)
    recording = demo.open_recording(zip_path, SIZE_HW)

    class Graph:
        metadata: ClassVar = {"image_size_hw": list(SIZE_HW)}

        def reset(self):
            self.state = predictor.start(recording.rig)

        def step(self, inputs):
            assert {name: value.shape for name, value in inputs.items()} == {
                **{"images": (1, 4, *SIZE_HW), "T_world_headset": (1, 4, 4), "view_valid": (1, 4), "frame_gap": (1,)},
                **{name: (1, 4, 2) for name in ("focal_px", "center_px", "tangential")},
                **{
                    "radial": (1, 4, 6),
                    "thin_prism": (1, 4, 4),
                    "max_angle_rad": (1, 4),
                    "T_cam_headset": (1, 4, 4, 4),
                },
            }
            given = (inputs[name] for name in ("images", "T_world_headset", "view_valid", "frame_gap"))
            pose, self.state = predictor.step(self.state, *given)
            return {name: np.asarray(getattr(pose, name)) for name in ("joints_headset_m", "cholesky_m")}

    expected = list(demo.stream(recording, lambda: demo.jax_step(predictor, recording.rig)))
    again = demo.open_recording(zip_path, SIZE_HW)
    graph = Graph()
    found = list(demo.stream(again, lambda: demo.onnx_step(graph, recording.rig)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.example.joints_headset_m, b.example.joints_headset_m)
        np.testing.assert_array_equal(a.example.cholesky_m, b.example.cholesky_m)

    monkeypatch.setattr(demo.onnx_session, "OnnxSession", lambda path: graph)
    run_main(monkeypatch, onnx="graph.onnx", sequence=zip_path, out=tmp_path / "walk.gif", frames=3)
    assert "3 frames" in (printed := capsys.readouterr().out) and "(ONNX Runtime)" in printed


def test_something_must_say_the_poses(zip_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, sequence=zip_path)
    assert "give --checkpoint, or --onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main(monkeypatch, sequence=zip_path, onnx=zip_path.parent / "absent.onnx")
    assert "absent.onnx: no such file" in capsys.readouterr().err
