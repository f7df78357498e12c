"""Three ways to run one function over a list of independent tasks: here, as one of n, or on a Ray cluster.

A pass over the data is a list of tasks, each idempotent: done twice, it leaves what it leaves when done once. Which
task runs where, what becomes of a dead machine and of a task that failed is the business of a scheduler that exists:
this process (`local`), the array job that started it (`share`, with the index that Kubernetes or SLURM put into the
environment), or Ray (`ray`).

A worker is made once in each process by `make_worker()`; it is called with an iterable of tasks and yields a result
for each, so that it can prepare the next task while it finishes the last.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Worker = Callable[[Iterable[Task]], Iterator[Result]]

#: The engines that a command line may name.
ENGINES = ("local", "index", "ray")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """The tasks of a pass that one command runs, and where: by default all of them, in this process."""

    index: int = 0  # of the shares of the tasks; this command runs one
    count: int = 1  # of shares
    on_ray: bool = False
    address: str | None = None  # this and the next two as for `ray`
    resource: str = "CPU"
    amount: float = 1

    def share(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Returns those of all tasks of a pass that are this command's."""
        return share(tasks, self.index, self.count)

    def run(
        self, make_worker: Callable[[], Worker], tasks: Sequence[Task], tasks_per_call: int = 1
    ) -> Iterator[Result]:
        """Returns the results of `tasks` as they come, in any order; `tasks_per_call` as for `ray`."""
        if not self.on_ray:
            return local(make_worker, tasks)
        return ray(
            make_worker,
            tasks,
            address=self.address,
            resource=self.resource,
            amount=self.amount,
            tasks_per_call=tasks_per_call,
        )


#: All tasks, in this process.
LOCAL = Engine()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of which `from_arguments` makes an engine."""
    parser.add_argument("--engine", choices=ENGINES, default="local", help="this process, one share of n, or Ray")
    parser.add_argument("--index", type=int, help="of this process; default: from the environment")
    parser.add_argument("--count", type=int, help="of processes")
    parser.add_argument("--address", help="of a running Ray cluster, or auto; default: one is started here")
    parser.add_argument("--actor", type=_actor, default=("CPU", 1.0), help="what a Ray actor needs; default: CPU=1")


def from_arguments(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Engine:
    """Returns the engine that a command line names.

    Raises:
      ValueError: neither the command line nor the environment says which share is this process's, or a share is named
        without the engine that has shares.
    """
    if args.engine != "index" and not args.index is args.count is None:
        raise ValueError("--index and --count belong to --engine index; give it too, or leave them out")
    if args.engine == "index" and args.index is None:
        index, count = index_from_environment(environment, args.count)
        return Engine(index=index, count=count)
    if args.engine == "index":
        return Engine(index=args.index, count=args.count or 0)
    resource, amount = args.actor
    return Engine(on_ray=args.engine == "ray", address=args.address, resource=resource, amount=amount)


def _actor(text: str) -> tuple[str, float]:
    resource, _, amount = text.partition("=")
    try:
        if resource and 0 < float(amount) < math.inf:
            return resource, float(amount)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}, expected what an actor needs, such as CPU=1, GPU=1 or TPU=4")


@contextlib.contextmanager
def publishing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a path to write to; at the end that file appears at `path`, whole, in place of one that is there.

    The path lies in a folder of this process's own: of several processes that publish the same file at once each puts
    a whole one there.
    """
    path = pathlib.Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
        yield pathlib.Path(own) / path.name
        os.replace(pathlib.Path(own) / path.name, path)


def local(make_worker: Callable[[], Worker], tasks: Sequence[Task]) -> Iterator[Result]:
    """Returns the results of all tasks, done in this process; no worker is made where there is nothing to do."""
    if tasks:
        yield from make_worker()(tasks)


def share(tasks: Sequence[Task], index: int, count: int) -> Sequence[Task]:
    """Returns the tasks of process `index` of `count`: every `count`-th. Shares are disjoint and cover all tasks.

    Raises:
      ValueError: the index is not one of 0 ... count - 1.
    """
    if count < 1 or not 0 <= index < count:
        raise ValueError(f"index {index} of count {count}: the index must be 0 to count - 1")
    return tasks[index::count]


def index_from_environment(environment: Mapping[str, str], count: int | None = None) -> tuple[int, int]:
    """Returns (index, count) of this process, as the scheduler that started it put it into the environment.

    SLURM tells both (SLURM_ARRAY_TASK_ID, _MIN, _STEP, _COUNT). An indexed Kubernetes Job, also one of a JobSet, tells
    only the index (JOB_COMPLETION_INDEX): `count` is then the Job's `completions`.

    Raises:
      ValueError: the environment does not say, or says something else than `count`.
    """

    def number(name: str, default: str | None = None) -> int:
        value = environment[name] if default is None else environment.get(name, default)
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{name}={value!r} in the environment is not a number") from None

    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        first, step = number("SLURM_ARRAY_TASK_MIN", "0"), number("SLURM_ARRAY_TASK_STEP", "1")
        index, told = (number("SLURM_ARRAY_TASK_ID") - first) // step, number("SLURM_ARRAY_TASK_COUNT")
        if count not in (None, told):
            raise ValueError(f"count {count}, but SLURM_ARRAY_TASK_COUNT={told}; leave the count out")
        return index, told
    if "JOB_COMPLETION_INDEX" in environment:
        if count is None:
            raise ValueError(
                "JOB_COMPLETION_INDEX tells the index but Kubernetes does not tell the count; give it: the Job's "
                "completions"
            )
        return number("JOB_COMPLETION_INDEX"), count
    raise ValueError(
        "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is in the environment; give the index and the count"
    )


def ray(
    make_worker: Callable[[], Worker],
    tasks: Sequence[Task],
    *,
    address: str | None = None,
    resource: str = "CPU",
    amount: float = 1,
    tasks_per_call: int = 1,
) -> Iterator[Result]:
    """Returns the results of all tasks, done by the actors of a Ray cluster, as they come.

    There is one actor for every `amount` of `resource` in the cluster ("CPU", "GPU", "TPU" or a name of its own; all
    chips of a TPU host are one actor's). Ray restarts an actor that died and repeats its call, without limit: tasks
    that were done before are done again, or, if the worker looks, found done. An actor without work is released, so
    that the place of a node that is gone can be taken. An exception of the worker is the caller's.

    Args:
      make_worker: picklable.
      tasks: picklable.
      address: of a running cluster, "auto" for the one of this machine; None starts one here. A connection that
        exists already is used.
      resource: what an actor needs.
      amount: how much of it.
      tasks_per_call: tasks handed over at once. More of them: fewer pauses between calls, more to repeat.

    Raises:
      ValueError: the cluster has no such resource, or too little for one actor.
    """
    import ray

    if not tasks:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False)
    try:
        available = ray.cluster_resources().get(resource, 0)
        calls = [tasks[i : i + tasks_per_call] for i in range(0, len(tasks), tasks_per_call)]
        num_actors = min(int(available // amount), len(calls))
        if num_actors < 1:
            raise ValueError(f"the Ray cluster has {available:g} of {resource!r}, an actor needs {amount:g}")
        needs = {"CPU": {"num_cpus": amount}, "GPU": {"num_gpus": amount}}
        options = {"num_cpus": 0, **needs.get(resource, {"resources": {resource: amount}})}

        class Actor:
            def __init__(self, make_worker):
                self.worker = make_worker()

            def run(self, tasks):
                return list(self.worker(tasks))

        remote = ray.remote(Actor).options(
            max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD", **options
        )
        idle = [remote.remote(make_worker) for _ in range(num_actors)]
        running = {}
        while calls or running:
            while calls and idle:
                actor = idle.pop()
                running[actor.run.remote(calls.pop(0))] = actor
            idle.clear()
            (done, *_), _ = ray.wait(list(running))
            idle.append(running.pop(done))
            yield from ray.get(done)
    finally:
        if started:
            ray.shutdown()
