"""Measures a streamed frame in the browser example: each encoder in fp32 and int8, in headless Chromium.

Command:  python benchmarks/web_latency.py [--size 256] [--rounds 3] [--encoders NAME ...]
              [--checkpoint DIR --data RECORDS]

Builds the page of examples/web (npm fetches its locked packages), opens each graph in it and plays its golden sequence
with all views, then with one hidden. Encoders have random weights and four views; a checkpoint, if given, is quantised
on its own records. Prints a Markdown table: the median over the rounds of the page's latency (itself a median over
frames), and the largest difference of a joint from JAX. ONNX Runtime Web in WASM, on one thread.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import functools
import http.server
import json
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import threading

from onnx_latency import VIEWS, export_step
from onnx_precision import ENCODERS, recorded, write_precisions

from epfv2_jax import checkpoints
from epfv2_jax.core import files
from epfv2_jax.deploy import exporter, golden, sequences
from epfv2_jax.models.epfv2.model import EPFv2Config

PAGE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "web"
PRECISIONS = ("fp32", "int8")


class Silent(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *_):
        pass


def with_golden(paths: dict[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns the graphs that are measured, each with the golden sequence of fp32 beside it."""
    expected = golden.read(golden.path_of(paths["fp32"]), paths["fp32"])
    for path in paths.values():
        golden.write(golden.path_of(path), expected, files.sha256(path))
    return {kind: paths[kind] for kind in PRECISIONS}


def build(folder: pathlib.Path) -> pathlib.Path:
    """Returns a copy of the example, built."""
    copy = folder / "web"
    shutil.copytree(PAGE, copy, ignore=shutil.ignore_patterns("node_modules", "dist", "public"))
    (copy / "public").mkdir()
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=copy, check=True, capture_output=True)
    return copy


def drive(page: pathlib.Path, graphs: dict[str, pathlib.Path], rounds: int) -> dict[str, list[dict]]:
    """Returns what the page shows of each graph, round by round."""
    cases = {name: {"files": [str(path), str(golden.path_of(path))]} for name, path in graphs.items()}
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    shown = {name: [] for name in graphs}
    handler = functools.partial(Silent, directory=page / "dist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        for n in range(rounds):
            command = ["node", "drive.mjs", chromium, address, str(page / f"profile{n}"), json.dumps(cases)]
            done = subprocess.run(command, cwd=page, check=True, capture_output=True, text=True)
            for name, result in json.loads(done.stdout).items():
                if result["state"] == "failed":
                    raise SystemExit(f"{name}: {result['message']}")
                shown[name].append(result["asRecorded"])
        server.shutdown()
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--checkpoint", help="a trained model")
    parser.add_argument("--data", help="directory of records for it, with a split validation")
    args = parser.parse_args()
    if bool(args.checkpoint) != bool(args.data):
        parser.error("--checkpoint and --data belong together")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        graphs = {}
        for name in args.encoders:
            export_step(EPFv2Config(encoder=name), args.size, folder / f"{name}.onnx")
            random = [sequences.random_sequence(4, VIEWS, (args.size,) * 2, 1)]
            graphs[name] = with_golden(write_precisions(folder / f"{name}.onnx", random))
        if args.checkpoint:
            path = folder / "checkpoint.onnx"
            exporter.export(checkpoints.load(args.checkpoint), path)
            graphs[pathlib.Path(args.checkpoint).name] = with_golden(
                write_precisions(path, recorded(args.data, "validation"))
            )
        flat = {f"{name} {kind}": path for name, paths in graphs.items() for kind, path in paths.items()}
        shown = drive(build(folder), flat, args.rounds)
        print("| model | precision | MiB | ms in the browser | largest difference from JAX, m |\n|---|---|---|---|---|")
        for name, paths in graphs.items():
            for kind, path in paths.items():
                rounds = shown[f"{name} {kind}"]
                latency = statistics.median(one["latency"]["value"] for one in rounds)
                parity = max(one["parity"]["value"] for one in rounds)
                print(f"| {name} | {kind} | {path.stat().st_size / 2**20:.1f} | {latency:.1f} | {parity:.2g} |")


if __name__ == "__main__":
    main()
