"""Fits the cameras of every sequence and prints how well: python -m epfv2_jax.calibrate --in DIR"""

import argparse

from epfv2_jax.data import conversion
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.readers import egobody3m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--in", dest="source", required=True, help="folder with train, validation and test")
    args = parser.parse_args()
    try:
        sequences = egobody3m.find_sequences(args.source)
    except ValueError as error:
        parser.error(str(error))
    for files in sequences:
        print(f"{files.split}/{files.sequence}")
        try:
            with egobody3m.SequenceReader(files, with_images=files.images.is_file()) as reader:
                print(calibration.report(conversion.calibrate(reader)))
        except ValueError as error:
            print(f"not calibrated: {error}")


if __name__ == "__main__":
    main()
