"""Synthesizes and converts on a Ray cluster of two nodes on the loopback; a worker of each kills itself once.

Command:  python ray_data_driver.py ORDERS ZIPS RECORDS

A process of its own: Ray forks, which a process in which JAX runs threads should not.
"""

import dataclasses
import os
import pathlib
import signal
import sys

import ray
from ray.cluster_utils import Cluster

from epfv2_jax import convert, synthesize
from epfv2_jax.core import tasks


class MakeMortal:
    """Makes a worker that dies by SIGKILL after a task, once, if there is the file `order`."""

    def __init__(self, order, make_worker):
        self.order, self.make_worker = order, make_worker

    def __call__(self):
        worker = self.make_worker()

        def work(tasks):
            for task in tasks:
                yield from worker([task])
                if self.order.exists():
                    self.order.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)

        return work


@dataclasses.dataclass(frozen=True, kw_only=True)
class MortalEngine(tasks.Engine):
    """Ray, with such workers."""

    order: pathlib.Path

    def run(self, make_worker, tasks, tasks_per_call=1):
        import ray_data_driver  # where the workers find the class

        return super().run(ray_data_driver.MakeMortal(self.order, make_worker), tasks, tasks_per_call)


def main() -> None:
    import test_tasks_cli

    orders, zips, records = map(pathlib.Path, sys.argv[1:])
    from_arguments = tasks.from_arguments
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.2"})
    try:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
        ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)
        for module, command, flags in (
            (synthesize, test_tasks_cli.SYNTHESIZE, ("--out", zips)),
            (convert, test_tasks_cli.CONVERT, ("--source", zips, "--out", records)),
        ):
            order = orders / command[0]
            tasks.from_arguments = lambda args, order=order: MortalEngine(
                **dataclasses.asdict(from_arguments(args)), order=order
            )
            sys.argv = [*command, *map(str, flags), "--engine", "ray"]
            module.main()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
