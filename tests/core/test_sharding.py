import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from epfv2_jax.core import sharding


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, -1, (2, 4)), (1, 8, (1, 8))])
def test_mesh_fills_the_devices(data, fsdp, shape):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=data, fsdp=fsdp))
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == shape


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 3), (16, 1)])
def test_mesh_that_does_not_fill_the_devices_is_refused(data, fsdp):
    with pytest.raises(ValueError, match=r"devices of a mesh of data=.* x fsdp=.*: expected 8, got \d+; change mesh"):
        sharding.make_mesh(sharding.MeshConfig(data=data, fsdp=fsdp))


def test_batch_that_does_not_divide_is_refused_with_the_nearest_sizes():
    mesh = sharding.make_mesh(sharding.MeshConfig())
    sharding.check_batch_size(32, 2, mesh)
    with pytest.raises(
        ValueError, match=r"batch_size = 36 is not divisible by 2 accumulation .* 8 devices; use 32 or 48"
    ):
        sharding.check_batch_size(36, 2, mesh)
    with pytest.raises(ValueError, match=r"use 8$"):
        sharding.check_batch_size(3, 1, mesh)


def test_large_leaves_are_split_over_fsdp_and_small_ones_replicated():
    config = sharding.MeshConfig(data=2, fsdp=4, min_shard_size=64)
    mesh = sharding.make_mesh(config)
    state = {"large": jnp.zeros((6, 128)), "odd": jnp.zeros((7, 33)), "small": jnp.zeros(8), "scalar": jnp.zeros(())}
    specs = jax.tree.map(lambda s: s.spec, sharding.state_sharding(state, mesh, config))
    assert specs["large"] == PartitionSpec(None, "fsdp")
    assert specs["odd"] == specs["small"] == specs["scalar"] == PartitionSpec()


def test_put_batch_splits_the_leading_axis_over_all_devices():
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))
    x = np.arange(16 * 3).reshape(16, 3)
    placed = sharding.put_batch({"x": x}, mesh)["x"]
    np.testing.assert_array_equal(placed, x)
    assert {s.data.shape for s in placed.addressable_shards} == {(2, 3)}


@pytest.mark.parametrize("place", [jax.device_put, lambda leaf, _: leaf, lambda leaf, _: jnp.asarray(leaf)])
def test_everywhere_means_a_full_copy_on_each_device(place):
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=4))
    tree = {"kernel": np.arange(32, dtype=np.float32).reshape(4, 8), "scale": np.float32(2)}
    split = sharding.state_sharding(tree, mesh, sharding.MeshConfig(fsdp=4, min_shard_size=8))
    placed = sharding.put_everywhere(jax.tree.map(place, tree, split), mesh)
    for leaf, expected in zip(jax.tree.leaves(placed), jax.tree.leaves(tree), strict=True):
        assert leaf.sharding.device_set == set(jax.devices()) and leaf.sharding.is_fully_replicated
        for copy in leaf.addressable_shards:
            np.testing.assert_array_equal(copy.data, expected)
