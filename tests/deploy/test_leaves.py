"""The state of any model survives its way through the named tensors of a graph."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra 'export'")

from epfv2_jax.deploy import exporter, signature
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry import skeleton as skeletons
from epfv2_jax.models import base
from epfv2_jax.models.baselines.lstm import LSTM, LSTMConfig

pytestmark = pytest.mark.extras

BATCH = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """Of a model without any of the fields that deployment changes."""

    kind: str = "own"
    keeps: str = "nothing"


class Own(base.SingleFrameModel):
    """Keeps any kind of state."""

    config: OwnConfig
    skeleton: skeletons.Skeleton = skeletons.EGOBODY3M
    layout: layouts.RigLayout = layouts.EGOBODY3M

    def initial_state(self, batch):
        return {
            "nothing": (),
            "a count": jnp.zeros(batch, jnp.int32),
            "poses": {"last": (jnp.tile(jnp.eye(4), (batch, 1, 1)), jnp.zeros((batch, 2), bool))},
            "a wrong type": {"sums": jnp.zeros(batch, jnp.bfloat16)},
        }[self.config.keeps]


MODELS = {
    "lstm": LSTM(LSTMConfig(dtype="bfloat16", remat=True, width=8), skeletons.EGOBODY3M, layouts.EGOBODY3M),
    **{keeps: Own(OwnConfig(keeps=keeps)) for keeps in ("nothing", "a count", "poses")},
}
NAMES = {
    "lstm": ["state.cell", "state.hidden", "state.T_world_headset", "state.started"],
    "nothing": [],
    "a count": ["state"],
    "poses": ["state.last.0", "state.last.1", "started"],
}


@pytest.mark.parametrize("name", MODELS)
def test_state_comes_back_from_the_tensors(name):
    made = exporter.exporter_of(MODELS[name])
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: rng.integers(0, 2, x.shape).astype(x.dtype), made.model.initial_state(BATCH))
    tensors, described = made.write_state(state), made.state_tensors(BATCH)
    assert [tensor.name for tensor in described] == list(tensors) == NAMES[name]
    assert [(t.shape, t.dtype) for t in described] == [(x.shape, x.dtype.name) for x in tensors.values()]
    assert all(tensor.state for tensor in described)
    again = made.read_state(tensors, BATCH)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("name", MODELS)
def test_zeros_are_a_stream_that_has_seen_nothing(name):
    made = exporter.exporter_of(MODELS[name])
    state = made.read_state(signature.empty_state(made.state_tensors(BATCH)), BATCH)
    jax.tree.map(np.testing.assert_array_equal, state, made.model.initial_state(BATCH))


def test_a_model_is_deployed_in_float32():
    config = exporter.exporter_of(MODELS["lstm"]).model.config
    assert config == dataclasses.replace(MODELS["lstm"].config, dtype="float32", remat=False)


def test_a_state_that_no_graph_takes_is_refused_by_name():
    with pytest.raises(ValueError, match=r"type of state\.sums: 'bfloat16' is not one of .*'float32'"):
        exporter.exporter_of(Own(OwnConfig(keeps="a wrong type")))
