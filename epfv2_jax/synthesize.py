"""Makes synthetic sequences in the EgoBody3M layout: python -m epfv2_jax.synthesize --out DIR

Kill it when you like and run it again. Several processes or machines share the sequences by `--engine index` or
`--engine ray`, as for epfv2_jax.convert; "sequences_missing" are those that other processes have not made yet.
"""

import argparse
import json

from epfv2_jax.core import tasks
from epfv2_jax.data.synthetic import writer


def main() -> None:
    default = writer.SyntheticConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", required=True, help="folder for the zips; an unfinished data set is continued")
    parser.add_argument(
        "--sequences",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        default=(default.train_sequences, default.validation_sequences, default.test_sequences),
        help="sequences in each split; 0: none, or with motion files every part of them once",
    )
    parser.add_argument("--frames", type=int, default=default.frames, help="in a sequence")
    parser.add_argument(
        "--frame_step", type=int, default=default.frame_step, help="motion frames (30 a second) an image"
    )
    parser.add_argument(
        "--image_width", type=int, default=default.image_width, help="of the images, pixels (native: 640)"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    for split in ("train", "validation", "test"):
        parser.add_argument(
            f"--{split}_motion",
            nargs="+",
            default=(),
            metavar="FILE",
            help="motion capture (.amc with its .asf beside it, .bvh) instead of procedural motion",
        )
    tasks.add_arguments(parser)
    args = parser.parse_args()
    try:
        config = writer.SyntheticConfig(
            seed=args.seed,
            train_sequences=args.sequences[0],
            validation_sequences=args.sequences[1],
            test_sequences=args.sequences[2],
            frames=args.frames,
            frame_step=args.frame_step,
            image_width=args.image_width,
            train_motion=tuple(args.train_motion),
            validation_motion=tuple(args.validation_motion),
            test_motion=tuple(args.test_motion),
        )
        figures = writer.write_dataset(config, args.out, engine=tasks.from_arguments(args))
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
