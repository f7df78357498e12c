"""Streams a sequence and writes a video of it: python -m epfv2_jax.demo --checkpoint runs/NAME --sequence ZIP_OR_DIR"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("demo", __doc__)
    flags.add_argument("--checkpoint", help=f"{cli.CHECKPOINT}; not read with --onnx")
    sequence = "a recording (docs/own_data.md), the zip of a released sequence, or records: a shard or its folder"
    flags.add_argument("--sequence", required=True, help=sequence)
    flags.add_argument("--onnx", help="graph that epfv2_jax.export wrote: the poses come from ONNX Runtime instead")
    flags.add_argument("--out", help=".mp4 or .gif; default: the sequence's name, .mp4 with the extra 'video'")
    flags.add_argument("--frames", type=int, default=300, help="at most; 0: the whole sequence")
    flags.add_argument("--frame_rate", type=float, help="of the video, frames a second; default: that of the sequence")
    flags.add_argument("--rerun", metavar="FILE.rrd", help="also write a recording for the Rerun viewer (extra 'viz')")
    return flags


def run(args: argparse.Namespace) -> None:
    """Writes the video, and prints the error and the latency."""
    if args.checkpoint is None and args.onnx is None:
        raise exits.UsageError("give --checkpoint, or --onnx with a graph that was exported from one")
    from epfv2_jax.core import bars
    from epfv2_jax.viz import demo

    with exits.usage():
        names = ("sequence", "out", "frames", "frame_rate", "rerun")
        options = demo.Options(**{name: getattr(args, name) for name in names})
    if args.onnx is not None:
        from epfv2_jax.deploy import sequences, session

        poses = demo.GraphPoses(session.OnnxSession(args.onnx), sequences.calibration_of)
    else:
        from epfv2_jax.inference.predictor import Predictor

        poses = demo.ModelPoses(Predictor.from_checkpoint(args.checkpoint))
    summary = demo.run(poses, options, lambda items, desc, total: bars.bar(items, desc, total, unit="frame"))
    print(summary)
    if args.out is None and summary.path.suffix == ".gif":
        print("For MP4 install the extra 'video': pip install 'epfv2_jax[video]'")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
