"""Makes synthetic sequences: python -m epfv2_jax.synthesize --out DIR [--rig FILE]

Zips in EgoBody3M's layout; with another rig, recordings (docs/own_data.md). Kill it when you like and run it again.
Processes share the work by `--engine`, as for epfv2_jax.convert; others have yet to make the "sequences_missing".
"""

import argparse
import json
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, config, exits, tasks
from epfv2_jax.data.synthetic.config import SyntheticConfig

SPLITS = ("train", "validation", "test")
_RIG = "what sees the people: a headset.yaml or its folder, or a calibration file beside one (default: EgoBody3M's)"
_SEQUENCES = "sequences in each split; 0: none, or with motion files every part of them once"
_NUMBERS = {"frames": "of a sequence", "frame_step": "motion frames (30/s) an image"}
_NUMBERS |= {"image_width": "of the stored images, pixels", "seed": "of people, motions and rooms"}
_MOTION = "motion capture (.amc with its .asf beside it, .bvh) instead of procedural motion"
_LAMP = "range of the light of the headset's infrared lamps 1 m away, where a room's is about 1"


def parser() -> cli.Parser:
    """Returns the command's flags."""
    default = SyntheticConfig()
    flags = cli.parser("synthesize", __doc__)
    flags.add_argument("--out", required=True, help="folder for the sequences; an unfinished data set is continued")
    flags.add_argument("--rig", metavar="FILE", help=_RIG)
    counts = tuple(getattr(default, f"{split}_sequences") for split in SPLITS)
    flags.add_argument("--sequences", type=int, nargs=3, metavar=SPLITS, default=counts, help=_SEQUENCES)
    for name, what in _NUMBERS.items():
        flags.add_argument(f"--{name}", type=int, default=getattr(default, name), help=what)
    for split in SPLITS:
        flags.add_argument(f"--{split}_motion", nargs="+", default=(), metavar="FILE", help=_MOTION)
    flags.add_argument("--motion_fps", type=float, help="of the .amc files, which do not state it (CMU's: 120)")
    flags.add_argument("--headset_lamp", type=float, nargs=2, metavar=("LOW", "HIGH"), default=(0, 0), help=_LAMP)
    tasks.add_arguments(flags)
    return flags


def run(args: argparse.Namespace) -> None:
    """Makes the sequences, and prints figures of them."""
    from epfv2_jax.data.synthetic import writer

    with exits.usage():
        given = {f"{split}_sequences": n for split, n in zip(SPLITS, args.sequences, strict=True)} | vars(args)
        made = config.from_mapping(SyntheticConfig, {k: v for k, v in given.items() if hasattr(SyntheticConfig, k)}, "")
        engine = tasks.from_arguments(args)
    figures = writer.write_dataset(made, args.out, engine=engine)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
