"""The processes of one run: how they find each other, and how all of them stop when one is told to.

A run on several hosts is the same command on each. Whoever has to ask where it runs asks JAX (`jax.process_index()`);
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

#: Exit code of a run that was told to stop and saved its state: start the same command again (EX_TEMPFAIL).
EXIT_PREEMPTED = 75
# A process that was not heard of for so long is lost, and the others end: the job is over within a minute. The
# heartbeats come from a thread that neither compilation nor Python holds up.
_HEARTBEAT_TIMEOUT_S = 40
# How long a process that is done waits for the others; process 0 draws the report meanwhile.
_SHUTDOWN_TIMEOUT_S = 600


class Preempted(Exception):  # noqa: N818 (a notice, not an error)
    """The run was told to stop, saved its state and stopped."""


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Joins this process to the others of its run; call it before JAX is used for anything.

    Without arguments JAX finds the others itself, on TPU slices (also on GKE) and under SLURM. With a coordinator and a
    count the index may be left out where the process is one of an indexed Kubernetes Job or JobSet: it is then
    JOB_COMPLETION_INDEX.

    Args:
      coordinator_address: HOST:PORT of process 0, free there and reachable from everywhere.
      num_processes: of the run.
      process_id: of this one, 0 ... num_processes - 1.
      environment: where an index is looked for.

    Raises:
      ValueError: only a part is given, or nothing is found.
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
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id {process_id} of --num_processes {num_processes}: it must be 0 to count - 1")
    if ":" not in coordinator_address:
        raise ValueError(f"--coordinator_address {coordinator_address}: give HOST:PORT")
    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, cluster_detection_method="deactivate", **timeouts
    )


def is_first() -> bool:
    """Returns whether this is the process that writes what a run writes once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[int], bool]]:
    """Gives a function that all processes call after every step, with its number: is this the step to stop after?

    SIGTERM to any process is what tells a run to stop. All processes get True after the same step.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    told = threading.Event()
    # Elsewhere than in the main thread Python cannot take signals; such a run ends like any other program.
    takes_signals = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, lambda *_: told.set()) if takes_signals else None
    try:
        yield lambda step: told.is_set()
    finally:
        if takes_signals:
            signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def ends_together() -> Iterator[None]:
    """Ends this process at once when the block raises, so that the others notice and end as well.

    A Python program that fails would otherwise wait at its exit for the others, which wait for it in a collective.
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
