"""Scores a checkpoint: python -m epfv2_jax.evaluate --checkpoint runs/NAME --data DIR [--split SPLIT] [--out DIR]

Prints the paper's metrics beside those of the mean pose, of the same checkpoint without any image, and with each view
alone; writes metrics.json and a report with pictures (docs/reports.md).
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("evaluate", __doc__)
    flags.add_argument("--checkpoint", required=True, help=cli.CHECKPOINT)
    flags.add_argument("--data", required=True, help="directory of records, with a folder for each split")
    flags.add_argument("--split", help="split to score; default: the recipe's test split")
    flags.add_argument("--out", help="directory for metrics.json and the report; default: evaluation/ in the run's")
    return flags


def run(args: argparse.Namespace) -> None:
    """Scores, and prints the table."""
    from epfv2_jax import checkpoints
    from epfv2_jax.core import compile_cache, files
    from epfv2_jax.experiment import score, summary

    compile_cache.enable()
    output = files.locate(args.out or checkpoints.run_directory(args.checkpoint) / "evaluation")
    result = score.evaluate(args.checkpoint, args.data, output, split=args.split)
    print(summary.of_evaluation(result, output))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
