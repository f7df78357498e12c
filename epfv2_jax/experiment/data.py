"""The data of a run: made where it is absent, opened, and read as a stream of batches."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Generator, Iterator

import jax

from epfv2_jax import checkpoints, objectives, structs
from epfv2_jax.autolabel import distill
from epfv2_jax.core import checks, files, sharding
from epfv2_jax.data import labels, pipeline, records
from epfv2_jax.data.conversion import command
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.synthetic import stream, writer
from epfv2_jax.experiment.config import DatasetConfig, ExperimentConfig
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models.base import PoseModel, predicts_distribution
from epfv2_jax.training.run import Stream


def prepare_data(config: DatasetConfig) -> None:
    """Makes the data set as far as it is absent: synthesizes zips, converts them. Both resume what was begun.

    Raises:
      ValueError: the data set is absent and there is nothing to make it from, or it was made with another config; or it
        is absent in a run of several processes, which make none.
    """
    if jax.process_count() > 1:
        if not files.locate(config.directory).exists():
            raise ValueError(
                f"dataset.directory {config.directory} does not exist on process {jax.process_index()}; make it before "
                "the run starts (python -m epfv2_jax.convert, which may run on many machines too)"
            )
        return
    if files.is_remote(config.directory):
        files.check_folder(
            config.directory, "make the records on a disk (python -m epfv2_jax.convert) and copy them there"
        )
        return
    if config.synthetic is not None:
        writer.write_dataset(config.synthetic, config.source_directory)
    source = config.source_directory
    if source is None or not files.on_disk(source, "copy the zips there").exists():
        if not pathlib.Path(config.directory).exists():
            raise ValueError(
                f"dataset.directory {config.directory} does not exist, nor do zips to convert "
                f"(dataset.source_directory {source}); download the data set or correct the paths"
            )
        return
    with command.progress_bar() as progress:
        conversion.convert(source, config.directory, config.conversion, progress=progress)


def open_split(directory: str | os.PathLike, split: str) -> records.Records:
    """Returns the records of one split of the data set in `directory`.

    Raises:
      ValueError: there is no such split (the message lists those that exist), or it is not whole.
    """
    directory = files.locate(directory)
    known = sorted(path.parent.name for path in directory.glob(f"*/{records.MANIFEST_NAME}"))
    if known:
        checks.one_of(known, **{f"{directory}: split": split})
    return records.open_records(directory / split)


def open_training(config: ExperimentConfig) -> records.Records:
    """Returns the records that tell joints, views and image size of the training clips.

    They hold these clips too, unless the clips are rendered in the loop: then they are those of the validation.
    """
    rendered = config.data.source == "synthetic"
    return open_split(config.dataset.directory, config.evaluation.validation_split if rendered else config.data.split)


def training_poses(
    config: ExperimentConfig, directory: str | os.PathLike, skeleton: Skeleton
) -> Iterator[structs.Batch]:
    """Returns batches without images for the mean pose: all training clips, or some of those rendered in the loop.

    Their joints are those of the model's skeleton, by name.
    """
    if config.data.source == "records":
        training = open_split(directory, config.data.split)
        return pipeline.eval_batches(training, config.data.clip_frames, images=False, skeleton=skeleton)
    single = pipeline.DataConfig(clip_frames=1, batch_size=64, read_threads=0)
    sample = stream.unpainted_batches(config.dataset.synthetic, single, (16, 16), seed=config.seed)
    return (unpainted.batch for unpainted in itertools.islice(sample, 64))


def open_stream(
    config: ExperimentConfig,
    mesh: jax.sharding.Mesh,
    model: PoseModel,
    training: records.Records,
    start_step: int,
) -> Stream:
    """Returns the batches after `start_step`, as `config.data` says.

    Raises:
      ValueError: labels, teacher or records are absent, or do not belong together.
    """
    if config.data.pseudo is not None:
        return _mixed_stream(config, model, training, start_step)
    batches = _after_warmup(config, training, start_step)
    if config.data.source == "records":
        clips = pipeline.build_index(training, config.data.clip_frames)
        return Stream(batches=batches, label=lambda batch: batch, describe_clip=lambda i: f"near {clips.describe(i)}")
    if config.augment.view_dropout < 1:
        paint = stream.Painter(training.image_size_hw, config.dataset.synthetic.rig)
    else:
        paint = functools.partial(stream.with_black_images, image_size_hw=training.image_size_hw)
    split = sharding.BATCH_SPEC
    draw = jax.jit(jax.shard_map(paint, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False))
    return Stream(batches=batches, label=draw, describe_clip="rendered clip {}".format)


def _after_warmup(
    config: ExperimentConfig, training: records.Records, start_step: int
) -> Generator[structs.Batch | stream.Unpainted, None, None]:
    """The batches of the warm-up as far as they come after `start_step`, then the others."""
    warmup = config.data.warmup
    if warmup is not None and start_step < warmup.steps:
        short = dataclasses.replace(
            config.data, clip_frames=warmup.clip_frames, batch_size=warmup.batch_size, warmup=None
        )
        with contextlib.closing(_open_clips(config, short, training, start_step)) as batches:
            yield from itertools.islice(batches, warmup.steps - start_step)
        start_step = warmup.steps
    with contextlib.closing(_open_clips(config, config.data, training, start_step)) as batches:
        yield from batches


def _open_clips(
    config: ExperimentConfig, data: pipeline.DataConfig, training: records.Records, start_step: int
) -> Iterator[structs.Batch | stream.Unpainted]:
    reading = {**_share(), "seed": config.seed, "start_step": start_step}
    if data.source == "records":
        return pipeline.train_batches(training, data, **reading)
    return stream.unpainted_batches(config.dataset.synthetic, data, training.image_size_hw, **reading)


def _share() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def _mixed_stream(config: ExperimentConfig, model: PoseModel, training: records.Records, start_step: int) -> Stream:
    """Labelled clips, and pseudo-labelled ones in every batch."""
    reading = {**_share(), "seed": config.seed, "start_step": start_step}
    pseudo = config.data.pseudo
    clips = pipeline.build_index(training, config.data.clip_frames)
    batches = pipeline.train_batches(training, config.data, **reading)
    unlabelled = records.open_records(pseudo.directory)
    _check_same_kind(training, unlabelled)
    pseudo_clips = pipeline.build_index(unlabelled, config.data.clip_frames)
    teacher, opened = _open_teacher(config, model, unlabelled)
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
        describe_clip=lambda i: (
            f"near {clips.describe(i) if i < len(clips) else pseudo_clips.describe(i - len(clips))}"
        ),
    )


def _open_teacher(
    config: ExperimentConfig, model: PoseModel, unlabelled: records.Records
) -> tuple[distill.OnlineTeacher | None, labels.Labels | None]:
    """The teacher that labels in the step, or the labels that one has written: one of the two is None."""
    pseudo = config.data.pseudo
    teacher = opened = None
    if pseudo.teacher is not None:
        trained = checkpoints.load(pseudo.teacher)
        teacher = distill.OnlineTeacher(trained, max_sigma_m=pseudo.max_sigma_m)
        with_uncertainty = predicts_distribution(trained.model, trained.about.image_size_hw)
    else:
        opened = labels.open_labels(pseudo.labels, unlabelled)
        with_uncertainty = opened.with_uncertainty
    student = predicts_distribution(model, unlabelled.image_size_hw)
    distils = objectives.build(config.objective, model.skeleton).uses_teacher_uncertainty(student)
    if not with_uncertainty and (distils or pseudo.max_sigma_m is not None):
        raise ValueError(
            f"{pseudo.teacher or pseudo.labels}: this teacher states no uncertainty; set "
            "objective.distillation_weight = 0 and no data.pseudo.max_sigma_m, or take a teacher with model.uncertainty"
        )
    return teacher, opened


def _check_same_kind(training: records.Records, unlabelled: records.Records) -> None:
    for name in ("skeleton", "layout", "image_size_hw", "frame_s"):
        if getattr(training, name) != getattr(unlabelled, name):
            raise ValueError(
                f"{unlabelled.directory}: its {name} is not that of the training records {training.directory}; "
                "convert both alike"
            )
