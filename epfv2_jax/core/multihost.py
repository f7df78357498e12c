"""Connects the processes of one run and stops them together.

A run on several hosts is the same command on each. Code that needs its process index asks JAX (`jax.process_index()`);
this module holds what JAX leaves to the program.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
from jax.experimental import multihost_utils

from epfv2_jax.core import checks, exits

EXIT_PREEMPTED = exits.PREEMPTED
Preempted = exits.Preempted
# A process without a heartbeat for this long counts as lost, and the others exit: the job ends within a minute. The
# heartbeats come from a thread that neither compilation nor Python blocks.
_HEARTBEAT_TIMEOUT_S = 40
# How long a finished process waits for the others, while process 0 draws the report.
_SHUTDOWN_TIMEOUT_S = 600


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Connects this process to the others of its run; call it before any other use of JAX.

    Without arguments JAX finds the others itself, on TPU slices (also on GKE) and under SLURM. In an indexed Kubernetes
    Job or JobSet only `process_id` may be left out: it is then JOB_COMPLETION_INDEX.

    Args:
      coordinator_address: HOST:PORT of process 0; the port must be free there, and every process must reach it.
      num_processes: number of processes in the run.
      process_id: of this process, 0 ... num_processes - 1.
      environment: may hold JOB_COMPLETION_INDEX.

    Raises:
      ValueError: only some arguments are given, one is out of range, or JAX finds no cluster.
    """
    timeouts = {"heartbeat_timeout_seconds": _HEARTBEAT_TIMEOUT_S, "shutdown_timeout_seconds": _SHUTDOWN_TIMEOUT_S}
    if coordinator_address is None and num_processes is None and process_id is None:
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            raise ValueError(
                f"--distributed: no TPU slice and no SLURM job was found in the environment ({error}); give "
                "--coordinator_address, --num_processes and --process_id"
            ) from error
        return
    index = environment.get("JOB_COMPLETION_INDEX")
    if process_id is None and index is not None and index.isdigit():
        process_id = int(index)
    if coordinator_address is None or num_processes is None or process_id is None:
        raise ValueError(
            f"--coordinator_address {coordinator_address}, --num_processes {num_processes}, --process_id {process_id}: "
            "give all three (the last may be left out in an indexed Kubernetes Job), or none of them and --distributed"
        )
    checks.at_least(1, **{"--num_processes": num_processes})
    checks.within(0, num_processes - 1, **{"--process_id": process_id})
    if ":" not in coordinator_address:
        raise ValueError(f"--coordinator_address {coordinator_address}: give HOST:PORT")
    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, cluster_detection_method="deactivate", **timeouts
    )


def join(distributed: bool, *explicit: str | int | None, environment: Mapping[str, str] = os.environ) -> None:
    """Connects this process to the others where the flags say that there are some; `explicit`: as for `connect`.

    Raises:
      ValueError: as `connect`, or srun started several processes of which each would be a run of its own.
    """
    if distributed or any(value is not None for value in explicit):
        connect(*explicit, environment=environment)
        return
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        if (number := environment.get(name, "1")).isdigit() and int(number) > 1:
            raise ValueError(
                f"{name}={number} in the environment, and no --distributed: each process would train by itself, all "
                "into one directory; give --distributed, or start one process (srun --ntasks=1)"
            )


def is_first() -> bool:
    """Returns whether this is process 0, which writes whatever a run writes only once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[int], bool]]:
    """Yields a function that returns whether to stop after a step; all processes call it after each, with its number.

    SIGTERM to any process stops the run, and so does the first Ctrl-C (SIGINT); a second one ends the process at once.
    All processes get True after the same step.
    """
    stop, together = threading.Event(), jax.distributed.is_initialized()

    def interrupted(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\ninterrupted: saving after this step; again to stop without saving", file=sys.stderr, flush=True)
        if together:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX handles it, and tells the other processes
        stop.set()

    handlers = {signal.SIGINT: interrupted}
    if not together:
        handlers[signal.SIGTERM] = lambda *_: stop.set()
    # Python handles signals in the main thread only; a run in another thread ends like any other program.
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield multihost_utils.reached_preemption_sync_point if together else lambda step: stop.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ends_together() -> Iterator[None]:
    """Exits immediately if the block raises, so that the other processes notice and exit too.

    Otherwise a failed process would wait at its exit for the others, which wait for it in a collective.
    """
    try:
        yield
    except SystemExit as error:
        if jax.distributed.is_initialized() and error.code not in (None, 0, EXIT_PREEMPTED):
            _end(error.code)
        raise
    except BaseException:
        if jax.distributed.is_initialized():
            traceback.print_exc()
            _end(1)
        raise


def _end(code: object) -> None:
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
