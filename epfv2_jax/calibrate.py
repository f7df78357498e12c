"""Fits the cameras of every sequence and prints how well: python -m epfv2_jax.calibrate --source DIR"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("calibrate", __doc__)
    flags.add_argument("--source", required=True, help="folder of the download, with train, validation and test")
    return flags


def run(args: argparse.Namespace) -> None:
    """Prints a report on each sequence, or why it cannot be calibrated."""
    from epfv2_jax.data.calibration import report
    from epfv2_jax.data.readers import egobody3m
    from epfv2_jax.geometry import layout

    for files in egobody3m.find_sequences(args.source):
        print(f"{files.split}/{files.sequence}")
        try:
            with egobody3m.SequenceReader(files, with_images=files.images.is_file()) as reader:
                print(report.report(egobody3m.calibrate(reader), layout.EGOBODY3M))
        except ValueError as error:
            print(f"not calibrated: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
