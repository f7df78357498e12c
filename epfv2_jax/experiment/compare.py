"""Comparing checkpoints on one split: errors, joints in and out of view, cost, and pictures of the same frames."""

import functools
import os
import shlex
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from epfv2_jax import checkpoints, structs
from epfv2_jax.checkpoints import Trained
from epfv2_jax.core import checks, files, sharding
from epfv2_jax.data import pipeline, records
from epfv2_jax.evaluation import compare as compare_lib
from epfv2_jax.evaluation import comparison as comparison_lib
from epfv2_jax.evaluation import evaluate, tables
from epfv2_jax.evaluation.comparison import ComparedModel, Comparison, Cost
from epfv2_jax.evaluation.examples import Keep
from epfv2_jax.experiment import config as config_lib
from epfv2_jax.experiment import data as data_lib
from epfv2_jax.experiment import score
from epfv2_jax.inference import latency
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models.base import PoseModel
from epfv2_jax.profiling import cost
from epfv2_jax.viz import comparison as page
from epfv2_jax.viz import report


def compare(
    runs: Mapping[str, str | os.PathLike],
    data_directory: str | os.PathLike,
    output: str | os.PathLike,
    split: str | None = None,
) -> Comparison:
    """Returns the scores and costs of several checkpoints; writes compare.json, compare.md and index.html to `output`.

    Clips and the number of pictures are as the recipe of the first run says, for all. A model that was trained without
    images is scored without them. Shows a progress bar.

    Args:
      runs: their directories by name, such as `named` returns.
      data_directory: of the records.
      output: directory; is made.
      split: of the records; None: the test split of the first run's recipe.

    Raises:
      ValueError: a run holds no checkpoint, there is no such split, a model was trained on other views or images of
        another size, or no joint is common to all.
    """
    trained = {name: checkpoints.load(run) for name, run in runs.items()}
    configs = {name: config_lib.parse(found.about.experiment) for name, found in trained.items()}
    first = next(iter(configs.values())).evaluation
    split = split or first.test_split
    data = data_lib.open_split(data_directory, split)
    for name, found in trained.items():
        with checks.naming(name):
            score.check_same(found, data, "layout", "image_size_hw")
    hidden = {name: config.evaluation.hide_views for name, config in configs.items()}
    mesh = sharding.make_mesh(sharding.MeshConfig())
    scores = compare_lib.compare(
        {name: _contender(found, mesh, hidden[name]) for name, found in trained.items()},
        score.shown(evaluate.open_batches(data, first, mesh), data),
        data.skeleton,
        keep=Keep.of(first.pictures),
    )
    costs = _costs(trained, data, first.clip_frames)
    shared = compare_lib.shared_joints({name: found.about.skeleton for name, found in trained.items()}, data.skeleton)
    joints = np.array(data.skeleton.joint_names)
    comparison = Comparison(
        data=os.fspath(data_directory),
        split=split,
        device=latency.device_name(),
        joints=tuple(joints[shared].tolist()),
        joints_left_out=tuple(joints[~shared].tolist()),
        models=tuple(
            ComparedModel(
                name=name,
                run=os.fspath(run),
                note=score.describe(trained[name], hidden[name]),
                scores=scores[name],
                cost=costs[name],
            )
            for name, run in runs.items()
        ),
    )
    _write(comparison, data, first.clip_frames, files.locate(output))
    return comparison


def named(runs: Sequence[str]) -> dict[str, str]:
    """Returns runs by name: the last part of the directory, or all of it where two would have the same name.

    Raises:
      ValueError: a run is given twice.
    """
    checks.equal("--runs: number of different directories", len(set(runs)), len(runs))
    short = [checkpoints.run_directory(run).name for run in runs]
    return {name if short.count(name) == 1 else run: run for name, run in zip(short, runs, strict=True)}


def _contender(trained: Trained, mesh: jax.sharding.Mesh, hidden: bool) -> compare_lib.Contender:
    predict = evaluate.on_mesh(trained.model, trained.variables, mesh)
    none = np.zeros(trained.model.layout.num_views, bool)
    return compare_lib.Contender(
        predict=(lambda frames: predict(evaluate.show(frames, none))) if hidden else predict,
        skeleton=trained.model.skeleton,
    )


def _costs(trained: Mapping[str, Trained], data: records.Records, clip_frames: int) -> dict[str, Cost]:
    """Returns what a streamed frame of each model costs, on the first clip of the records."""
    batches = pipeline.eval_batches(data, clip_frames, batch_size=1, max_clips=1, read_threads=0)
    frames = next(iter(batches)).frames
    predictors = {name: Predictor(found.model, found.variables, data.image_size_hw) for name, found in trained.items()}
    seconds = latency.measure(predictors, frames)
    one = structs.abstract(jax.tree.map(lambda x: x[:, :1], frames.replace(rig=None)).replace(rig=frames.rig))
    return {
        name: Cost(
            parameters=sum(leaf.size for leaf in jax.tree.leaves(found.variables["params"])),
            flops=_flops(found.model, found.variables, one),
            latency_ms=tuple(float(ms) for ms in 1e3 * np.percentile(seconds[name], (25, 50, 75))),
        )
        for name, found in trained.items()
    }


def _flops(model: PoseModel, variables: dict, frames: structs.Frames) -> float:
    """Returns the FLOPs of a step of one stream on abstract frames (1, 1, ...)."""
    step = jax.jit(functools.partial(model.apply, method="step"))
    state = jax.eval_shape(lambda: model.initial_state(1))
    return cost.compiled_cost(step.lower(structs.abstract(variables), frames, state).compile()).flops


def _write(comparison: Comparison, data: records.Records, clip_frames: int, output: epath.Path) -> None:
    tables.write_strict_json(comparison_lib.to_json(comparison), output / "compare.json")
    files.write_atomic(output / "compare.md", comparison_lib.as_markdown(comparison).encode())
    directories = {model.name: model.run for model in comparison.models}
    flags = ["--runs", *directories.values(), "--data", comparison.data, "--split", comparison.split]
    validations = {name: score.curves(run).get("validation/mpjpe_cm") for name, run in directories.items()}
    subject = report.Subject(
        title=comparison_lib.title(comparison),
        about={
            **{model.name: model.note for model in comparison.models},
            "data": score.describe_data(data),
            "scored": score.now(),
            "command": f"`{shlex.join(['python', '-m', 'epfv2_jax.compare', *flags])}`",
        },
        describe_clip=pipeline.build_index(data, clip_frames).describe,
        frame_s=data.frame_s,
        curves={name: curve for name, curve in validations.items() if curve is not None},
    )
    page.write_page(output, comparison, data.skeleton, data.layout, subject)
