"""The command `demo`: what it writes, what it prints, and how it ends."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from epfv2_jax import checkpoints, demo
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images, records
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes
from epfv2_jax.viz import encoding

SIZE_HW, NUM_FRAMES = (32, 40), 5
SKELETON, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M
MODEL = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)


@pytest.fixture(scope="module")
def batch():
    return fakes.fake_batch(B=1, T=NUM_FRAMES, image_hw=SIZE_HW)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory, batch):
    """A directory of records with the sequence `walk`."""
    folder = tmp_path_factory.mktemp("records") / "test"
    frames, T = batch.frames, batch.frames.T_world_headset[0]
    joints_world_m = batch.targets.joints_headset_m[0] @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3]
    run = records.FrameRun(
        sequence="walk",
        split="test",
        frame_index=np.arange(NUM_FRAMES, dtype=np.int32),
        time_s=np.arange(NUM_FRAMES) / 20,
        jpegs=tuple(tuple(map(images.encode_grey, views)) for views in frames.images[0]),
        T_world_headset=T,
        joints_world_m=joints_world_m.astype(np.float32),
        joint_valid=batch.targets.joint_valid[0],
        view_valid=frames.view_valid[0],
        rig=jax.tree.map(lambda leaf: leaf[0].copy(), frames.rig),
    )
    spec = records.RecordSpec(
        image_size_hw=SIZE_HW, camera_model="fisheye", frame_s=1 / 20, skeleton=SKELETON, layout=LAYOUT
    )
    shard = records.write_shard(folder / "walk.arrayrecord", [run])
    records.write_manifest(folder, records.Manifest(split="test", spec=spec, shards=(shard,)))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, batch):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(MODEL)}, skeleton=SKELETON, layout=LAYOUT, image_size_hw=SIZE_HW
    )
    writer = checkpoints.CheckpointWriter(directory, about)
    writer.save_if_best(1, fakes.random_variables(EPFv2(MODEL, SKELETON, LAYOUT), batch.frames), 1.0, {})
    writer.close()
    return directory


def run(**arguments):
    return demo.main([word for name, value in arguments.items() for word in (f"--{name}", str(value))])


def test_writes_a_video(checkpoint, sequence, tmp_path, monkeypatch, capsys):
    out = tmp_path / "walk.gif"
    assert run(checkpoint=checkpoint, sequence=sequence, out=out, frame_rate=10) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 5 frames, mean joint error" in printed and "latency p50" in printed
    with Image.open(out) as gif:
        assert gif.n_frames == 5 and gif.info["duration"] == 100
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoding, "can_write_mp4", lambda: False)
    out.unlink()
    assert run(checkpoint=checkpoint, sequence=sequence, frames=2) == 0
    assert "install the extra 'video'" in capsys.readouterr().out
    with Image.open(out) as gif:
        assert gif.n_frames == 2 and gif.info["duration"] == 50  # the rate of the sequence


@pytest.mark.parametrize(
    "change, code, message",
    [
        ({"sequence": "absent.images.zip"}, 1, "no such file or folder"),
        ({"checkpoint": "absent"}, 1, "no checkpoint here"),
        ({"onnx": "absent.onnx"}, 1, "absent.onnx: no such file"),
        ({"out": "walk.avi"}, 2, "'.gif', '.mp4'"),
        ({"out": "absent/walk.gif"}, 2, "absent: no such folder"),
        ({"rerun": "walk.mp4"}, 2, "'.rrd'"),
        ({"frames": "-1"}, 2, "frames: must be at least 0, got -1"),
        ({"frame_rate": "0"}, 2, "frame_rate: must be in [1, 240], got 0"),
    ],
)
def test_mistakes_end_with_a_line_and_a_code(
    change, code, message, checkpoint, sequence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = {"checkpoint": checkpoint, "sequence": sequence, "out": "walk.gif", **change}
    assert run(**arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


def test_something_must_compute_the_poses(sequence, capsys):
    assert run(sequence=sequence) == 2
    assert "give --checkpoint, or --onnx" in capsys.readouterr().err


def test_help_shows_defaults_and_imports_nothing_heavy():
    script = "import sys; from epfv2_jax import demo; print(demo.parser().format_help()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.splitlines()
    assert any("(default: 300)" in line for line in text)
    assert not {"jax", "numpy", "PIL"} & set(loaded.split())
