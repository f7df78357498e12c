"""Converts the EgoBody3M zips to records: python -m epfv2_jax.convert --in DIR --out DIR

Kill it when you like and run it again. `--engine index` shares the sequences out to several processes, on one machine
  for i in 0 1 2 3; do python -m epfv2_jax.convert --in DIR --out DIR --engine index --index $i --count 4 & done; wait
or on many, with the index of a SLURM array, or of an indexed Kubernetes Job or JobSet (--count: its completions).
`--engine ray`: one actor for each --actor of the cluster at --address. All machines must see the folders by the same
absolute paths. The manifests appear when all sequences are done; if a process was lost, run its command again.
"""

import argparse
import json
import pathlib

import tqdm

from epfv2_jax.core import tasks
from epfv2_jax.data import conversion


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(level) for level in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected levels such as 0 or 0,1") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--in", dest="source", required=True, help="folder with train, validation and test")
    parser.add_argument("--out", required=True, help="folder for the records; an unfinished conversion is continued")
    parser.add_argument("--image_size", type=int, default=256, help="height and width of the upright images, pixels")
    parser.add_argument("--levels", type=_levels, help="annotation levels to keep, such as 0 or 0,1; default: all")
    parser.add_argument("--record_frames", type=int, default=64, help="most frames in a record")
    parser.add_argument("--poor_calibration", choices=("quarantine", "keep"), default="quarantine")
    tasks.add_arguments(parser)
    args = parser.parse_args()
    try:
        config = conversion.ConversionConfig(
            image_size_hw=(args.image_size, args.image_size),
            levels=args.levels,
            record_frames=args.record_frames,
            poor_calibration=args.poor_calibration,
        )
        with tqdm.tqdm(unit="sequence") as bar:

            def progress(done: int, total: int, report: conversion.SequenceReport) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if report.quarantined is not None:
                    bar.write(f"{report.split}/{report.sequence} left out: {report.quarantined}")

            engine = tasks.from_arguments(args)
            summary = conversion.convert(args.source, args.out, config, engine=engine, progress=progress)
    except ValueError as error:
        parser.error(str(error))
    if summary is None:
        print("This share is done. Sequences of other shares are not; the last process writes the manifests.")
        return
    print(json.dumps(summary, indent=1))
    print(f"What was left out and why: 'report' in {pathlib.Path(args.out) / '<split>' / 'manifest.json'}")


if __name__ == "__main__":
    main()
