"""Writes an ONNX graph of a checkpoint: python -m epfv2_jax.export --checkpoint DIR --out FILE.onnx"""

import argparse
import pathlib

from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.data import records as records_lib

try:
    from epfv2_jax.deploy import exporter as onnx_export
except ImportError as error:
    raise SystemExit(f"error: {error}; exporting needs the extra: pip install 'epfv2_jax[export]'") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", required=True, help="directory that training wrote its checkpoints to")
    parser.add_argument("--out", required=True, help="the graph; FILE.golden.npz comes to lie beside it")
    parser.add_argument("--batch", type=int, default=1, help="streams that one call moves on")
    parser.add_argument("--precision", choices=tuple(onnx_export.TOLERANCE_M), default="fp32", help="of the encoder")
    parser.add_argument("--data", help="directory of records: golden frames, quantisation, and what precision costs")
    parser.add_argument("--split", default="validation", help="of the records")
    parser.add_argument("--frames", type=int, default=200, help="recorded frames to calibrate and measure on, at most")
    args = parser.parse_args()
    try:
        model, variables, meta = checkpoint.load_model(args.checkpoint)
        records = records_lib.open_records(pathlib.Path(args.data) / args.split) if args.data else None
        exported = onnx_export.export(
            model,
            variables,
            args.out,
            image_size_hw=tuple(meta["experiment"]["dataset"]["conversion"]["image_size_hw"]),
            batch=args.batch,
            precision=args.precision,
            records=records,
            recorded_frames=args.frames,
        )
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{exported.path}: {exported.num_nodes} nodes, {exported.num_bytes / 2**20:.1f} MiB, {args.precision}")
    print("largest differences from JAX over the golden sequence:")
    for name, value in exported.differences.items():
        print(f"  {name:32} {value:.3g}")
    if exported.mpjpe_cm is not None:
        before, after = exported.mpjpe_cm
        print(f"MPJPE on {args.data}/{args.split}: {before:.3f} cm in fp32, {after:.3f} in {args.precision}: ", end="")
        print(f"{after - before:+.3f} cm")


if __name__ == "__main__":
    main()
