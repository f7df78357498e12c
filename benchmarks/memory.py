"""Measures what remat, layer scan, donation and bfloat16 save in the training step of the ViT-L teacher, 16 frames.

Command:  python benchmarks/memory.py [--topology v5p:4x4x2] [--rows none remat all]

Compiles the step of configs/teacher_dinov3_vit.py:l16 for TPUs on a machine without one (extra `tpu`); runs nothing.
Each row is one compilation: with none of the four, with each alone, with all, with all but one. Memory and FLOPs are
those of one device; "peak" is arguments, temporaries, the program and outputs that reuse no argument's memory; ratios
are to the first row. Seconds are CPU time of tracing and compiling. A row that the compiler refuses says why.
"""

import argparse
import dataclasses
import pathlib
import time

import jax
from jax.sharding import NamedSharding

from epfv2_jax import structs
from epfv2_jax.core import sharding
from epfv2_jax.experiment import dry_run, recipe
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.profiling import aot
from epfv2_jax.profiling import cost as accounting

RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "teacher_dinov3_vit.py"
MEASURES = ("remat", "scan", "donation", "bf16")
ROWS = {
    "none": (),
    **{measure: (measure,) for measure in MEASURES},
    "all": MEASURES,
    **{f"all but {measure}": tuple(m for m in MEASURES if m != measure) for measure in MEASURES},
}


def lower(config: ExperimentConfig, measures: tuple[str, ...], mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """Returns the step that training compiles for `config`, with these measures and no others."""
    model = dataclasses.replace(
        config.model,
        remat="remat" in measures,
        scan_layers="scan" in measures,
        dtype="bfloat16" if "bf16" in measures else "float32",
    )
    config = dataclasses.replace(config, model=model)
    batch: structs.Batch = dry_run.abstract_batch(config, config.data.total_batch_size)
    trainable = dry_run.trainable(config, mesh)
    step, state = trainable.step_fn, trainable.abstract_state
    if "donation" not in measures:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        whole = sharding.replicated(mesh)
        step = jax.jit(
            step.__wrapped__,
            in_shardings=(shardings, NamedSharding(mesh, sharding.BATCH_SPEC), whole),
            out_shardings=(shardings, whole),
        )
    return step.lower(state, batch, jax.eval_shape(trainable.root_key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5p:4x4x2")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")

    config = recipe.load(ExperimentConfig, f"{RECIPE}:l16")
    devices = aot.topology_devices(args.topology)
    mesh = sharding.make_mesh(config.mesh, devices)
    clips = config.data.total_batch_size / len(devices)
    print(f"{config.model.encoder}, {clips:g} clips of {config.data.clip_frames} frames a device, {args.topology}")
    print(f"{'':18}{'arguments':>10}{'temporaries':>12}{'peak, GiB':>10}{'ratio':>7}{'TFLOP':>8}{'ratio':>7}{'s':>6}")
    first = None
    for row in args.rows:
        start = time.process_time()
        compiled = aot.compile_or_exhaust(lower(config, ROWS[row], mesh))
        seconds = time.process_time() - start
        if isinstance(compiled, str):
            print(f"{row:18}{compiled}", flush=True)
            continue
        cost = accounting.compiled_cost(compiled)
        first = cost if first is None else first
        arguments, temporaries, peak = (n / 2**30 for n in (cost.argument_bytes, cost.temp_bytes, cost.peak_bytes))
        print(
            f"{row:18}{arguments:10.2f}{temporaries:12.2f}{peak:10.2f}{cost.peak_bytes / first.peak_bytes:7.2f}"
            f"{cost.flops / 1e12:8.2f}{cost.flops / first.flops:7.2f}{seconds:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
