"""Measures forward and backward pass of a training step against those of the encoder alone, on one thread.

Command:  python benchmarks/training_step.py [--frames 4] [--size 256] [--encoder resnet18] [--repeats 10] [--remat]

Both see the same images (batch 1, four views), in training mode with batch statistics. Calls alternate, so that other
load on the machine slows both alike; the ratio is the median of the ratios of neighbouring calls.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from inputs import make_batch

from epfv2_jax import objectives
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.objectives.pose import PoseObjectiveConfig
from epfv2_jax.training.step import weighted_sum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--encoder", default="resnet18", choices=sorted(ENCODERS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--remat", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    batch = make_batch(1, args.frames, args.size)
    model = EPFv2(EPFv2Config(encoder=args.encoder, remat=args.remat), EGOBODY3M, layout.EGOBODY3M)
    objective = objectives.build(PoseObjectiveConfig(), EGOBODY3M)
    encoder = ENCODERS[args.encoder](remat=args.remat)
    variables = jax.jit(model.init)(jax.random.key(0), batch.frames)
    images = jnp.asarray(batch.frames.images).reshape(-1, args.size, args.size, 1)
    encoder_variables = {name: variables[name]["encoder"] for name in ("params", "batch_stats")}

    def model_loss(params, batch):
        predictions, updated = model.apply({**variables, "params": params}, batch.frames, True, mutable=["batch_stats"])
        return weighted_sum(objective(predictions, batch, 0.5)), updated

    def encoder_loss(params, images):
        maps, updated = encoder.apply({**encoder_variables, "params": params}, images, True, mutable=["batch_stats"])
        return jnp.square(maps[-1]).mean(), updated

    model_step = jax.jit(jax.value_and_grad(model_loss, has_aux=True))
    encoder_step = jax.jit(jax.value_and_grad(encoder_loss, has_aux=True))
    batch = jax.device_put(batch)
    times = np.zeros((args.repeats, 2))
    for i in range(-1, args.repeats):
        for n, call in enumerate(
            (
                lambda: model_step(variables["params"], batch),
                lambda: encoder_step(encoder_variables["params"], images),
            )
        ):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i >= 0:
                times[i, n] = time.perf_counter() - start
    step_ms, encoder_ms = np.median(times, axis=0) * 1e3
    print(f"{args.encoder}, {args.frames} frames x 4 views of {args.size}x{args.size}, one thread")
    print(f"whole model {step_ms:.0f} ms, encoder alone {encoder_ms:.0f} ms")
    print(f"ratio {np.median(times[:, 0] / times[:, 1]):.3f}")


if __name__ == "__main__":
    main()
