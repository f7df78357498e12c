"""Draws a page of raw data, records or labels: python -m epfv2_jax.preview DATA [--labels DIR]

Frames of some sequences of each split with the skeleton in every view and in space, the cameras of the headset, counts,
and what the checks of epfv2_jax.validate say of these sequences: look whether the skeleton lies on the body.
DATA is a folder of recordings (docs/own_data.md), of EgoBody3M zips, or of records. Exit codes: 0 done; 1 an error; 2
wrong usage; 3 done, and a check of a sequence found an error.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("preview", __doc__)
    flags.add_argument("data", metavar="DATA", help="a recording, a folder of raw data, or of records")
    flags.add_argument(
        "--labels", metavar="DIR", help="of a finished label pass over DATA, which is one split of records"
    )
    flags.add_argument("--reader", help="of the format of raw data; default: found from the files")
    flags.add_argument("--sequences", type=int, default=4, help="of each split, evenly spread over it")
    flags.add_argument("--frames", type=int, default=3, help="of each sequence, evenly spread over its first 300")
    flags.add_argument("--out", default="preview.html", metavar="FILE.html", help="the page, which stands alone")
    return flags


def run(args: argparse.Namespace) -> int:
    """Writes the page, and prints its path and the problems."""
    from epfv2_jax.viz import preview

    with exits.usage():
        options = preview.Options(**vars(args))
    written = preview.write(options)
    print("\n".join([*written.problems, f"page: {written.path}"]))
    return exits.PARTIAL if written.has_error else exits.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
