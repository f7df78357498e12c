"""Ahead of time: programs compiled for TPUs that are not there, and the largest batch that their memory holds."""

import importlib.util
import os
import re
from collections.abc import Callable

import jax

#: What keeps libtpu from asking the network where it runs, from locking out its like, and from writing logs.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
# Least effort of the compiler: several times faster, and another program than the one that trains.
_QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
# Of older generations libtpu describes the cores, of which JAX makes no mesh.
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
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("compiling for TPUs needs the extra: pip install 'epfv2_jax[tpu]'")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology {name!r}: {error}; give one that exists, such as v5e:16x16") from error


def host_devices(name: str) -> list[jax.Device]:
    """Returns the devices of one host of a topology, as they are to a process that talks to no other host: a slice.

    A host of a slice has four chips.
    """
    return topology_devices(f"{name.split(':')[0]}:2x2")


def compile_or_exhaust(lowered: jax.stages.Lowered, quick: bool = False) -> jax.stages.Compiled | str:
    """Returns the compiled program, or what the compiler says where it needs more memory than the devices have.

    Args:
      lowered: the program.
      quick: with the least effort, to see that it compiles; memory is then not that of the program that will run.
    """
    try:
        return lowered.compile(compiler_options=_QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()[0]


def largest(fits: Callable[[int], bool], known: dict[int, bool], tries: int) -> tuple[int, int | None]:
    """Returns (the largest number found to fit, the smallest found not to), by doubling and then halving the gap.

    Args:
      fits: tries a positive number; what fits does so also for every smaller one.
      known: numbers that were tried, and whether they fit; not empty.
      tries: at most so many calls of `fits`; with enough of them the two numbers are neighbours.

    The first is 0 where nothing tried fits, the second None where everything does.
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
