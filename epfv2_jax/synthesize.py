"""Makes synthetic sequences in the EgoBody3M layout: python -m epfv2_jax.synthesize --out DIR

Kill it when you like and run it again. Several processes or machines share the sequences by `--engine index` or
`--engine ray`, as for epfv2_jax.convert; "sequences_missing" are those that other processes have not made yet.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits, tasks
from epfv2_jax.data.synthetic.config import SyntheticConfig

SPLITS = ("train", "validation", "test")
_SEQUENCES = "sequences in each split; 0: none, or with motion files every part of them once"
_MOTION_FPS = "frames a second of the .amc files, which do not state it (CMU's originals: 120)"
_MOTION = "motion capture (.amc with its .asf beside it, .bvh) instead of procedural motion"


def parser() -> cli.Parser:
    """Returns the command's flags."""
    default = SyntheticConfig()
    flags = cli.parser("synthesize", __doc__)
    flags.add_argument("--out", required=True, help="folder for the zips; an unfinished data set is continued")
    numbers = tuple(getattr(default, f"{split}_sequences") for split in SPLITS)
    names = tuple(split.upper() for split in SPLITS)
    flags.add_argument("--sequences", type=int, nargs=3, metavar=names, default=numbers, help=_SEQUENCES)
    flags.add_argument("--frames", type=int, default=default.frames, help="of a sequence")
    flags.add_argument("--frame_step", type=int, default=default.frame_step, help="motion frames (30/s) an image")
    flags.add_argument("--image_width", type=int, default=default.image_width, help="of the images, px (native: 640)")
    flags.add_argument("--seed", type=int, default=default.seed, help="of people, motions and rooms")
    for split in SPLITS:
        flags.add_argument(f"--{split}_motion", nargs="+", default=(), metavar="FILE", help=_MOTION)
    flags.add_argument("--motion_fps", type=float, help=_MOTION_FPS)
    tasks.add_arguments(flags)
    return flags


def run(args: argparse.Namespace) -> None:
    """Makes the sequences, and prints figures of them."""
    from epfv2_jax.data.synthetic import writer

    with exits.usage():
        same = {name: getattr(args, name) for name in ("seed", "frames", "frame_step", "image_width", "motion_fps")}
        numbers = {f"{split}_sequences": n for split, n in zip(SPLITS, args.sequences, strict=True)}
        motion = {f"{split}_motion": tuple(getattr(args, f"{split}_motion")) for split in SPLITS}
        config, engine = SyntheticConfig(**same, **numbers, **motion), tasks.from_arguments(args)
    figures = writer.write_dataset(config, args.out, engine=engine)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
