"""Packages a checkpoint for sharing: python -m epfv2_jax.package --checkpoint runs/NAME --out FOLDER [--licence TEXT]

Writes the weights as safetensors, their configuration, and a model card with the scores of the run's evaluation. All
commands take the folder as --checkpoint, and it can be uploaded to the Hugging Face Hub as it is: docs/sharing.md.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("package", __doc__)
    flags.add_argument("--checkpoint", required=True, help=cli.CHECKPOINT)
    flags.add_argument("--out", required=True, help="new folder")
    flags.add_argument("--licence", metavar="TEXT", help="of the weights; mind those of data and pretrained encoders")
    flags.add_argument("--data", metavar="TEXT", help="what the model was trained on")
    return flags


def run(args: argparse.Namespace) -> None:
    """Packages, and prints what was written."""
    from epfv2_jax.experiment import share

    print(share.package(args.checkpoint, args.out, args.licence, args.data))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
