"""Replay of a golden sequence with latency and memory, as a device engineer wants it. Needs neither JAX nor Flax."""

import dataclasses
import os
import resource
import sys
import time

import numpy as np

from epfv2_jax.deploy import golden as onnx_golden
from epfv2_jax.deploy import session as onnx_session

_WARM_UP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a replay found."""

    differences: dict[str, float]  # largest, of each output, in its own unit
    beyond: list[str]  # what differs by more than is allowed
    latency_ms: dict[int, tuple[float, float]]  # by threads: p50 and p99 of a step
    peak_memory_mib: float  # of the whole process so far


def verify(path: str | os.PathLike, golden: onnx_golden.Golden, threads: tuple[int, ...] = (1, 2)) -> Report:
    """Returns how far the graph at `path` is from its golden sequence, and what a step costs.

    Raises:
      ValueError: the graph cannot be run, or does not take the inputs of the sequence.
    """
    latency_ms = {}
    for number in threads:
        session = onnx_session.OnnxSession(path, number)
        if number == threads[0]:
            differences = onnx_golden.replay(session, golden)
        times = []
        for frame in range(onnx_golden.num_frames(golden)):
            inputs = onnx_golden.frame_inputs(golden, frame)
            start = time.perf_counter()
            session.step(inputs)
            times.append(1e3 * (time.perf_counter() - start))
        latency_ms[number] = tuple(float(x) for x in np.percentile(times[_WARM_UP:], (50, 99)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        differences=differences,
        beyond=onnx_golden.beyond_tolerance(golden, differences),
        latency_ms=latency_ms,
        peak_memory_mib=peak / (2**20 if sys.platform == "darwin" else 2**10),
    )
