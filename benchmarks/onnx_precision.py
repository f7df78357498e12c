"""Measures size, latency and MPJPE of exported steps in fp32, fp16 and int8, in turn on one thread of ONNX Runtime.

Command:  python benchmarks/onnx_precision.py [--size 256] [--repeats 100] [--encoders NAME ...]
              [--checkpoint DIR --data RECORDS]

Prints a Markdown table: each encoder with random weights at four views, in each precision, and with a checkpoint that
model too, quantised on the frames of RECORDS/validation, with its MPJPE on those of RECORDS/test. The graphs of one
model are called in turn, so that other load on the machine slows all of them alike; a ratio is the median of the ratios
of neighbouring calls.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import pathlib
import tempfile
from collections.abc import Iterable

import numpy as np
import onnx
from onnx_latency import VIEWS, export_step, interleaved_ms, print_ratio, session

from epfv2_jax import checkpoints
from epfv2_jax.deploy import exporter, gates, precision, publish, rules, sequences
from epfv2_jax.deploy.graph import Graph
from epfv2_jax.deploy.sequences import FrameSequence
from epfv2_jax.deploy.session import OnnxSession
from epfv2_jax.experiment import data
from epfv2_jax.models.epfv2.model import EPFv2Config

ENCODERS = ("resnet18", "mobilenetv4_conv_small")
#: Largest ratio wanted of the int8 step's time to that of the fp32 step.
INT8_LIMITS = {"mobilenetv4_conv_small": 0.5}
RECORDED_FRAMES = 200  # of each split, at most
SEQUENCE_FRAMES = 25  # of one recorded sequence, at most


def write_precisions(full: pathlib.Path, calibration: Iterable[FrameSequence]) -> dict[str, pathlib.Path]:
    """Writes the graph at `full` in fp16 and int8 beside it; returns the three paths by precision."""
    source = onnx.load(full)
    graph = Graph(source)
    rules.simplify(graph)  # infers the types
    converted = {
        "fp16": precision.to_half(graph),
        "int8": precision.quantize(graph, OnnxSession(full).state, calibration),
    }
    paths = {"fp32": full}
    for kind, model in converted.items():
        gates.check(model)
        model.metadata_props.extend(source.metadata_props)
        paths[kind] = full.with_suffix(f".{kind}.onnx")
        onnx.save(model, paths[kind])
    return paths


def print_rows(name: str, paths: dict[str, pathlib.Path], repeats: int, mpjpe_cm: dict[str, float]) -> np.ndarray:
    """Prints a line of the table for each precision, `mpjpe_cm` may be empty; returns ratios of int8 to fp32."""
    times = interleaved_ms([session(path) for path in paths.values()], repeats)
    for n, (kind, path) in enumerate(paths.items()):
        ratio = np.median(times[:, n] / times[:, 0])
        cells = [name, kind, f"{path.stat().st_size / 2**20:.1f}", f"{np.median(times[:, n]):.2f}", f"{ratio:.2f}"]
        cm = mpjpe_cm.get(kind)
        cells += ["", ""] if cm is None else [f"{cm:.3f}", f"{cm - mpjpe_cm['fp32']:+.3f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return times[:, list(paths).index("int8")] / times[:, 0]


def recorded(directory: str, split: str) -> list[FrameSequence]:
    """Returns recorded sequences spread over a split."""
    records = data.open_split(directory, split)
    return list(sequences.recorded_sequences(records, 1, SEQUENCE_FRAMES, total=RECORDED_FRAMES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--checkpoint", help="a trained model")
    parser.add_argument("--data", help="directory of records for it, with the splits validation and test")
    parser.add_argument("--keep", help="folder for the graphs; those in fp32 that are there already are used")
    args = parser.parse_args()
    if bool(args.checkpoint) != bool(args.data):
        parser.error("--checkpoint and --data belong together")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        models = {}  # name -> paths by precision, MPJPE by precision
        for name in args.encoders:
            path = folder / f"{name}.step.onnx"
            if not path.exists():
                export_step(EPFv2Config(encoder=name), args.size, path)
            models[name] = write_precisions(path, [sequences.random_sequence(4, VIEWS, (args.size,) * 2, 1)]), {}
        if args.checkpoint:
            path = folder / "checkpoint.onnx"
            exporter.export(checkpoints.load(args.checkpoint), path)
            paths = write_precisions(path, recorded(args.data, "validation"))
            test = recorded(args.data, "test")
            mpjpe_cm = {kind: publish.mpjpe(OnnxSession(path), test) for kind, path in paths.items()}
            models[pathlib.Path(args.checkpoint).name] = paths, mpjpe_cm
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(
            f"batch 1, one thread, medians of {args.repeats} rounds; encoders: {VIEWS} views of {args.size}x{args.size}"
        )
        print("| model | precision | MiB | ms | of fp32 | MPJPE, cm | cost, cm |\n|---|---|---|---|---|---|---|")
        ratios = {name: print_rows(name, paths, args.repeats, cm) for name, (paths, cm) in models.items()}
        for name in INT8_LIMITS.keys() & ratios.keys():
            print_ratio(f"{name}: int8 / fp32", ratios[name], INT8_LIMITS[name])


if __name__ == "__main__":
    main()
