"""Checks raw data or records, and names what is wrong: python -m epfv2_jax.validate DATA

DATA is a folder of recordings (docs/own_data.md), of EgoBody3M zips, or of records. Prints what each check found, and
writes a picture of each view with the skeleton over it: look at them, for no check sees a camera that is slightly off.
Exit codes: 0 no error (there may be warnings); 1 an error; 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("validate", __doc__)
    flags.add_argument("data", metavar="DATA", help="a recording, a folder of raw data, or of records")
    flags.add_argument("--reader", help="of the format of raw data; default: found from the files")
    flags.add_argument("--frames", type=int, default=300, help="most frames of a sequence that are read to the end")
    flags.add_argument("--pictures", default="validation", metavar="DIR", help="folder for the pictures")
    return flags


def run(args: argparse.Namespace) -> int:
    """Prints a table for each sequence, and writes its pictures."""
    from epfv2_jax.core import checks
    from epfv2_jax.data import validation
    from epfv2_jax.viz import validation as pictures

    with exits.usage():
        checks.at_least(1, frames=args.frames)
    wrong = []
    for validated in validation.validate(args.data, args.reader, args.frames):
        name = f"{validated.split}/{validated.sequence}"
        print(f"{name}\n{pictures.table(validated.findings)}")
        for path in pictures.draw(validated, args.pictures):
            print(f"picture: {path}")
        print()
        if validated.has_error:
            wrong.append(name)
    print(f"{len(wrong)} sequences have errors{': ' if wrong else ''}{', '.join(wrong)}")
    return exits.ERROR if wrong else exits.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
