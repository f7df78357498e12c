"""Predicts the motion of recordings: python -m epfv2_jax.predict --checkpoint DIR --data DIR --out DIR

The data are records (the folder of a split, or that of several), or raw data in the format of --reader, converted on
the way. Writes OUT/SPLIT/SEQUENCE.npz, or .parquet, and with --bvh a figure for Blender. Kill it when you like and run
it again: sequences that have their files are not done again. Exit codes: 0 done; 1 an error; 2 wrong usage; 3 done, and
some sequences are left out.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits
from epfv2_jax.data.conversion.config import ConversionConfig


def parser() -> cli.Parser:
    """Returns the command's flags."""
    default, flags = ConversionConfig(), cli.parser("predict", __doc__)
    flags.add_argument("--checkpoint", required=True, help=cli.CHECKPOINT)
    flags.add_argument("--data", required=True, help="records, or raw data")
    flags.add_argument("--out", required=True, help="folder for the files; unfinished predictions are continued")
    flags.add_argument("--format", choices=("npz", "parquet"), default="npz", help="parquet needs the extra 'parquet'")
    flags.add_argument("--bvh", action="store_true", help="also write a BVH file: unit cm, so import at scale 0.01")
    flags.add_argument("--split", help="only this split")
    flags.add_argument("--sequence", action="append", default=[], help="only this sequence; may be repeated")
    flags.add_argument("--reader", default=default.reader, help="of the format of raw data")
    poor = {"choices": ("quarantine", "keep"), "default": default.doubtful}
    flags.add_argument("--doubtful", **poor, help="raw sequences whose cameras cannot be right")
    return flags


def run(args: argparse.Namespace) -> int:
    """Predicts, and prints what became of the sequences."""
    from epfv2_jax.core import compile_cache
    from epfv2_jax.experiment import predict

    compile_cache.enable()
    options = predict.Options(
        sequences=tuple(args.sequence), **{k: v for k, v in vars(args).items() if k != "sequence"}
    )
    outcomes = predict.predict(options)
    left_out = sum(outcome.error is not None for outcome in outcomes)
    print(f"{args.out}: {len(outcomes) - left_out} sequences written, {left_out} left out; those that were here stay")
    return exits.PARTIAL if left_out else exits.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
