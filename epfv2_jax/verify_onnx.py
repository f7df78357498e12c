"""Replays the golden sequence of an exported graph, without JAX: python -m epfv2_jax.verify_onnx FILE.onnx"""

import argparse
import sys

from epfv2_jax.deploy import golden as onnx_golden
from epfv2_jax.deploy import session as onnx_session
from epfv2_jax.deploy import verify as onnx_verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("graph", help="a file that epfv2_jax.export wrote, its .golden.npz beside it")
    args = parser.parse_args()
    try:
        onnx_session.check_file(args.graph)
        golden = onnx_golden.read(onnx_golden.path_of(args.graph), args.graph)
        report = onnx_verify.verify(args.graph, golden)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    for name, found in report.differences.items():
        print(f"{name:32} differs by {found:.3g}, allowed {float(golden['tolerance'][name]):.3g}")
    for threads, (p50, p99) in report.latency_ms.items():
        print(f"{threads} thread{'s' if threads > 1 else ' '}  p50 {p50:.2f} ms  p99 {p99:.2f} ms")
    print(f"peak memory of this process {report.peak_memory_mib:.0f} MiB")
    if report.beyond:
        print(f"FAILED: {'; '.join(report.beyond)}")
        sys.exit(1)
    print("ok")


if __name__ == "__main__":
    main()
