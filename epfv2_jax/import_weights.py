"""Imports an encoder's weights: python -m epfv2_jax.import_weights --encoder NAME --file F.safetensors --out DIR

No weights come with this package. Fetch a file yourself, from timm, torchvision, Hugging Face or a model's authors, and
mind its licence: DINOv3's is a custom one, and its files are given out on request only.
"""

import argparse
import collections
import pathlib
import sys
from collections.abc import Sequence

from epfv2_jax.core import checks, cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("import_weights", __doc__)
    flags.add_argument("--encoder", required=True, help="name of the encoder, such as resnet18 or dinov3_vitb16")
    flags.add_argument("--file", required=True, help="safetensors file in float32")
    flags.add_argument("--out", required=True, help="new directory for the encoder's weights")
    return flags


def run(args: argparse.Namespace) -> None:
    """Imports, and prints what was used and what was ignored."""
    import jax

    from epfv2_jax import checkpoints
    from epfv2_jax.core import files
    from epfv2_jax.models.encoders import weights

    with exits.usage():
        checks.one_of(weights.encoder_names(), encoder=args.encoder)
    imported = weights.convert(weights.read(args.file), args.encoder)
    told = weights.confirm(args.file, args.encoder)
    meta = {"file": pathlib.Path(args.file).name, "sha256": files.sha256(args.file), "layout": imported.layout}
    checkpoints.save_encoder(args.out, args.encoder, imported.variables, meta)
    print(told)
    print(f"layout: {imported.layout}; tensors used: {imported.used}; ignored: {len(imported.ignored)}")
    for reason, number in collections.Counter(imported.ignored.values()).items():
        print(f"  ignored {number}: {reason}")
    print(f"parameters: {sum(leaf.size for leaf in jax.tree.leaves(imported.variables['params']))}")
    print(f'to use them, in a recipe: config.encoder_weights = "{args.out}"')


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
