"""Compares checkpoints on one split: python -m epfv2_jax.compare --runs DIR DIR ... --data DIR [--split SPLIT]

Prints the paper's metrics of all models on the same frames, the errors of joints in and out of view, parameters, FLOPs
and the time of a streamed frame, measured in turn; writes compare.json, compare.md and a page with pictures.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("compare", __doc__)
    flags.add_argument(
        "--runs", required=True, nargs="+", metavar="DIR", help="directories of runs, one for each model"
    )
    flags.add_argument("--data", required=True, help="directory of records, with a folder for each split")
    flags.add_argument("--split", help="split to score; default: the test split of the first run's recipe")
    flags.add_argument("--out", help="directory for the results; default: comparison/ in the first run's")
    return flags


def run(args: argparse.Namespace) -> None:
    """Compares, and prints the tables."""
    from epfv2_jax import checkpoints
    from epfv2_jax.core import compile_cache, files
    from epfv2_jax.evaluation import comparison
    from epfv2_jax.experiment import compare

    compile_cache.enable()
    output = files.locate(args.out or checkpoints.run_directory(args.runs[0]) / "comparison")
    found = compare.compare(compare.named(args.runs), args.data, output, args.split)
    print(comparison.as_markdown(found))
    print(f"numbers: {output / 'compare.json'}   tables: {output / 'compare.md'}   pictures: {output / 'index.html'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
