"""Scoring a checkpoint on records of other joints: by name, and said in the table."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images, records
from epfv2_jax.experiment import config as experiment
from epfv2_jax.experiment import recipe, score
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes

SIZE_HW, F = (16, 16), 8
MODEL = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)
#: Joints of the records among the model's: another order, and no left hand.
KEPT = [j for j in reversed(range(fakes.J)) if EGOBODY3M.joint_names[j] != "b_l_wrist"]
OTHER = Skeleton(
    name="other",
    joint_names=tuple(EGOBODY3M.joint_names[j] for j in KEPT),
    parents=(-1,) * len(KEPT),
    mirror=tuple(range(len(KEPT))),
    root_between=(0,),
    groups=(),
    rest_offsets_m=((0.0, 0.0, 0.0),) * len(KEPT),
    rest_root_headset_m=(0.0, 0.0, 0.0),
)


@pytest.fixture(scope="module")
def batch():
    found = fakes.fake_batch(B=1, T=F, image_hw=SIZE_HW)
    found.targets.joint_valid[:] = True
    return found


def write_records(folder: pathlib.Path, batch, skeleton: Skeleton, joints: list[int]) -> pathlib.Path:
    """Splits `train` and `test` of one sequence."""
    T = batch.frames.T_world_headset[0]
    joints_m = batch.targets.joints_headset_m[0] @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3]
    spec = dataclasses.replace(fakes.record_spec(SIZE_HW), skeleton=skeleton)
    for split in ("train", "test"):
        run = records.FrameRun(
            sequence="walk",
            split=split,
            frame_index=np.arange(F, dtype=np.int32),
            time_s=np.arange(F) / 30,
            jpegs=tuple(tuple(map(images.encode_grey, views)) for views in batch.frames.images[0]),
            T_world_headset=T,
            joints_world_m=joints_m[:, joints].astype(np.float32),
            joint_valid=np.ones((F, len(joints)), bool),
            view_valid=batch.frames.view_valid[0],
            rig=jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float32), batch.frames.rig),
        )
        shard = records.write_shard(folder / split / "walk.arrayrecord", [run])
        records.write_manifest(folder / split, records.Manifest(split=split, spec=spec, shards=(shard,)))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, batch):
    mapping = recipe.read(str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "quickstart.py"))
    mapping |= {"evaluation": {"ablate_views": False, "pictures": 0}, "model": config_lib.to_mapping(MODEL)}
    mapping["data"] = {"source": "records", "clip_frames": 4, "batch_size": 8}
    about = checkpoints.About(
        experiment=config_lib.to_mapping(experiment.parse(mapping)),
        skeleton=EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=SIZE_HW,
    )
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    writer = checkpoints.CheckpointWriter(directory, about)
    writer.save_if_best(1, fakes.random_variables(EPFv2(MODEL, EGOBODY3M, layout.EGOBODY3M), batch.frames), 1.0, {})
    writer.close()
    return directory


def test_joints_are_compared_by_name(checkpoint, batch, tmp_path):
    whole = score.evaluate(
        checkpoint, write_records(tmp_path / "a", batch, EGOBODY3M, list(range(fakes.J))), tmp_path / "a"
    )
    part = score.evaluate(checkpoint, write_records(tmp_path / "b", batch, OTHER, KEPT), tmp_path / "b")
    assert whole.unscored == () and part.unscored == ("b_l_wrist",)
    expected = {name: value for name, value in whole.per_joint_cm.items() if name != "b_l_wrist"}
    found = {name: value for name, value in part.per_joint_cm.items() if name != "b_l_wrist"}
    assert found == pytest.approx(expected, rel=1e-5)
    assert part.metrics["mpjpe_cm"] == pytest.approx(np.mean(list(expected.values())), rel=1e-5)
    assert part.metrics["wrist_cm"] == pytest.approx(expected["b_r_wrist"], rel=1e-5)
    mean_pose = whole.baselines_per_joint_cm["mean pose"]
    assert part.baselines_per_joint_cm["mean pose"]["b_head"] == pytest.approx(mean_pose["b_head"], rel=1e-5)
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["unscored_joints"] == ["b_l_wrist"]
    assert "25 of 26 joints; the data have no b_l_wrist" in (tmp_path / "b" / "index.html").read_text()


def test_records_without_a_joint_of_the_model_are_refused(checkpoint, batch, tmp_path):
    strange = dataclasses.replace(OTHER, joint_names=tuple(f"bone{i}" for i in range(len(KEPT))))
    data = write_records(tmp_path / "records", batch, strange, KEPT)
    with pytest.raises(ValueError, match="joints of 'other', none of which has a name of 'egobody3m'; convert"):
        score.evaluate(checkpoint, data, tmp_path / "out")
