"""Replays a golden sequence and measures latency and memory. Needs neither JAX nor Flax."""

import dataclasses
import os
import resource
import sys
import time

import numpy as np

from epfv2_jax.deploy import golden as golden_lib
from epfv2_jax.deploy.session import OnnxSession

_WARM_UP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a replay."""

    differences: dict[str, float]  # largest, of each output, in the output's unit
    beyond: list[str]  # a clause for each output that differs by more than the sequence allows
    latency_ms: dict[int, tuple[float, float]]  # by number of threads: p50 and p99 of a step
    peak_memory_mib: float  # of the whole process so far


def verify(path: str | os.PathLike, golden: golden_lib.Golden, threads: tuple[int, ...] = (1, 2)) -> Report:
    """Returns how far the graph at `path` is from a golden sequence, and the latency and memory of its steps.

    Raises:
      ValueError: the graph cannot be run, or has other inputs than the sequence.
    """
    latency_ms = {}
    for number in threads:
        session = OnnxSession(path, number)
        if number == threads[0]:
            differences = golden_lib.replay(session, golden)
        times = []
        for frame in range(golden_lib.num_frames(golden)):
            inputs = golden_lib.frame_inputs(golden, frame)
            start = time.perf_counter()
            session.step(inputs)
            times.append(1e3 * (time.perf_counter() - start))
        latency_ms[number] = tuple(float(x) for x in np.percentile(times[_WARM_UP:], (50, 99)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        differences=differences,
        beyond=golden_lib.beyond_tolerance(golden, differences),
        latency_ms=latency_ms,
        peak_memory_mib=peak / (2**20 if sys.platform == "darwin" else 2**10),
    )
