"""Scoring a checkpoint: the table of the paper's metrics, and a report with pictures."""

import contextlib
import datetime
import json
import os
import shlex
from collections.abc import Iterable, Iterator

import jax

import epfv2_jax
from epfv2_jax import checkpoints, structs
from epfv2_jax.core import bars, files, multihost
from epfv2_jax.data import pipeline, records
from epfv2_jax.evaluation import evaluate as evaluate_lib
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import config as config_lib
from epfv2_jax.experiment import data as data_lib
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.training import log
from epfv2_jax.viz import report


def evaluate(
    checkpoint: str | os.PathLike,
    data_directory: str | os.PathLike,
    output: str | os.PathLike,
    split: str | None = None,
) -> EvaluationResult:
    """Returns the scores of a checkpoint on a split beside its baselines; writes JSON and a report.

    Shows a progress bar.

    Joints are compared by name, so the data may have others than the model, or in another order: those that both have
    are scored, and the table names the others. A name is taken at its word. The mean pose is that of the training split
    of the same data set; the other baselines are the checkpoint itself with hidden views. In a run of several processes
    all call this, and the first writes.

    Raises:
      ValueError: there is no checkpoint or no such split, or the data have none of the model's joints, or other views.
    """
    trained = checkpoints.load(checkpoint)
    config = config_lib.parse(trained.about.experiment)
    split = split or config.evaluation.test_split
    data = data_lib.open_split(data_directory, split)
    check_same(trained, data, "layout", "image_size_hw")
    skeleton = trained.model.skeleton
    mean_pose = metrics.mean_pose(data_lib.training_poses(config, data_directory, skeleton), skeleton)
    result = evaluate_lib.score(
        trained.model,
        trained.variables,
        data,
        config.evaluation,
        mean_pose_headset_m=mean_pose,
        progress=lambda batches: shown(batches, data),
    )
    if multihost.is_first():
        output = files.locate(output)
        hidden = config.evaluation.hide_views
        about = {"split": split, "step": trained.step, "hide_views": hidden}
        tables.write_json(result, output / "metrics.json", about)
        subject = report.Subject(
            title=f"{_run(checkpoint)} on the {split} split",
            about=_about(trained, data, os.fspath(checkpoint), os.fspath(data_directory))
            | {"joints": tables.unscored_joints(result)},
            describe_clip=pipeline.build_index(data, config.evaluation.clip_frames).describe,
            frame_s=data.frame_s,
            curves=curves(checkpoint),
            configuration=json.dumps(trained.about.experiment, indent=1),
        )
        report.write_report(output, result, skeleton, trained.model.layout, subject)
    return result


def shown(batches: Iterable[structs.Batch], data: records.Records) -> Iterator[structs.Batch]:
    """Yields the batches of an evaluation on all of `data`, and shows a progress bar in the first process."""
    hidden = not multihost.is_first()
    with bars.bar(total=data.num_frames, desc="evaluate", unit="frame", disable=hidden) as bar:
        for batch in batches:
            yield batch
            bar.update(int(batch.frames.frame_valid.sum()))


def curves(checkpoint: str | os.PathLike) -> dict[str, log.Curve]:
    """Returns the figures of the training that made a checkpoint by name; none of a packaged model."""
    with contextlib.suppress(ValueError):
        return log.read_curves(checkpoints.run_directory(checkpoint))
    return {}


def describe(trained: checkpoints.Trained, hidden: bool) -> str:
    """Returns in words which model and checkpoint it is, and whether it is scored without images."""
    backbone = trained.model.backbone
    encoder = "" if backbone is None else f" with the encoder {backbone.name}"
    millions = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])) / 1e6
    without = ", scored without images" if hidden else ""
    kind = f"{trained.kind} checkpoint, step {trained.step}"
    return f"{trained.model.config.kind}{encoder}, {millions:.2f} million parameters; {kind}{without}"


def describe_data(data: records.Records) -> str:
    """Returns in words which records they are, and how many."""
    H, W = data.image_size_hw
    sequences = len({entry.sequence for entry in data.entries})
    return (
        f"{data.directory}: {sequences:,} sequences, {data.num_frames:,} frames of {data.num_views} views of {W}x{H}, "
        f"{1 / data.frame_s:.4g} frames a second"
    )


def now() -> str:
    """Returns the time and the version of this package, for reports."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, epfv2_jax {epfv2_jax.__version__}"


def _about(trained: checkpoints.Trained, data: records.Records, checkpoint: str, directory: str) -> dict[str, str]:
    """Returns what the report says of the run, by name."""
    hidden = config_lib.parse(trained.about.experiment).evaluation.hide_views
    flags = ["--checkpoint", checkpoint, "--data", directory, "--split", data.manifest.split]
    return {
        "run": checkpoint,
        "model": describe(trained, hidden),
        "data": describe_data(data),
        "scored": now(),
        "command": f"`{shlex.join(['python', '-m', 'epfv2_jax.evaluate', *flags])}`",
    }


def _run(checkpoint: str | os.PathLike) -> str:
    """Returns the name of a run or of a packaged model."""
    path = checkpoint
    with contextlib.suppress(ValueError):
        path = checkpoints.run_directory(checkpoint)
    return os.path.basename(os.fspath(path).rstrip("/"))


def check_same(trained: checkpoints.Trained, data: records.Records, *names: str) -> None:
    """Raises unless the records are like those that a model was trained on.

    Args:
      trained: the model.
      data: the records.
      names: what must be the same: "layout", "image_size_hw".

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
