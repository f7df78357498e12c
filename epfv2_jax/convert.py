"""Converts raw data, such as the EgoBody3M zips, to records: python -m epfv2_jax.convert --source DIR --out DIR

Kill it when you like and run it again. `--engine index` shares the sequences out to several processes, on one machine
  for i in 0 1; do python -m epfv2_jax.convert --source DIR --out DIR --engine index --index $i --count 2 & done; wait
or on many, with the index of a SLURM array, or of an indexed Kubernetes Job or JobSet (--count: its completions).
`--engine ray`: one actor for each --actor of the cluster at --address. All machines must see the folders by the same
absolute paths. The manifests appear when all sequences are done; if a process was lost, run its command again.
Exit codes: 0 done; 1 an error; 2 wrong usage; 3 done, and some sequences are left out.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits, tasks
from epfv2_jax.data.conversion.config import ConversionConfig


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(level) for level in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected levels such as 0 or 0,1") from None


def parser() -> cli.Parser:
    """Returns the command's flags."""
    default, flags = ConversionConfig(), cli.parser("convert", __doc__)
    flags.add_argument("--source", required=True, help="folder of the download, with train, validation and test")
    flags.add_argument("--reader", default=default.reader, help="of the format of the source")
    flags.add_argument("--out", required=True, help="folder for the records; an unfinished conversion is continued")
    flags.add_argument("--image_size", type=int, default=default.image_size_hw[0], help="side of upright images, px")
    flags.add_argument("--levels", type=_levels, help="annotation levels to keep, such as 0 or 0,1; default: all")
    flags.add_argument("--record_frames", type=int, default=default.record_frames, help="most frames in a record")
    poor = {"choices": ("quarantine", "keep"), "default": default.doubtful}
    flags.add_argument("--doubtful", **poor, help="sequences with cameras, poses or a body that cannot be right")
    tasks.add_arguments(flags)
    return flags


def run(args: argparse.Namespace) -> int:
    """Converts, and prints the counts of each split."""
    from epfv2_jax.data.conversion import command

    with exits.usage():
        same = {name: getattr(args, name) for name in ("reader", "levels", "record_frames", "doubtful")}
        config = ConversionConfig(image_size_hw=(args.image_size, args.image_size), **same)
        engine = tasks.from_arguments(args)
    text, quarantined = command.convert(args.source, args.out, config, engine)
    print(text)
    return exits.PARTIAL if quarantined else exits.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
