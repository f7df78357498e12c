"""Compiles the step of a recipe for TPUs that are not there, and measures what it needs.

Neither a TPU nor the data set is needed: joints, views and lenses are those of the recipe's records where they exist,
else of its rig or reader.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from epfv2_jax import models, structs
from epfv2_jax.autolabel import worker
from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.core import checks, files, sharding
from epfv2_jax.data import records
from epfv2_jax.data.readers import READERS
from epfv2_jax.data.synthetic import rigs
from epfv2_jax.experiment import build
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.geometry import skeleton
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models.base import PoseModel
from epfv2_jax.profiling import aot
from epfv2_jax.profiling import cost as accounting

_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compiled, and for what."""

    topology: str  # generation and shape of the slice, such as v5e:16x16
    label_pass: bool = False  # the step of a label pass, on one host, instead of training's
    batch_per_device: int | None = None  # clips, or slots of the label pass; None: the recipe's batch
    search: int = 0  # compilations to spend on finding the largest batch
    quick: bool = False  # compile with the least effort: memory is then not that of the program that will run

    def __post_init__(self):
        checks.at_least(0, search=self.search)
        checks.at_least(1, batch_per_device=1 if self.batch_per_device is None else self.batch_per_device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FrameKind:
    """What the frames of a recipe's data have in common."""

    skeleton: Skeleton
    layout: RigLayout
    camera_model: Model
    known_from: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Case:
    """A step to compile in batches of several sizes."""

    devices: list[jax.Device]
    lower: Callable[[int], jax.stages.Lowered]  # by the size of the batch
    batch: int  # the size that is asked about
    unit: int  # sizes are multiples of this
    what: str  # that the sizes count
    title: str


def dry_run(config: ExperimentConfig, settings: Settings, report: Callable[[str], None]) -> bool:
    """Returns whether the step fits the devices' memory.

    Args:
      config: of the run.
      settings: what to compile, and for which devices.
      report: called with lines to print as they are known.

    Raises:
      ValueError: there is no such topology, the extra `tpu` is missing, or the devices do not divide the batch.
    """
    devices = aot.topology_devices(settings.topology)
    chip = accounting.chip_of(devices[0].device_kind)
    hosts = len({device.process_index for device in devices})
    report(f"{settings.topology}: {len(devices)} x {devices[0].device_kind} on {hosts} hosts, JAX {jax.__version__}")
    kind = _frame_kind(config)
    report(f"{', '.join(kind.layout.view_names)}: {kind.camera_model} lenses; known from {kind.known_from}")
    case = _label_case(config, settings) if settings.label_pass else _train_case(config, settings, devices)
    report(case.title)

    def fits(batch: int) -> bool:
        report(f"batch {batch} {case.what}, {batch / len(case.devices):g} a device")
        compiled = aot.compile_or_exhaust(case.lower(batch), settings.quick)
        if isinstance(compiled, str):
            report(f"  does not fit: {compiled}")
            return False
        cost = accounting.compiled_cost(compiled)
        report(_describe(cost, chip))
        return cost.peak_bytes <= chip.hbm_bytes

    found = fits(case.batch)
    if settings.search:
        known = {case.batch // case.unit: found}
        low, high = aot.largest(lambda n: fits(n * case.unit), known, settings.search)
        above = f"; {high * case.unit} do not fit" if high is not None else ""
        largest = low * case.unit
        report(f"largest batch found to fit: {largest} {case.what}, {largest / len(case.devices):g} a device{above}")
    return found


def _train_case(config: ExperimentConfig, settings: Settings, devices: list[jax.Device]) -> _Case:
    mesh = sharding.make_mesh(config.mesh, devices)
    each = settings.batch_per_device
    clips = config.data.total_batch_size if each is None else each * len(devices)
    sharding.check_batch_size(clips, config.step.accumulation, mesh)
    return _Case(
        devices=devices,
        lower=functools.partial(lower_train_step, config, mesh),
        batch=clips,
        unit=config.step.accumulation * len(devices),
        what="clips",
        title=f"training step of {_name(config)}; mesh: data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}",
    )


def _label_case(config: ExperimentConfig, settings: Settings) -> _Case:
    devices = aot.host_devices(settings.topology)
    each = settings.batch_per_device
    slots = PassConfig().slots if each is None else each * len(devices)
    checks.multiple_of(len(devices), f"slots, which {len(devices)} devices share", slots, "use --batch_per_device")
    return _Case(
        devices=devices,
        lower=functools.partial(lower_label_step, config, devices),
        batch=slots,
        unit=len(devices),
        what="slots",
        title=f"label pass of {_name(config)} on one host of {len(devices)} devices",
    )


def lower_train_step(config: ExperimentConfig, mesh: jax.sharding.Mesh, clips: int) -> jax.stages.Lowered:
    """Returns the step that training compiles."""
    parts = trainable(config, mesh)
    return parts.step_fn.lower(parts.abstract_state, abstract_batch(config, clips), jax.eval_shape(parts.root_key))


def trainable(config: ExperimentConfig, mesh: jax.sharding.Mesh) -> build.Trainable:
    """Returns the compiled parts of a run."""
    return build.trainable_for(config, mesh, _model(config), _frames(config, 1, config.data.clip_frames))


def lower_label_step(config: ExperimentConfig, devices: list[jax.Device], slots: int) -> jax.stages.Lowered:
    """Returns the step that a label pass compiles."""
    model, frames = _model(config), _frames(config, slots, PassConfig().chunk_frames)
    variables = jax.eval_shape(model.init, jax.random.key(0), frames)
    state = jax.eval_shape(lambda: model.initial_state(slots))
    by_slot, whole = worker.slot_shardings(devices)
    restart = jax.ShapeDtypeStruct((slots,), jnp.bool)
    return worker.compile_step(model).lower(
        _placed(variables, whole), *(_placed(given, by_slot) for given in (frames, state, restart))
    )


def abstract_batch(config: ExperimentConfig, clips: int) -> structs.Batch:
    """Returns shapes and dtypes of a training batch, with a teacher's fields where the recipe has pseudo labels."""
    B, T, J = clips, config.data.clip_frames, _frame_kind(config).skeleton.num_joints
    pseudo = config.data.pseudo is not None
    return structs.Batch(
        frames=_frames(config, B, T),
        targets=structs.Targets(
            joints_headset_m=jax.ShapeDtypeStruct((B, T, J, 3), jnp.float32),
            joint_valid=jax.ShapeDtypeStruct((B, T, J), jnp.bool),
            pseudo=jax.ShapeDtypeStruct((B,), jnp.bool) if pseudo else None,
            cholesky_m=jax.ShapeDtypeStruct((B, T, J, 3, 3), jnp.float32) if pseudo else None,
        ),
        clip_id=jax.ShapeDtypeStruct((B,), jnp.int32),
        time_s=jax.ShapeDtypeStruct((B, T), jnp.float32),
    )


def _frame_kind(config: ExperimentConfig) -> _FrameKind:
    """Returns what the frames of the recipe have in common: as its records say, or else its rig or its reader.

    Raises:
      ValueError: none of these is there, or the file that says it is wrong.
    """
    dataset = config.dataset
    for split in (config.data.split, config.evaluation.validation_split):
        folder = files.locate(dataset.directory) / split
        if (folder / records.MANIFEST_NAME).is_file():
            spec = records.read_manifest(folder).spec
            return _FrameKind(
                skeleton=spec.skeleton, layout=spec.layout, camera_model=spec.camera_model, known_from=str(folder)
            )
    if dataset.synthetic is not None:
        headset, rig = rigs.open_headset(dataset.synthetic.rig), dataset.synthetic.rig
        return _FrameKind(
            skeleton=skeleton.EGOBODY3M,
            layout=headset.layout,
            camera_model=headset.rig.cameras.model,
            known_from=rig or "EgoBody3M's rig",
        )
    name = dataset.conversion.reader
    checks.one_of(READERS, **{"dataset.conversion.reader": name})
    reader = READERS[name](dataset.source_directory or dataset.directory)
    return _FrameKind(
        skeleton=reader.skeleton, layout=reader.layout, camera_model=reader.camera_model, known_from=f"reader {name}"
    )


def _name(config: ExperimentConfig) -> str:
    return getattr(config.model, "encoder", config.model.kind)


def _model(config: ExperimentConfig) -> PoseModel:
    kind = _frame_kind(config)
    return models.build(config.model, kind.skeleton, kind.layout)


def _frames(config: ExperimentConfig, B: int, T: int) -> structs.Frames:
    kind = _frame_kind(config)
    image_size_hw = config.dataset.conversion.image_size_hw
    one = structs.blank_frames(1, T, kind.layout.num_views, image_size_hw, kind.camera_model)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((B, *leaf.shape[1:]), leaf.dtype), one)


def _placed(tree, where: jax.sharding.NamedSharding):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def _describe(cost: accounting.CompiledCost, chip: accounting.Chip) -> str:
    verdict = "fits" if cost.peak_bytes <= chip.hbm_bytes else "does not fit"
    lines = [
        f"  memory a device: arguments {cost.argument_bytes / _GIB:.2f} GiB, temporaries {cost.temp_bytes / _GIB:.2f}, "
        f"peak {cost.peak_bytes / _GIB:.2f} of {chip.hbm_bytes / _GIB:.2f}: {verdict}",
        f"  FLOPs a step and device: {cost.flops:.3g}, {1e3 * cost.flops / chip.peak_bf16_flops:.1f} ms at the peak",
    ]
    lines += [f"  {kind}: {c.count} a step, {c.bytes / 1e6:.1f} MB" for kind, c in cost.collectives.items()]
    return "\n".join(lines if cost.collectives else [*lines, "  no collectives"])
