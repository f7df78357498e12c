"""The only factory: from an experiment's configuration to data, model, optimizer and a run.

A recipe in `configs/` fills an `ExperimentConfig`. To fork: give another encoder its line in `models/encoders`, another
loss or data set its place here.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm

from epfv2_jax import structs
from epfv2_jax.autolabel import distill
from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import multihost
from epfv2_jax.data import conversion as conversion_lib
from epfv2_jax.data import pipeline, records
from epfv2_jax.data.labels import labels
from epfv2_jax.data.synthetic import writer
from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.metrics import pose as metrics
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.objectives import pose as losses
from epfv2_jax.profiling import goodput as ledger_lib
from epfv2_jax.training import augment as augment_lib
from epfv2_jax.training import loop as loop_lib
from epfv2_jax.training import optim, sharding
from epfv2_jax.training import state as state_lib
from epfv2_jax.training import step as step_lib
from epfv2_jax.viz import report


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Where the clips come from.

    `directory` holds the converted data set. Where it is absent it is made: from the released zips in
    `source_directory`, which are themselves made first where `synthetic` is given and they are absent.
    """

    directory: str
    source_directory: str | None = None
    synthetic: writer.SyntheticConfig | None = None
    conversion: conversion_lib.ConversionConfig = conversion_lib.ConversionConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a model is scored."""

    clip_frames: int = 64  # frames streamed from an empty cache; longer than the window
    batch_size: int = 4  # clips
    validation_split: str = "validation"
    validation_clips: int = 64  # at most, in evaluations during training, spread evenly over the split; 0: all
    test_split: str = "test"
    pictures: int = 8  # worst frames drawn after the final evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run, whole. It is saved with every checkpoint."""

    output_dir: str
    seed: int = 0
    encoder_weights: str | None = None  # a directory that import_weights wrote: what the encoder starts from
    dataset: DatasetConfig
    data: pipeline.DataConfig
    augment: augment_lib.AugmentConfig = augment_lib.AugmentConfig()
    model: epfv2.ModelConfig = epfv2.ModelConfig()
    loss: losses.LossConfig = losses.LossConfig()
    optimizer: optim.OptimizerConfig = optim.OptimizerConfig()
    step: step_lib.StepConfig
    loop: loop_lib.LoopConfig = loop_lib.LoopConfig()
    mesh: sharding.MeshConfig = sharding.MeshConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


#: What may differ from the checkpoint that a run goes on from: where and how it runs, not what is learned.
CHANGEABLE = (
    *("output_dir", "dataset.directory", "dataset.source_directory", "data.pseudo.directory", "data.pseudo.labels"),
    *("data.read_threads", "data.prefetch_batches", "data.worker_processes", "data.cache_bytes"),
    *("mesh", "loop", "evaluation", "model.remat", "model.scan_layers"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainable:
    """What the training loop runs, built from a configuration on a mesh."""

    model: epfv2.EPFv2
    step_fn: jax.stages.Wrapped
    root_key: Callable[[], jax.Array]  # of the run
    initial_state: Callable[[], state_lib.TrainState]
    abstract_state: state_lib.TrainState  # shapes, dtypes and today's shardings, for restoring


def parse(mapping: Mapping[str, Any]) -> ExperimentConfig:
    """Returns the validated configuration of a recipe (nested plain mapping).

    Raises:
      ValueError: an unknown key, a wrong type or an impossible value; the message starts with the dotted key.
    """
    return config_lib.from_mapping(ExperimentConfig, mapping)


def prepare_data(config: DatasetConfig) -> None:
    """Makes the data set as far as it is absent: synthesizes zips, converts them. Both resume what was begun.

    Raises:
      ValueError: the data set is absent and there is nothing to make it from, or it was made with another config; or it
        is absent in a run of several processes, which make none.
    """
    if jax.process_count() > 1:
        if not pathlib.Path(config.directory).exists():
            raise ValueError(
                f"dataset.directory {config.directory} does not exist on process {jax.process_index()}; make it before "
                "the run starts (python -m epfv2_jax.convert, which may run on many machines too)"
            )
        return
    if config.synthetic is not None:
        writer.write_dataset(config.synthetic, config.source_directory)
    if config.source_directory is None or not pathlib.Path(config.source_directory).exists():
        if not pathlib.Path(config.directory).exists():
            raise ValueError(
                f"dataset.directory {config.directory} does not exist, nor do zips to convert "
                f"(dataset.source_directory {config.source_directory}); download the data set or correct the paths"
            )
        return
    with tqdm.tqdm(desc="convert", unit="sequence") as bar:

        def progress(done: int, total: int, report: conversion_lib.SequenceReport) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if report.quarantined is not None:
                bar.write(f"{report.split}/{report.sequence} left out: {report.quarantined}")

        conversion_lib.convert(config.source_directory, config.directory, config.conversion, progress=progress)


def open_split(config: DatasetConfig, split: str) -> records.Records:
    """Returns the records of one split of the data set."""
    return records.open_records(pathlib.Path(config.directory) / split)


def build_trainable(config: ExperimentConfig, mesh: jax.sharding.Mesh, frames: structs.Frames) -> Trainable:
    """Returns model, compiled step and state on `mesh`; `frames` of one batch give the shapes. Runs nothing."""
    model = epfv2.EPFv2(config.model)
    optimizer = optim.make_optimizer(
        config.optimizer,
        config.step.steps,
        encoder_layers=ENCODERS[config.model.encoder]().layers,
        freeze_encoder=config.model.encoder_train == "none",
    )
    init_key = jax.random.split(jax.random.key(config.seed))[0]
    one = jax.tree.map(lambda leaf: leaf[:1], frames)
    create = functools.partial(state_lib.create_state, init_key, model, optimizer, one)
    shapes = jax.eval_shape(create)
    shardings = sharding.state_sharding(shapes, mesh, config.mesh)
    return Trainable(
        model=model,
        step_fn=step_lib.compile_step(
            mesh,
            shardings,
            model=model,
            optimizer=optimizer,
            config=config.step,
            loss_config=config.loss,
            augment_config=config.augment,
        ),
        root_key=jax.jit(
            lambda: jax.random.split(jax.random.key(config.seed))[1], out_shardings=sharding.replicated(mesh)
        ),
        initial_state=jax.jit(create, out_shardings=shardings),
        abstract_state=jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
        ),
    )


def initial_state(config: ExperimentConfig, trainable: Trainable) -> state_lib.TrainState:
    """Returns the state that a run starts from, with imported encoder weights where the configuration names some.

    Raises:
      ValueError: the weights are those of another encoder.
    """
    state = trainable.initial_state()
    if config.encoder_weights is None:
        return state
    name, variables, _ = checkpoint.load_encoder(config.encoder_weights)
    if name != config.model.encoder:
        raise ValueError(
            f"encoder_weights: {config.encoder_weights} holds {name!r}, but model.encoder is {config.model.encoder!r}; "
            "change one of them"
        )
    return state_lib.with_encoder(state, variables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """The batches of a training run."""

    batches: Generator[structs.Batch, None, None]  # numpy, this process's share
    label: Callable[[structs.Batch], structs.Batch]  # on the devices, before the step: a teacher where there is one
    describe_clip: Callable[[int], str]


def open_stream(config: ExperimentConfig, training: records.Records, start_step: int) -> Stream:
    """Returns the batches from `start_step` on: of labelled clips and, if the recipe says so, of pseudo-labelled ones.

    Raises:
      ValueError: labels, teacher or records are absent, or do not belong together.
    """
    reading = {
        "seed": config.seed,
        "start_step": start_step,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    clips = pipeline.build_index(training, config.data.clip_frames)
    batches = pipeline.train_batches(training, config.data, **reading)
    pseudo = config.data.pseudo
    if pseudo is None:
        return Stream(batches=batches, label=lambda batch: batch, describe_clip=clips.describe)

    unlabelled = records.open_records(pseudo.directory)
    pseudo_clips = pipeline.build_index(unlabelled, config.data.clip_frames)
    teacher = opened = None
    if pseudo.teacher is not None:
        teacher = distill.OnlineTeacher(*checkpoint.load_model(pseudo.teacher)[:2], max_sigma_m=pseudo.max_sigma_m)
        with_uncertainty = teacher.model.config.uncertainty
    else:
        opened = labels.open_labels(pseudo.labels, unlabelled)
        with_uncertainty = opened.with_uncertainty
    distils = config.model.uncertainty and config.loss.distillation_weight > 0
    if not with_uncertainty and (distils or pseudo.max_sigma_m is not None):
        raise ValueError(
            f"{pseudo.teacher or pseudo.labels}: this teacher does not say how sure it is; set "
            "loss.distillation_weight = 0 and no data.pseudo.max_sigma_m, or take a teacher with model.uncertainty"
        )
    pseudo_batches = pipeline.train_batches(
        unlabelled,
        dataclasses.replace(config.data, batch_size=pseudo.batch_size),
        labels=opened,
        **reading,
    )
    return Stream(
        batches=pipeline.mixed_batches(
            batches,
            pseudo_batches,
            first_pseudo_clip_id=len(clips),
            max_sigma_m=None if teacher else pseudo.max_sigma_m,
        ),
        label=teacher or (lambda batch: batch),
        describe_clip=lambda i: clips.describe(i) if i < len(clips) else pseudo_clips.describe(i - len(clips)),
    )


def checkpoint_dir(config: ExperimentConfig) -> pathlib.Path:
    """Returns where a run keeps its checkpoints."""
    return pathlib.Path(config.output_dir) / "checkpoints"


def train(config: ExperimentConfig, started: float | None = None, profile_steps: int = 0) -> None:
    """Trains to the last step, from the newest checkpoint where there is one; logs, evaluates and saves on the way.

    In a run of several processes each calls this, and reads its own share of every batch.

    Args:
      config: of the run.
      started: when the process began (time.perf_counter), for the ledger; None: now.
      profile_steps: number of steps of which a trace is written, to `output_dir`/profile.

    Raises:
      ValueError: the data is not there, the batch does not divide over the devices, or the checkpoint is of another
        configuration.
      NonFiniteError: too many steps in a row were not finite.
      Preempted: SIGTERM came to one of the processes; the state is saved.
    """
    started = time.perf_counter() if started is None else started
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch_size(config.data.total_batch_size, config.step.accumulation, mesh)
    output = pathlib.Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    resolved = config_lib.to_mapping(config)
    training, validation = (
        open_split(config.dataset, s) for s in (config.data.split, config.evaluation.validation_split)
    )
    example = next(pipeline.eval_batches(training, config.data.clip_frames, batch_size=1))
    trainable = build_trainable(config, mesh, example.frames)

    with contextlib.ExitStack() as stack:
        stop_after = stack.enter_context(multihost.preemption())
        checkpoints = stack.enter_context(
            contextlib.closing(checkpoint.CheckpointWriter(checkpoint_dir(config), resolved, changeable=CHANGEABLE))
        )
        if checkpoints.latest_step() is None:
            state = initial_state(config, trainable)
        else:
            state, _ = checkpoints.restore(trainable.abstract_state)
        main = multihost.is_first()
        if main:
            records.write_json(output / "config.json", resolved)
        stream = open_stream(config, training, int(state.step))
        loop_lib.run(
            state=state,
            step_fn=trainable.step_fn,
            batches=stack.enter_context(contextlib.closing(stream.batches)),
            label=stream.label,
            key=trainable.root_key(),
            mesh=mesh,
            steps=config.step.steps,
            config=config.loop,
            checkpoints=checkpoints,
            evaluate=lambda variables: (
                score(
                    trainable.model,
                    variables,
                    validation,
                    config.evaluation,
                    mesh=mesh,
                    max_clips=config.evaluation.validation_clips,
                ).metrics
            ),
            describe_clip=stream.describe_clip,
            directory=output,
            ledger=ledger_lib.Ledger(output, int(state.step), started, active=main),
            stop_after=stop_after,
            profile_steps=profile_steps,
        )


def score(
    model: epfv2.EPFv2,
    variables: Any,
    data: records.Records,
    config: EvaluationConfig,
    *,
    mesh: jax.sharding.Mesh | None = None,
    max_clips: int = 0,
    mean_pose_headset_m: np.ndarray | None = None,
    pictures: int = 0,
    degrees_of_freedom: float = 4.0,
) -> evaluation.EvaluationResult:
    """Returns the evaluation of `model` on the clips of `data` (at most `max_clips`, spread evenly; 0: all).

    The clips of a batch are spread over the devices of `mesh` (None: all there are). All processes of a run call this
    and get the same.
    """
    mesh = sharding.make_mesh(sharding.MeshConfig()) if mesh is None else mesh
    whole = sharding.replicated(mesh)
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables)):
        variables = jax.device_put(variables, whole)  # sharded ones are gathered, once
    else:
        variables = sharding.put_whole(variables, whole)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH_SPEC)
    return evaluation.evaluate(
        lambda frames: _predict(model, mesh, variables, sharding.put_whole(frames, split)),
        pipeline.eval_batches(
            data,
            config.clip_frames,
            batch_size=-(-config.batch_size // mesh.size) * mesh.size,
            max_clips=max_clips,
        ),
        mean_pose_headset_m,
        keep_worst=pictures,
        keep_typical=pictures // 2,
        degrees_of_freedom=degrees_of_freedom,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(
    model: epfv2.EPFv2, mesh: jax.sharding.Mesh, variables: Any, frames: structs.Frames
) -> structs.Predictions:
    predictions = model.apply(variables, frames, train=False)
    # Small beside the images: every process gets all of them.
    return jax.lax.with_sharding_constraint(predictions, sharding.replicated(mesh))


def evaluate(
    checkpoint_directory: str | pathlib.Path,
    data_directory: str | pathlib.Path,
    output: str | pathlib.Path,
    split: str | None = None,
) -> evaluation.EvaluationResult:
    """Returns the scores of a checkpoint on a split beside the mean-pose baseline; writes JSON, pictures and a report.

    The mean pose is taken from the training split of the same data set. In a run of several processes all call this,
    and the first writes.
    """
    model, variables, meta = checkpoint.load_model(checkpoint_directory)
    config = parse(meta["experiment"])
    dataset = dataclasses.replace(config.dataset, directory=str(data_directory))
    split = split or config.evaluation.test_split
    training = open_split(dataset, config.data.split)
    mean_pose = metrics.mean_pose(pipeline.eval_batches(training, config.data.clip_frames, images=False))
    data = open_split(dataset, split)
    result = score(
        model,
        variables,
        data,
        config.evaluation,
        mean_pose_headset_m=mean_pose,
        pictures=config.evaluation.pictures,
        degrees_of_freedom=config.loss.nll_degrees_of_freedom,
    )
    if not multihost.is_first():
        return result
    output = pathlib.Path(output)
    evaluation.write_json(result, output / "metrics.json", {"split": split, "step": meta["step"]})
    clips = pipeline.build_index(data, config.evaluation.clip_frames)
    report.write_report(
        output,
        result,
        title=f"{split} split",
        note=f"{meta['kind']} checkpoint, step {meta['step']}",
        describe_clip=clips.describe,
    )
    return result
