"""Measures what the checksums of a checkpoint cost when a model is loaded.

Command:  python benchmarks/checkpoint_loading.py [--encoder resnet18] [--repeats 15]

Loads the same checkpoint with and without comparing its files to their checksums, in turn, so that other load on the
machine slows both alike; the ratio is the median of the ratios of neighbouring loads. Files are in the page cache.
"""

import argparse
import contextlib
import pathlib
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from inputs import make_batch

from epfv2_jax import checkpoints, models
from epfv2_jax.checkpoints import storage
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.models.epfv2.model import EPFv2Config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", choices=sorted(ENCODERS))
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    config = EPFv2Config(encoder=args.encoder)
    model = models.build(config, EGOBODY3M, layout.EGOBODY3M)
    shapes = jax.eval_shape(model.init, jax.random.key(0), make_batch(1, 2, 64).frames)
    random = np.random.default_rng(0)  # values that do not compress, as trained ones
    variables = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype), shapes)
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(config)},
        skeleton=EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=(64, 64),
    )
    seconds = np.zeros((args.repeats, 2))
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(checkpoints.CheckpointWriter(folder, about)) as writer:
            writer.save_if_best(1, variables, 1.0, {})
        size_mb = sum(p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file()) / 1e6
        for i in range(-1, args.repeats):
            for n, way in enumerate((contextlib.nullcontext(), mock.patch.object(storage, "verify"))):
                with way:
                    start = time.perf_counter()
                    checkpoints.load(folder)
                    seconds[max(i, 0), n] = time.perf_counter() - start
    with_s, without_s = np.median(seconds, axis=0)
    print(f"{args.encoder}, {size_mb:.0f} MB: {1e3 * with_s:.0f} ms with checksums, {1e3 * without_s:.0f} ms without")
    print(f"ratio {np.median(seconds[:, 0] / seconds[:, 1]):.3f}")


if __name__ == "__main__":
    main()
