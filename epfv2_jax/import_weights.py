"""Imports an encoder's weights: python -m epfv2_jax.import_weights --encoder NAME --file F.safetensors --out DIR

No weights come with this package. Fetch a file yourself, from timm, torchvision, Hugging Face or a model's authors, and
mind its licence: DINOv3's is a custom one, and its files are given out on request only.
"""

import argparse
import collections
import hashlib
import pathlib

import jax

from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.models.encoders.weights import torch_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, choices=torch_weights.encoder_names())
    parser.add_argument("--file", required=True, help="safetensors file in float32")
    parser.add_argument("--out", required=True, help="new directory for the encoder's weights")
    args = parser.parse_args()
    try:
        imported = torch_weights.convert(torch_weights.read(args.file), args.encoder)
        with open(args.file, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        meta = {"file": pathlib.Path(args.file).name, "sha256": sha256, "layout": imported.layout}
        checkpoint.save_encoder(args.out, args.encoder, imported.variables, meta)
    except ValueError as error:
        parser.error(str(error))
    print(f"layout: {imported.layout}; tensors used: {imported.used}; ignored: {len(imported.ignored)}")
    for reason, number in collections.Counter(imported.ignored.values()).items():
        print(f"  ignored {number}: {reason}")
    print(f"parameters: {sum(leaf.size for leaf in jax.tree.leaves(imported.variables['params']))}")
    print(f'to use them, in a recipe: config.encoder_weights = "{args.out}"')


if __name__ == "__main__":
    main()
