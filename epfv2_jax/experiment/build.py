"""The only factory: from the configuration of an experiment to a run.

A recipe in `configs/` fills an `ExperimentConfig`. What it names (model, encoder, objective, reader) is looked up in
the table of its room.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable

import jax
import tqdm

from epfv2_jax import checkpoints, models, objectives, structs
from epfv2_jax.core import bars, files, multihost, sharding
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import pipeline, records
from epfv2_jax.evaluation import evaluate
from epfv2_jax.experiment import data
from epfv2_jax.experiment.config import CHANGEABLE, ExperimentConfig
from epfv2_jax.models.base import PoseModel
from epfv2_jax.profiling.goodput import Goodput
from epfv2_jax.training import hooks, optim
from epfv2_jax.training import state as state_lib
from epfv2_jax.training import step as step_lib
from epfv2_jax.training.log import RunLog
from epfv2_jax.training.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainable:
    """The compiled parts of a run, made from a configuration on a mesh. Nothing has been computed yet."""

    model: PoseModel
    step_fn: jax.stages.Wrapped
    root_key: Callable[[], jax.Array]  # of the run
    initial_state: Callable[[], state_lib.TrainState]
    abstract_state: state_lib.TrainState  # shapes, dtypes and today's shardings, for restoring


def build(
    config: ExperimentConfig, mesh: jax.sharding.Mesh, started: float | None = None, profile_steps: int = 0
) -> Run:
    """Returns the run of a configuration, at its newest checkpoint where there is one. Close it: it holds files.

    In a run of several processes each calls this, and reads its own share of every batch.

    Args:
      config: of the run.
      mesh: the devices.
      started: when the process began (time.perf_counter), for the goodput; None: now.
      profile_steps: number of steps of which a trace is written, to `output_dir`/profile.

    Raises:
      ValueError: the data is not there, the batch does not divide over the devices, or the checkpoint is of another
        configuration.
    """
    started = time.perf_counter() if started is None else started
    for batch_size in config.data.batch_sizes:
        sharding.check_batch_size(batch_size, config.step.accumulation, mesh)
    training = data.open_training(config)
    validation = data.open_split(config.dataset.directory, config.evaluation.validation_split)
    trainable = build_trainable(config, mesh, training)
    output = files.locate(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    with contextlib.ExitStack() as stack:
        stop_after = stack.enter_context(multihost.preemption())
        writer = stack.enter_context(contextlib.closing(open_checkpoints(config, training)))
        resumes = writer.latest_step() is not None
        state = writer.restore(trainable.abstract_state)[0] if resumes else initial_state(config, trainable)
        if multihost.is_first():
            files.write_json(output / "config.json", config_lib.to_mapping(config))
        stream = data.open_stream(config, mesh, trainable.model, training, int(state.step))
        stack.enter_context(contextlib.closing(stream.batches))
        log, bar = _open_logs(config, int(state.step), stack)
        goodput = Goodput(output, int(state.step), started, active=multihost.is_first())
        stack.enter_context(contextlib.closing(goodput))
        profile = stack.enter_context(contextlib.closing(hooks.Profile(profile_steps, output / "profile")))
        score = functools.partial(_validate, trainable.model, validation, config.evaluation, mesh)
        return Run(
            steps=config.step.steps,
            state=state,
            step_fn=trainable.step_fn,
            key=trainable.root_key(),
            mesh=mesh,
            stream=stream,
            hooks=(
                hooks.Log(config.loop.log_every, log, bar, _learning_rate(config)),
                hooks.Evaluate(config.loop.evaluate_every, score, writer, log, bar, goodput),
                hooks.Save(config.loop.checkpoint_every, writer, goodput),
                profile,
            ),
            log=log,
            bar=bar,
            goodput=goodput,
            stop_after=stop_after,
            loop=config.loop,
            resources=stack.pop_all(),
        )


def build_trainable(config: ExperimentConfig, mesh: jax.sharding.Mesh, training: records.Records) -> Trainable:
    """Returns model, compiled step and state for the records' joints, views and image size. Computes nothing."""
    model = models.build(config.model, training.skeleton, training.layout)
    batch = pipeline.abstract_batch(training, config.data.clip_frames, 1)
    return trainable_for(config, mesh, model, batch.frames)


def trainable_for(
    config: ExperimentConfig, mesh: jax.sharding.Mesh, model: PoseModel, frames: structs.Frames
) -> Trainable:
    """Returns the compiled parts of a run for a model and abstract `frames` of one clip. Computes nothing."""
    optimizer = optim.make_optimizer(config.optimizer, config.step.steps, model.backbone)
    init_key = jax.random.split(jax.random.key(config.seed))[0]
    create = functools.partial(state_lib.create_state, init_key, model, optimizer, frames)
    shapes = jax.eval_shape(create)
    shardings = sharding.state_sharding(shapes, mesh, config.mesh)
    learner = step_lib.Learner(
        model=model,
        objective=objectives.build(config.objective, model.skeleton),
        optimizer=optimizer,
        augment=config.augment,
        config=config.step,
    )
    return Trainable(
        model=model,
        step_fn=step_lib.compile_step(mesh, shardings, learner),
        root_key=jax.jit(
            lambda: jax.random.split(jax.random.key(config.seed))[1], out_shardings=sharding.replicated(mesh)
        ),
        initial_state=jax.jit(create, out_shardings=shardings),
        abstract_state=jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings
        ),
    )


def open_checkpoints(config: ExperimentConfig, training: records.Records) -> checkpoints.CheckpointWriter:
    """Returns the checkpoints of a run that trains on these records."""
    about = checkpoints.About(
        experiment=config_lib.to_mapping(config),
        skeleton=training.skeleton,
        layout=training.layout,
        image_size_hw=training.image_size_hw,
        camera_model=training.camera_model,
    )
    return checkpoints.CheckpointWriter(config.checkpoint_dir, about, changeable=CHANGEABLE)


def initial_state(config: ExperimentConfig, trainable: Trainable) -> state_lib.TrainState:
    """Returns the state before the first step: random, or with weights of another run or of a pretrained encoder.

    Raises:
      ValueError: there are no such weights, or they are those of another model or encoder.
    """
    state = trainable.initial_state()
    if config.init_from is not None:
        trained = checkpoints.load(config.init_from)
        model = trainable.model
        same = (trained.about.skeleton, trained.about.layout) == (model.skeleton, model.layout)
        if not (same or config.init_modules):
            raise ValueError(
                f"init_from: {config.init_from} was trained on other joints or views; name in init_modules the modules "
                "that depend on neither, such as the encoder"
            )
        names = config.init_modules or tuple(state.params)
        state = state_lib.with_modules(state, trained.variables, names, f"init_from: {config.init_from}")
    if config.encoder_weights is not None:
        name, variables, _ = checkpoints.load_encoder(config.encoder_weights)
        backbone = trainable.model.backbone
        if backbone is None or name != backbone.name:
            raise ValueError(
                f"encoder_weights: {config.encoder_weights} holds {name!r}, but the model's encoder is "
                f"{backbone.name if backbone else None!r}; change model.encoder or encoder_weights"
            )
        encoder = {collection: {"encoder": tree} for collection, tree in variables.items()}
        state = state_lib.with_modules(state, encoder, ("encoder",), f"encoder_weights: {config.encoder_weights}")
    return state


def _learning_rate(config: ExperimentConfig) -> Callable[[int], jax.Array]:
    """The learning rate of an update, by the number of updates before it."""
    return optim.learning_rate_schedule(config.optimizer, config.step.steps)


def _validate(
    model: PoseModel,
    validation: records.Records,
    config: evaluate.EvaluationConfig,
    mesh: jax.sharding.Mesh,
    variables: dict,
) -> dict[str, float]:
    """The metrics of the inference variables on the validation split."""
    return evaluate.score(model, variables, validation, config, mesh=mesh, max_clips=config.validation_clips).metrics


def _open_logs(config: ExperimentConfig, start: int, stack: contextlib.ExitStack) -> tuple[RunLog, tqdm.tqdm]:
    """The log and the progress bar of a run; only the first process writes."""
    main = multihost.is_first()
    log = RunLog(config.output_dir, start, config.loop.tensorboard and main, active=main)
    options = {"desc": "train", "unit": "step", "disable": not main, "log_interval_s": math.inf}  # `Log` shows figures
    bar = bars.bar(total=config.step.steps, initial=start, **options)
    return stack.enter_context(contextlib.closing(log)), stack.enter_context(bar)
