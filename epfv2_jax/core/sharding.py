"""Placement of arrays on one mesh (data, fsdp): clips are split over both axes, large parameters over fsdp."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from epfv2_jax.core import checks

BATCH_SPEC = PartitionSpec(("data", "fsdp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The device mesh. `data` or `fsdp` may be -1: it is then inferred from the number of devices."""

    data: int = -1  # data-parallel replicas of the parameters
    fsdp: int = 1  # shards of each large parameter and of its optimizer state
    min_shard_size: int = 2**14  # elements; smaller parameters are replicated

    def __post_init__(self):
        if self.data == -1 and self.fsdp == -1:
            raise ValueError("data and fsdp are both -1; fix one of them")
        for name in ("data", "fsdp"):
            if getattr(self, name) != -1:
                checks.at_least(1, **{name: getattr(self, name)})


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (default: all).

    Raises:
      ValueError: data x fsdp is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    data = n // config.fsdp if config.data == -1 else config.data
    fsdp = n // config.data if config.fsdp == -1 else config.fsdp
    name = f"devices of a mesh of data={config.data} x fsdp={config.fsdp}"
    checks.equal(name, data * fsdp, n, "change mesh.data or mesh.fsdp")
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Raises ValueError unless `batch_size` clips divide evenly into `accumulation` parts over the mesh's devices."""
    parts = accumulation * mesh.size
    if batch_size % parts:
        below = batch_size // parts * parts
        remedy = f"{below} or {below + parts}" if below else f"{parts}"
        raise ValueError(
            f"data.batch_size = {batch_size} is not divisible by {accumulation} accumulation steps x {mesh.size} "
            f"devices; use {remedy}"
        )


def state_sharding(state: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """Returns a NamedSharding per leaf: the largest axis that fsdp divides is split, small leaves are replicated."""
    size = mesh.shape["fsdp"]

    def spec(leaf) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % size == 0]
        if size == 1 or not axes or np.prod(leaf.shape) < config.min_shard_size:
            return replicated(mesh)
        split = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if i == split else None for i in range(len(leaf.shape)))))

    return jax.tree.map(spec, state)


def gather(params: Any, mesh: Mesh, stored: Any) -> Any:
    """Returns the full parameters on every device, gathered from shards laid out as `stored`; call it under `jax.jit`.

    Gradients are reduce-scattered: summed over the devices, each of which keeps its shard. Without this, XLA propagates
    the sharding of the parameters to the activations and moves those instead.
    """
    constrain = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def whole(params: Any) -> Any:
        return constrain(params, replicated(mesh))

    whole.defvjp(lambda params: (whole(params), None), lambda _, grads: (constrain(grads, stored),))
    return whole(params)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Returns global device arrays from this process's numpy share of the batch, split over the leading axis."""
    sharding = NamedSharding(mesh, BATCH_SPEC)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)


def put_whole(tree: Any, target: NamedSharding) -> Any:
    """Returns global device arrays from numpy arrays that every process holds in full."""

    def put(leaf: np.ndarray) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, target, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Returns the arrays with a full copy on every device of `mesh`; shards on these devices are gathered.

    Arrays that do not lie on the mesh must be whole in every process. One program gathers all shards: many small ones
    would run at once, and on CPUs those of several processes then wait for each other for ever.
    """
    devices = set(mesh.devices.flat)
    if all(isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices for leaf in jax.tree.leaves(tree)):
        return jax.jit(_same, out_shardings=replicated(mesh))(tree)
    return put_whole(tree, replicated(mesh))


def _same(tree: Any) -> Any:
    return tree
