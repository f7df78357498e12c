"""Measures the steps of a recipe that renders in the loop, and what compiler options and a second thread do for them.

Command:  python benchmarks/training_loop.py [--config configs/synthetic.py:cpu] [--options NAME=VALUE ...]
          [--rounds 6] [--steps 10]

Steps of the recipe's warm-up, if it has one, on people sampled before. The cases alternate, so that other load on the
machine slows all alike; medians over the rounds:

default options  the step on images rendered before, as XLA compiles it unasked
step             the same with --options, or the recipe's loop.compiler_options
rendering        of the step's images, without the step
in turn          both dispatched from one thread
beside           rendering dispatched from another thread, as training/run.py does
"""

import argparse
import dataclasses
import itertools
import time
from concurrent import futures

import jax
import numpy as np

from epfv2_jax import models, structs
from epfv2_jax.core import compiler, sharding
from epfv2_jax.data.synthetic import stream
from epfv2_jax.experiment import build, recipe
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.geometry import layout, skeleton


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/synthetic.py:cpu")
    parser.add_argument("--options", nargs="*", metavar="NAME=VALUE", help="of XLA; default: the recipe's")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    config = recipe.load(ExperimentConfig, args.config)
    size, first = config.dataset.conversion.image_size_hw, config.data.warmup or config.data
    data = dataclasses.replace(
        config.data, clip_frames=first.clip_frames, batch_size=first.batch_size, warmup=None, read_threads=0
    )
    sampled = itertools.islice(stream.unpainted_batches(config.dataset.synthetic, data, size), args.steps)
    unpainted = jax.device_put(list(sampled))
    paint = jax.jit(stream.Painter(size, config.dataset.synthetic.rig))
    mesh = sharding.make_mesh(config.mesh)
    painted = [sharding.put_batch(paint(batch), mesh) for batch in unpainted]
    model = models.build(config.model, skeleton.EGOBODY3M, layout.EGOBODY3M)
    parts = build.trainable_for(config, mesh, model, structs.abstract(painted[0].frames))
    state, key = parts.initial_state(), parts.root_key()
    lowered = parts.step_fn.lower(state, painted[0], key)
    options = config.loop.compiler_options if args.options is None else args.options
    unasked, step = lowered.compile(), compiler.compile_step(lowered, options)
    beside = futures.ThreadPoolExecutor(1)

    def train(compiled, batches) -> None:
        nonlocal state
        batch = next(batches, None)
        while batch is not None:
            state, metrics = compiled(state, batch, key)
            batch = next(batches, None)  # while the step runs
            jax.block_until_ready(metrics)

    cases = {
        "default options": lambda: train(unasked, iter(painted)),
        "step": lambda: train(step, iter(painted)),
        "rendering": lambda: jax.block_until_ready([paint(batch) for batch in unpainted]),
        "in turn": lambda: train(step, map(paint, unpainted)),
        "beside": lambda: train(step, (beside.submit(paint, batch).result() for batch in unpainted)),
    }
    times = {name: np.zeros(args.rounds) for name in cases}
    for i in range(-1, args.rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if i >= 0:
                times[name][i] = (time.perf_counter() - start) / args.steps
    frames = data.batch_size * data.clip_frames
    mirrored = ", and their mirror images" if config.augment.mirror_pairs else ""
    print(f"{args.config}, {frames} frames a step{mirrored}")
    for name, seconds in times.items():
        print(f"{name:16} {1e3 * np.median(seconds):6.1f} ms, {frames / np.median(seconds):5.0f} frames/s")
    print(f"step / default options: {np.median(times['step'] / times['default options']):.2f}")
    print(f"beside / in turn:       {np.median(times['beside'] / times['in turn']):.2f}")


if __name__ == "__main__":
    main()
