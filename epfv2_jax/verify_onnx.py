"""Replays the golden sequence of an exported graph, without JAX: python -m epfv2_jax.verify_onnx FILE.onnx"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("verify_onnx", __doc__)
    flags.add_argument("graph", help="a file that epfv2_jax.export wrote, its .golden.npz beside it")
    return flags


def run(args: argparse.Namespace) -> int:
    """Replays, and prints how far each output is from the golden one, latency and memory."""
    from epfv2_jax.deploy import golden as golden_lib
    from epfv2_jax.deploy import session, verify

    session.check_file(args.graph)
    golden = golden_lib.read(golden_lib.path_of(args.graph), args.graph)
    report = verify.verify(args.graph, golden)
    for name, found in report.differences.items():
        print(f"{name:32} differs by {found:.3g}, allowed {float(golden['tolerance'][name]):.3g}")
    for threads, (p50, p99) in report.latency_ms.items():
        print(f"{threads} thread{'s' if threads > 1 else ' '}  p50 {p50:.2f} ms  p99 {p99:.2f} ms")
    print(f"peak memory of this process {report.peak_memory_mib:.0f} MiB")
    print(f"FAILED: {'; '.join(report.beyond)}" if report.beyond else "ok")
    return exits.ERROR if report.beyond else exits.DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
