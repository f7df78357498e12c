"""The stream state of EPFv2 survives its way through the named tensors of a graph."""

import jax
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra 'export'")

from epfv2_jax.deploy import exporter, signature
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config

pytestmark = pytest.mark.extras

CHANGES = {
    "full": {},
    "query": {"temporal_position": "query"},
    "one frame": {"temporal": False},
    "window 1": {"window": 1},
    "no poses": {"auxiliary_input": False},
    "half": {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": True},
}
BATCH = 3


def model_with(**changes) -> EPFv2:
    config = EPFv2Config(**{"encoder": "small", "width": 16, "heads": 2, "window": 5, **changes})
    return EPFv2(config, skeleton.EGOBODY3M, layout.EGOBODY3M)


@pytest.mark.parametrize("name", CHANGES)
def test_state_comes_back_from_the_tensors(name):
    made = exporter.exporter_of(model_with(**CHANGES[name]))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: rng.integers(0, 2, x.shape).astype(x.dtype), made.model.initial_state(BATCH))
    if state.caches:  # all layers have seen the same frames
        age = state.caches[0].age
        state = state.replace(caches=tuple(cache.replace(age=age) for cache in state.caches))
    tensors = made.write_state(state)
    described = {tensor.name: tensor for tensor in made.state_tensors(BATCH)}
    assert {n: np.shape(t) for n, t in tensors.items()} == {n: t.shape for n, t in described.items()}
    assert all(tensor.state for tensor in described.values())
    again = made.write_state(made.read_state(tensors, BATCH))
    jax.tree.map(np.testing.assert_array_equal, again, tensors)
    if name == "full":
        jax.tree.map(np.testing.assert_array_equal, made.read_state(tensors, BATCH), state)


@pytest.mark.parametrize("name", CHANGES)
def test_zeros_are_a_stream_that_has_seen_nothing(name):
    made = exporter.exporter_of(model_with(**CHANGES[name]))
    state = made.read_state(signature.empty_state(made.state_tensors(BATCH)), BATCH)
    empty = made.model.initial_state(BATCH)
    # The pose before the first frame has no meaning: `started` is False.
    state = state.replace(T_world_headset=empty.T_world_headset)
    jax.tree.map(np.testing.assert_array_equal, state, empty)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {np.dtype(t) for t in ("float32", "int32", "bool")}
