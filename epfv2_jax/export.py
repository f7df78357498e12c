"""Writes an ONNX graph of a checkpoint: python -m epfv2_jax.export --checkpoint runs/NAME --out FILE.onnx"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("export", __doc__)
    flags.add_argument("--checkpoint", required=True, help=cli.CHECKPOINT)
    flags.add_argument("--out", required=True, help="the graph; FILE.golden.npz comes to lie beside it")
    flags.add_argument("--batch", type=int, default=1, help="streams that one call moves on")
    flags.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the encoder")
    flags.add_argument("--data", help="directory of records: golden frames, quantisation, and what precision costs")
    flags.add_argument("--split", default="validation", help="of the records")
    flags.add_argument("--frames", type=int, default=200, help="recorded frames to calibrate and measure on, at most")
    flags.add_argument(
        "--golden_frames", type=int, default=40, help="of the golden sequence, at most those of a record"
    )
    return flags


def run(args: argparse.Namespace) -> None:
    """Exports, and prints how far the graph is from JAX."""
    from epfv2_jax import checkpoints
    from epfv2_jax.deploy import exporter
    from epfv2_jax.experiment import data

    trained = checkpoints.load(args.checkpoint)
    exported = exporter.export(
        trained,
        args.out,
        batch=args.batch,
        precision=args.precision,
        records=data.open_split(args.data, args.split) if args.data else None,
        recorded_frames=args.frames,
        golden_frames=args.golden_frames,
    )
    print(f"{exported.path}: {exported.num_nodes} nodes, {exported.num_bytes / 2**20:.1f} MiB, {args.precision}")
    print("largest differences from JAX over the golden sequence:")
    for name, value in exported.differences.items():
        print(f"  {name:32} {value:.3g}")
    if exported.mpjpe_cm is not None:
        cm, found = exported.mpjpe_cm
        where = f"MPJPE on {args.data}/{args.split}"
        print(f"{where}: {cm:.3f} cm in fp32, {found:.3f} in {args.precision}: {found - cm:+.3f} cm")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
