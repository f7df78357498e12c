"""Imports released weights: python -m epfv2_jax.import_weights --encoder NAME --file F.safetensors --out DIR

Of a whole model: --model KIND --file F.safetensors [F2.safetensors ...] --out DIR

No weights come with this package. Fetch a file yourself, from timm, torchvision, Hugging Face or a model's authors, and
mind its licence: DINOv3's is a custom one, and its files are given out on request only.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("import_weights", __doc__)
    what = flags.add_mutually_exclusive_group(required=True)
    what.add_argument("--encoder", help="name of the encoder, such as resnet18 or dinov3_vitb16")
    what.add_argument("--model", help="kind of the model, such as epfv1")
    flags.add_argument("--file", nargs="+", required=True, help="safetensors files in float32; an encoder has one")
    flags.add_argument("--out", required=True, help="new directory: encoder weights, or a run with one checkpoint")
    return flags


def run(args: argparse.Namespace) -> None:
    """Imports, and prints what was used and what was ignored."""
    from epfv2_jax.experiment import imports

    if args.encoder:
        print(imports.encoder(args.encoder, args.file, args.out))
    else:
        print(imports.model(args.model, args.file, args.out))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
