"""The command `predict`: what it writes and leaves alone, and how it ends."""

import os
import pathlib

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints, predict
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images, records
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.interop import bvh
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes

SIZE_HW, NUM_FRAMES = (16, 16), 20
SKELETON, LAYOUT = skeleton.EGOBODY3M, layout.EGOBODY3M
MODEL = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)


@pytest.fixture(scope="module")
def batch():
    return fakes.fake_batch(B=1, T=NUM_FRAMES, image_hw=SIZE_HW)


def run_of(batch, name: str, split: str, frames: slice) -> records.FrameRun:
    T = batch.frames.T_world_headset[0, frames]
    return records.FrameRun(
        sequence=name,
        split=split,
        frame_index=np.arange(NUM_FRAMES, dtype=np.int32)[frames],
        time_s=np.arange(NUM_FRAMES)[frames] / 20,
        jpegs=tuple(tuple(map(images.encode_grey, views)) for views in batch.frames.images[0, frames]),
        T_world_headset=T,
        joints_world_m=np.zeros((len(T), SKELETON.num_joints, 3), np.float32),
        joint_valid=np.zeros((len(T), SKELETON.num_joints), bool),  # a recording without truth
        view_valid=batch.frames.view_valid[0, frames],
        rig=jax.tree.map(lambda leaf: leaf[0].copy(), batch.frames.rig),
    )


def write_records(folder: pathlib.Path, batch, view_names=LAYOUT.view_names) -> pathlib.Path:
    """Two splits; the sequences of `test` are `jump`, in two records, and `walk`."""
    own_layout = layout.RigLayout(name="own", view_names=view_names, upright_turns=(0,) * 4)
    spec = records.RecordSpec(
        image_size_hw=SIZE_HW, camera_model="fisheye", frame_s=1 / 20, skeleton=SKELETON, layout=own_layout
    )
    for split, names in (("test", ("jump", "walk")), ("train", ("walk",))):
        shards = []
        for name in names:
            parts = (slice(0, 7), slice(7, None)) if name == "jump" else (slice(0, 5),)
            runs = [run_of(batch, name, split, part) for part in parts]
            shards.append(records.write_shard(folder / split / f"{name}.arrayrecord", runs))
        records.write_manifest(folder / split, records.Manifest(split=split, spec=spec, shards=tuple(shards)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, batch):
    return write_records(tmp_path_factory.mktemp("data") / "records", batch)


def save(directory: pathlib.Path, batch, seed: int) -> pathlib.Path:
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(MODEL)}, skeleton=SKELETON, layout=LAYOUT, image_size_hw=SIZE_HW
    )
    writer = checkpoints.CheckpointWriter(directory / "checkpoints", about)
    variables = fakes.random_variables(EPFv2(MODEL, SKELETON, LAYOUT), batch.frames, seed)
    writer.save_if_best(1, variables, 1.0, {})
    writer.close()
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, batch):
    return save(tmp_path_factory.mktemp("run"), batch, seed=0)


def run(*flags, **arguments):
    return predict.main([*flags, *(word for k, v in arguments.items() for word in (f"--{k}", str(v)))])


def written(folder: pathlib.Path) -> dict[str, int]:
    return {os.fspath(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_folder_of_records_becomes_a_folder_of_files(checkpoint, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--bvh", checkpoint=checkpoint, data=data, out=out) == 0
    names = {f"{name}.{ending}" for name in ("test/jump", "test/walk", "train/walk") for ending in ("npz", "bvh")}
    assert set(written(out)) == names | {"predictions.json"}
    with np.load(out / "test" / "jump.npz") as found:
        assert found["joints_world_m"].shape == (NUM_FRAMES, SKELETON.num_joints, 3)
        assert found["frame_valid"].all() and "root_rotation" not in found.files
        assert str(found["model"]) == "epfv2" and float(found["frame_rate_hz"]) == 20
    told = capsys.readouterr().out
    assert "test/jump: 20 frames in" in told and "BVH: constant bones move the joints by" in told
    assert f"{out}: 3 sequences written, 0 left out" in told


def test_what_is_done_stays_and_what_is_missing_is_made(checkpoint, data, tmp_path):
    out = tmp_path / "out"
    assert run(checkpoint=checkpoint, data=data, out=out, split="test", sequence="walk") == 0
    before = written(out)
    assert set(before) == {"predictions.json", "test/walk.npz"}
    assert run(checkpoint=checkpoint, data=data, out=out, split="test") == 0
    after = written(out)
    assert set(after) == {*before, "test/jump.npz"} and before.items() <= after.items()
    whole = (out / "test" / "jump.npz").read_bytes()
    (out / "test" / "jump.npz").unlink()
    assert run("--bvh", checkpoint=checkpoint, data=data, out=out, split="test") == 0
    assert (out / "test" / "jump.npz").read_bytes() == whole and (out / "test" / "walk.bvh").exists()


def test_a_kill_leaves_no_part_of_a_file(checkpoint, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(bvh, "_continuous_angles", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("--bvh", checkpoint=checkpoint, data=data, out=out, split="train") == 130
    assert set(written(out)) <= {"predictions.json", "train/walk.npz"}
    monkeypatch.undo()
    assert run("--bvh", checkpoint=checkpoint, data=data, out=out, split="train") == 0
    assert set(written(out)) == {"predictions.json", "train/walk.npz", "train/walk.bvh"}


def test_a_sequence_that_cannot_be_read_is_left_out(checkpoint, batch, tmp_path, capsys):
    data = write_records(tmp_path / "records", batch)
    shard = data / "test" / "jump.arrayrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    shard.write_bytes(content)
    out = tmp_path / "out"
    assert run(checkpoint=checkpoint, data=data, out=out, split="test") == 3
    assert set(written(out)) == {"predictions.json", "test/walk.npz"}
    told = capsys.readouterr().out
    assert "test/jump left out: " in told and "jump.arrayrecord" in told and "1 left out" in told


def test_a_folder_holds_predictions_of_one_model_and_one_source(checkpoint, data, batch, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint=checkpoint, data=data, out=out, split="train") == 0
    other = save(tmp_path / "other", batch, seed=1)
    assert run(checkpoint=other, data=data, out=out) == 1
    assert "model_sha256 of the predictions here" in capsys.readouterr().err
    assert run(checkpoint=checkpoint, data=data / "test", out=out) == 1
    assert "data of the predictions here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"checkpoint": "absent"}, "no checkpoint here"),
        ({"data": "absent"}, "absent: no such folder"),
        ({"split": "tset"}, "split: 'tset' is not one of 'test', 'train'; did you mean test?"),
        ({"sequence": "run"}, "sequence: 'run' is not one of"),
    ],
)
def test_mistakes_end_with_a_line_and_a_code(change, message, checkpoint, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(**{"checkpoint": checkpoint, "data": data, "out": "out", **change}) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_another_headset_is_refused(checkpoint, batch, tmp_path, capsys):
    data = write_records(tmp_path / "records", batch, view_names=("a", "b", "c", "d"))
    assert run(checkpoint=checkpoint, data=data, out=tmp_path / "out") == 1
    assert "give a recording of the headset that the model was trained for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
