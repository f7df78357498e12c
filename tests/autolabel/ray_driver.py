"""Runs a label pass on a Ray cluster of two nodes on the loopback; workers kill themselves where they are told to.

Command:  python ray_driver.py ORDERS OUT RECORDS TEACHER

A process of its own: Ray forks, which a process in which JAX runs threads should not.
"""

import os
import pathlib
import signal
import sys

import ray
from ray.cluster_utils import Cluster

from epfv2_jax.autolabel import plan, worker
from epfv2_jax.core import tasks


class Mortal:
    """A labeller that dies by SIGKILL after unit i, once, if there is a file ORDERS/i."""

    def __init__(self, orders, *arguments):
        self.orders, self.labeller = pathlib.Path(orders), worker.Labeller(*arguments)

    def __call__(self, units):
        for unit in units:
            yield from self.labeller([unit])
            if (self.orders / str(unit)).exists():
                (self.orders / str(unit)).unlink()
                os.kill(os.getpid(), signal.SIGKILL)


class MakeMortal:
    """Found by the workers under the name of this module."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __call__(self):
        return Mortal(*self.arguments)


def main() -> None:
    import ray_driver

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.2"})
    try:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
        ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)
        try:
            next(tasks.ray(list, [0], resource="TPU", amount=4))
        except ValueError as error:
            print(error)
        make_worker = ray_driver.MakeMortal(*sys.argv[1:])
        units = list(range(plan.read_plan(sys.argv[2]).num_units))
        print("units", *sorted(report.unit for report in tasks.ray(make_worker, units, tasks_per_call=2)))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
