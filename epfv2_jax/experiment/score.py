"""Scoring a checkpoint: the table of the paper's metrics, pictures and a report."""

import os

from epfv2_jax import checkpoints
from epfv2_jax.core import files, multihost
from epfv2_jax.data import pipeline, records
from epfv2_jax.evaluation import evaluate as evaluate_lib
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import config as config_lib
from epfv2_jax.experiment import data as data_lib
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.viz import report


def evaluate(
    checkpoint: str | os.PathLike,
    data_directory: str | os.PathLike,
    output: str | os.PathLike,
    split: str | None = None,
) -> EvaluationResult:
    """Returns the scores of a checkpoint on a split beside its baselines; writes JSON, pictures and a report.

    The mean pose is that of the training split of the same data set; the other baselines are the checkpoint itself with
    hidden views. In a run of several processes all call this, and the first writes.

    Raises:
      ValueError: there is no checkpoint or no such split, or the data has other joints or views than the model.
    """
    trained = checkpoints.load(checkpoint)
    config = config_lib.parse(trained.about.experiment)
    split = split or config.evaluation.test_split
    data = data_lib.open_split(data_directory, split)
    check_same(trained, data, "skeleton", "layout", "image_size_hw")
    mean_pose = metrics.mean_pose(data_lib.training_poses(config, data_directory), data.skeleton)
    result = evaluate_lib.score(
        trained.model,
        trained.variables,
        data,
        config.evaluation,
        mean_pose_headset_m=mean_pose,
        pictures=config.evaluation.pictures,
    )
    if multihost.is_first():
        output = files.locate(output)
        hidden = config.evaluation.hide_views
        about = {"split": split, "step": trained.step, "hide_views": hidden}
        tables.write_json(result, output / "metrics.json", about)
        clips = pipeline.build_index(data, config.evaluation.clip_frames)
        report.write_report(
            output,
            result,
            trained.model.skeleton,
            trained.model.layout,
            title=f"{split} split",
            note=f"{trained.kind} checkpoint, step {trained.step}{', scored without images' if hidden else ''}",
            describe_clip=clips.describe,
        )
    return result


def check_same(trained: checkpoints.Trained, data: records.Records, *names: str) -> None:
    """Raises unless the records are like those that a model was trained on.

    Args:
      trained: the model.
      data: the records.
      names: what must be the same: "skeleton", "layout", "image_size_hw".

    Raises:
      ValueError: one of these differs.
    """
    for name in names:
        theirs, own = getattr(data, name), getattr(trained.about, name)
        if theirs != own:
            own, theirs = (getattr(x, "name", x) for x in (own, theirs))
            raise ValueError(
                f"{data.directory}: the model was trained on {name} {own}, these records have {theirs}; convert the "
                "data alike, or train on it"
            )
