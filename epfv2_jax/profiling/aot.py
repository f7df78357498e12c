"""Compiles programs ahead of time, for TPUs that are not attached, and finds the largest batch that fits in memory."""

import os
import re
from collections.abc import Callable

import jax

from epfv2_jax.core import checks

#: Keeps libtpu from querying the metadata server, from locking out other processes, and from writing logs.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
# Lowest compiler effort: several times faster, but the program is not the one that trains.
_QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
# For older generations libtpu lists cores, from which JAX makes no mesh.
_TOPOLOGY = re.compile(r"(v5e|v5p|v6e):\d+x\d+(x\d+)?")


def topology_devices(name: str) -> list[jax.Device]:
    """Returns the devices of a TPU topology such as v5e:16x16: enough to compile for, not to run on.

    Raises:
      ValueError: there is no such topology, or libtpu is not installed.
    """
    if not _TOPOLOGY.fullmatch(name):
        raise ValueError(
            f"topology {name!r}: give a generation (v5e, v5p or v6e) and a shape, such as v5e:16x16 or v5p:2x2x2"
        )
    checks.extra_installed("libtpu", "tpu", "compiling for TPUs")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology {name!r}: {error}; give one that exists, such as v5e:16x16") from error


def host_devices(name: str) -> list[jax.Device]:
    """Returns the four devices of one host of a topology, as a slice of their own for a process without other hosts."""
    return topology_devices(f"{name.split(':')[0]}:2x2")


def compile_or_exhaust(lowered: jax.stages.Lowered, quick: bool = False) -> jax.stages.Compiled | str:
    """Returns the compiled program, or the compiler's message if it needs more memory than the devices have.

    Args:
      lowered: the program.
      quick: compile with the lowest effort, to check that it compiles; the memory is then not that of a real run.
    """
    try:
        return lowered.compile(compiler_options=_QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()[0]


def largest(fits: Callable[[int], bool], known: dict[int, bool], tries: int) -> tuple[int, int | None]:
    """Returns (the largest number found to fit, the smallest found not to), by doubling and then bisection.

    The first is 0 if nothing tried fits, the second None if everything does.

    Args:
      fits: tries a positive number; if a number fits, so must every smaller one.
      known: numbers that were tried, and whether they fit; not empty.
      tries: largest number of calls of `fits`; with enough calls the two numbers are neighbours.
    """
    low = max((n for n, fit in known.items() if fit), default=0)
    high = min((n for n, fit in known.items() if not fit), default=None)
    for _ in range(tries):
        if high is not None and high - low == 1:
            break
        middle = 2 * low if high is None else (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low, high
