"""Runs one function over a list of independent tasks: in this process, as one of n processes, or on a Ray cluster.

A pass over the data is a list of idempotent tasks. An existing scheduler decides which task runs where and handles dead
machines and failed tasks: this process (`local`), the array job that started it (`share`, with the index that
Kubernetes or SLURM sets in the environment), or Ray (`ray`).

`make_worker()` builds the worker, once per process. A worker takes an iterable of tasks and yields a result for each,
so that it can prepare the next task while it finishes the last.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from epfv2_jax.core import checks

Task = TypeVar("Task")
Result = TypeVar("Result")
Worker = Callable[[Iterable[Task]], Iterator[Result]]

#: The choices of --engine.
ENGINES = ("local", "index", "ray")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """Which tasks of a pass one command runs, and where; by default all of them, in this process."""

    index: int = 0  # of the share that this command runs
    count: int = 1  # number of shares
    on_ray: bool = False
    address: str | None = None  # this and the next two: see `ray`
    resource: str = "CPU"
    amount: float = 1

    def share(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Returns this command's share of the tasks of a pass."""
        return share(tasks, self.index, self.count)

    def run(
        self, make_worker: Callable[[], Worker], tasks: Sequence[Task], tasks_per_call: int = 1
    ) -> Iterator[Result]:
        """Returns an iterator over the results of `tasks`, in any order; for `tasks_per_call` see `ray`."""
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
    """Adds the flags that `from_arguments` reads."""
    parser.add_argument("--engine", choices=ENGINES, default="local", help="this process, one share of n, or Ray")
    parser.add_argument("--index", type=int, help="of this process; default: from the environment")
    parser.add_argument("--count", type=int, help="number of processes")
    parser.add_argument("--address", help="of a running Ray cluster, or auto; default: start one on this machine")
    parser.add_argument("--actor", type=_actor, default=("CPU", 1.0), help="what a Ray actor needs; default: CPU=1")


def from_arguments(args: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Engine:
    """Returns the engine that the flags select.

    Raises:
      ValueError: neither the flags nor the environment give this process's share, or --index or --count is given
        without --engine index.
    """
    if args.engine != "index" and not args.index is args.count is None:
        raise ValueError("--index and --count need --engine index; add it, or leave them out")
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
    raise argparse.ArgumentTypeError(f"{text!r}: give what an actor needs, such as CPU=1, GPU=1 or TPU=4")


def local(make_worker: Callable[[], Worker], tasks: Sequence[Task]) -> Iterator[Result]:
    """Yields the results of all tasks, run in this process; without tasks no worker is built."""
    if tasks:
        yield from make_worker()(tasks)


def share(tasks: Sequence[Task], index: int, count: int) -> Sequence[Task]:
    """Returns the tasks of process `index` of `count`: every `count`-th. Shares are disjoint and cover all tasks.

    Raises:
      ValueError: the index is not one of 0 ... count - 1.
    """
    checks.at_least(1, count=count)
    checks.within(0, count - 1, index=index)
    return tasks[index::count]


def index_from_environment(environment: Mapping[str, str], count: int | None = None) -> tuple[int, int]:
    """Returns (index, count) of this process from the environment that its scheduler set.

    SLURM sets both (SLURM_ARRAY_TASK_ID, _MIN, _MAX, _STEP, _COUNT), unless the array is a list with gaps. An indexed
    Kubernetes Job, also in a JobSet, sets only the index (JOB_COMPLETION_INDEX): `count` is then the Job's
    `completions`.

    Raises:
      ValueError: the environment lacks one of the two, or contradicts `count`; or a SLURM array has gaps, whose tasks
        cannot know their place.
    """

    def number(name: str, default: str | None = None) -> int:
        with checks.naming(f"{name} in the environment"):
            return int(environment[name] if default is None else environment.get(name, default))

    if "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        first, step = number("SLURM_ARRAY_TASK_MIN", "0"), number("SLURM_ARRAY_TASK_STEP", "1")
        index, size = (number("SLURM_ARRAY_TASK_ID") - first) // step, number("SLURM_ARRAY_TASK_COUNT")
        last = number("SLURM_ARRAY_TASK_MAX", str(first + (size - 1) * step))
        if (last - first) // step + 1 != size:
            raise ValueError(
                f"the SLURM array has gaps ({size} tasks from {first} to {last}), so a task cannot know its place; "
                "give --index and --count, or submit a range such as --array=0-31"
            )
        if count is not None:
            checks.equal("count beside SLURM_ARRAY_TASK_COUNT", count, size, "leave it out")
        return index, size
    if "JOB_COMPLETION_INDEX" in environment:
        if count is None:
            raise ValueError(
                "JOB_COMPLETION_INDEX gives the index, but Kubernetes does not give the count; set it to the Job's "
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
    """Yields the results of all tasks, run by the actors of a Ray cluster, as they complete.

    There is one actor for every `amount` of `resource` in the cluster ("CPU", "GPU", "TPU" or a custom name; all chips
    of a TPU host go to one actor). Ray restarts a dead actor and repeats its call, without limit: finished tasks of
    that call run again, unless the worker checks for them. Idle actors are released, so that one from a lost node can
    restart in their place. An exception in the worker is raised here.

    Args:
      make_worker: picklable.
      tasks: picklable.
      address: of a running cluster, "auto" for the one of this machine; None starts one here. An existing connection
        is reused.
      resource: that an actor needs.
      amount: of the resource, for each actor.
      tasks_per_call: tasks in one call of an actor. More tasks: fewer pauses between calls, more to repeat.

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
        calls = [tasks[i : i + tasks_per_call] for i in range(0, len(tasks), tasks_per_call)]
        idle, running = _actors(make_worker, len(calls), resource, amount), {}
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


def _actors(make_worker: Callable[[], Worker], most: int, resource: str, amount: float) -> list:
    """Returns one Ray actor for every `amount` of `resource` in the cluster, at most `most`."""
    import ray

    available = ray.cluster_resources().get(resource, 0)
    number = min(int(available // amount), most)
    if number < 1:
        raise ValueError(f"the Ray cluster has {available:g} of {resource!r}, an actor needs {amount:g}")
    needs = {"CPU": {"num_cpus": amount}, "GPU": {"num_gpus": amount}}
    options = {"num_cpus": 0, **needs.get(resource, {"resources": {resource: amount}})}

    class Actor:
        def __init__(self, make_worker):
            self.worker = make_worker()

        def run(self, tasks):
            return list(self.worker(tasks))

    remote = ray.remote(Actor).options(max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD", **options)
    return [remote.remote(make_worker) for _ in range(number)]
