"""Compiles a recipe's training step for TPUs that are not there, and tells whether it fits their memory.

  python -m epfv2_jax.dry_run --config configs/egobody3m_resnet18.py --topology v5e:16x16 --batch_per_device 4
  python -m epfv2_jax.dry_run --config configs/teacher_dinov3_vit.py --topology v5e:16x16 --label_pass

It needs the extra `tpu` and neither a TPU nor the data set. The step is the one that training compiles, on a mesh of
all devices of the topology; with --label_pass it is that of a label pass by the recipe's model, on the devices of one
host. --search N then looks for the largest batch that fits, with at most N more compilations. --quick compiles with
the least effort, to see that it can be done: what it says of memory is not that of the program that will run.

Exit codes: 0 it fits; 3 it does not; 1 an error.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from epfv2_jax import structs
from epfv2_jax.autolabel import plan, worker
from epfv2_jax.data import rig
from epfv2_jax.experiment import experiment
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.profiling import aot
from epfv2_jax.profiling import cost as accounting
from epfv2_jax.training import sharding

EXIT_DOES_NOT_FIT = 3

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/egobody3m_resnet18.py.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Generation and shape of the TPU slice, for example v5e:16x16.")
_LABEL_PASS = flags.DEFINE_bool("label_pass", False, "The step of a label pass, on one host, instead of training.")
_BATCH_PER_DEVICE = flags.DEFINE_integer(
    "batch_per_device", None, "Clips (or slots of the label pass) a device, instead of the recipe's.", lower_bound=1
)
_SEARCH = flags.DEFINE_integer("search", 0, "Compilations to spend on finding the largest batch.", lower_bound=0)
_QUICK = flags.DEFINE_bool("quick", False, "Compile with the least effort.")


def main(argv: list[str]) -> None:
    """Prints what the step costs; exits with 3 where it does not fit."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    jax.config.update("jax_platforms", "cpu")  # of this process alone; the TPUs are only described
    try:
        fits = _run(experiment.parse(_CONFIG.value.to_dict()))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if not fits:
        raise SystemExit(EXIT_DOES_NOT_FIT)


def _run(config: experiment.ExperimentConfig) -> bool:
    devices = aot.topology_devices(_TOPOLOGY.value)
    chip = accounting.chip_of(devices[0].device_kind)
    hosts = len({device.process_index for device in devices})
    print(f"{_TOPOLOGY.value}: {len(devices)} x {devices[0].device_kind} on {hosts} hosts, JAX {jax.__version__}")
    if _LABEL_PASS.value:
        devices = aot.host_devices(_TOPOLOGY.value)
        slots, unit, what = plan.PassConfig().slots, len(devices), "slots"
        print(f"label pass of {config.model.encoder} on one host of {len(devices)} devices")
        lower = functools.partial(_lower_label_step, config.model, config.dataset.conversion.image_size_hw, devices)
    else:
        mesh = sharding.make_mesh(config.mesh, devices)
        slots, unit, what = config.data.total_batch_size, config.step.accumulation * len(devices), "clips"
        print(f"training step of {config.model.encoder}; mesh: data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}")
        lower = functools.partial(_lower_train_step, config, mesh)
    if _BATCH_PER_DEVICE.value is not None:
        slots = _BATCH_PER_DEVICE.value * len(devices)
    if not _LABEL_PASS.value:
        sharding.check_batch_size(slots, config.step.accumulation, mesh)
    elif slots % unit:
        raise ValueError(f"{unit} devices do not divide {slots} slots; use --batch_per_device")

    def fits(batch: int) -> bool:
        print(f"batch {batch} {what}, {batch / len(devices):g} a device", flush=True)
        compiled = aot.compile_or_exhaust(lower(batch), _QUICK.value)
        if isinstance(compiled, str):
            print(f"  does not fit: {compiled}")
            return False
        cost = accounting.compiled_cost(compiled)
        print(_describe(cost, chip))
        return cost.peak_bytes <= chip.hbm_bytes

    found = fits(slots)
    if _SEARCH.value:
        low, high = aot.largest(lambda n: fits(n * unit), {slots // unit: found}, _SEARCH.value)
        above = f"; {high * unit} do not fit" if high is not None else ""
        print(f"largest batch found to fit: {low * unit} {what}, {low * unit / len(devices):g} a device{above}")
    return found


def _lower_train_step(config: experiment.ExperimentConfig, mesh: jax.sharding.Mesh, clips: int) -> jax.stages.Lowered:
    """The step that `experiment.train` compiles."""
    batch = abstract_batch(config, clips)
    one = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), batch.frames)
    trainable = experiment.build_trainable(config, mesh, one)
    return trainable.step_fn.lower(trainable.abstract_state, batch, jax.eval_shape(trainable.root_key))


def _lower_label_step(
    config: epfv2.ModelConfig, image_size_hw: tuple[int, int], devices: list[jax.Device], slots: int
) -> jax.stages.Lowered:
    """The step that `worker.Labeller` compiles."""
    model = epfv2.EPFv2(config)
    frames = _abstract_frames(slots, plan.PassConfig().chunk_frames, config.num_views, image_size_hw)
    variables = jax.eval_shape(model.init, jax.random.key(0), frames)
    state = jax.eval_shape(lambda: epfv2.initial_state(config, slots))
    by_slot, whole = worker.slot_shardings(devices)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_slot),
        (frames, state, jax.ShapeDtypeStruct((slots,), jnp.bool)),
    )
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), variables)
    return worker.compile_step(model).lower(variables, *placed)


def _abstract_frames(B: int, T: int, V: int, image_size_hw: tuple[int, int]) -> structs.Frames:
    """Shapes and dtypes of what the model sees in a data set like EgoBody3M."""
    one_rig = rig.upright(rig.default_rig(), image_size_hw)
    return structs.Frames(
        images=jax.ShapeDtypeStruct((B, T, V, *image_size_hw), jnp.uint8),
        rig=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((B, V, *leaf.shape[1:]), jnp.float32), one_rig),
        T_world_headset=jax.ShapeDtypeStruct((B, T, 4, 4), jnp.float32),
        view_valid=jax.ShapeDtypeStruct((B, T, V), jnp.bool),
        frame_valid=jax.ShapeDtypeStruct((B, T), jnp.bool),
        frame_gap=jax.ShapeDtypeStruct((B, T), jnp.int32),
    )


def abstract_batch(config: experiment.ExperimentConfig, clips: int) -> structs.Batch:
    """Shapes and dtypes of a training batch; with a teacher's fields where the recipe has pseudo-labelled clips."""
    B, T, J = clips, config.data.clip_frames, config.model.num_joints
    pseudo = config.data.pseudo is not None
    return structs.Batch(
        frames=_abstract_frames(B, T, config.model.num_views, config.dataset.conversion.image_size_hw),
        targets=structs.Targets(
            joints_headset_m=jax.ShapeDtypeStruct((B, T, J, 3), jnp.float32),
            joint_valid=jax.ShapeDtypeStruct((B, T, J), jnp.bool),
            pseudo=jax.ShapeDtypeStruct((B,), jnp.bool) if pseudo else None,
            cholesky_m=jax.ShapeDtypeStruct((B, T, J, 3, 3), jnp.float32) if pseudo else None,
        ),
        clip_id=jax.ShapeDtypeStruct((B,), jnp.int32),
    )


def _describe(cost: accounting.CompiledCost, chip: accounting.Chip) -> str:
    GiB = 2**30
    verdict = "fits" if cost.peak_bytes <= chip.hbm_bytes else "does not fit"
    lines = [
        f"  memory a device: arguments {cost.argument_bytes / GiB:.2f} GiB, temporaries {cost.temp_bytes / GiB:.2f}, "
        f"peak {cost.peak_bytes / GiB:.2f} of {chip.hbm_bytes / GiB:.2f}: {verdict}",
        f"  FLOPs a step and device: {cost.flops:.3g}, {1e3 * cost.flops / chip.peak_bf16_flops:.1f} ms at the peak",
    ]
    lines += [f"  {kind}: {c.count} a step, {c.bytes / 1e6:.1f} MB" for kind, c in cost.collectives.items()]
    return "\n".join(lines if cost.collectives else [*lines, "  no collectives"])


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main)
