"""The earlier systems by their recipes, all stages: training, resuming, streaming and labelling, at small size."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from epfv2_jax import pseudo_label, train
from epfv2_jax.data import pipeline, records
from epfv2_jax.inference.predictor import Predictor

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs" / "baselines"
DATA = {
    "dataset.synthetic.validation_sequences": 1,
    "dataset.synthetic.test_sequences": 1,
    "dataset.synthetic.frames": 16,
    "dataset.synthetic.image_width": 40,
    "dataset.conversion.image_size_hw": "32,32",
    "dataset.conversion.record_frames": 16,
    "dataset.conversion.doubtful": "keep",
    "data.batch_size": 8,
    "step.steps": 4,
    "loop.log_every": 1,
    "loop.checkpoint_every": 2,
    "evaluation.clip_frames": 16,
    "evaluation.pictures": 1,
    "evaluation.ablate_views": "false",
}
LSTM = {
    "data.batch_size": 8,
    "data.clip_frames": 4,
    "data.warmup.steps": 2,
    "data.warmup.batch_size": 8,
    "model.width": 32,
}
EPFV1 = {"data.batch_size": 8, "model.width": 16, "model.proposal_width": 32, "model.ffn_width": 16}
UNREALEGO = {"model.decoder_widths": "16,", "model.dense_widths": "32,"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the data, which all share, and of the runs."""
    return tmp_path_factory.mktemp("baselines")


def run_recipe(folder, recipe, run, **changes):
    """Runs the command, and returns the line of each step in its log."""
    places = {"dataset.directory": folder / "records", "dataset.source_directory": folder / "zips", "output_dir": run}
    flags = [f"--config.{name}={value}" for name, value in (DATA | places | changes).items()]
    assert train.main(["--config", f"{CONFIGS / recipe}", *flags]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "changes"),
    [
        (("lstm.py:short",), LSTM),
        (("epfv1.py:heatmap-short", "epfv1.py:pose-short"), EPFV1),
        (("unrealego.py:heatmap-short", "unrealego.py:pose-short"), UNREALEGO),
    ],
    ids=["lstm", "epfv1", "unrealego"],
)
def test_a_baseline_trains_resumes_streams_and_labels(folder, stages, changes):
    before = None
    for recipe in stages:
        run = folder / "runs" / recipe.replace(":", "_")
        start = {} if before is None else {"init_from": before}
        whole = run_recipe(folder, recipe, run, **changes, **start)
        assert list(whole) == [1, 2, 3, 4]

        # As after a crash in the third step.
        shutil.rmtree(run / "checkpoints" / "latest" / "4")
        resumed = run_recipe(folder, recipe, run, **changes, **start)
        assert list(resumed) == [1, 2, 3, 4]
        assert resumed[4]["loss"] == pytest.approx(whole[4]["loss"], rel=1e-4)
        starts = [json.loads(line) for line in (run / "goodput.jsonl").read_text().splitlines()]
        assert [line["step"] for line in starts if line["event"] == "start"] == [0, 2]
        before = run

    predictor = Predictor.from_checkpoint(run)
    batch = next(pipeline.eval_batches(records.open_records(folder / "records" / "test"), 16, batch_size=1))
    frames, clip = batch.frames, predictor.clip(batch.frames)
    stream = predictor.start(frames.rig)
    for t in range(16):
        pose, stream = predictor.step(
            stream, frames.images[:, t], frames.T_world_headset[:, t], frames.view_valid[:, t]
        )
        np.testing.assert_allclose(pose.joints_headset_m, clip.joints_headset_m[:, t], atol=2e-5)

    data, labels = ("--data", str(folder / "records" / "test")), ("--out", str(folder / "labels" / run.name))
    checkpoint = ("--checkpoint", str(run))
    assert pseudo_label.main(["plan", *data, *checkpoint, *labels]) == 0
    assert pseudo_label.main(["run", *data, *checkpoint, *labels]) == 0
    assert pseudo_label.main(["verify", *data, *labels]) == 0
