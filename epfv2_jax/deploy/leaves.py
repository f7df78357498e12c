"""The stream state of any model as named tensors of a graph: one for each array of the state."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.deploy.session import DTYPES
from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel

#: What a configuration that has these fields is deployed with.
_DEPLOYED = {"dtype": "float32", "param_dtype": "float32", "remat": False}
_STARTED = "started"


class LeafExporter:
    """The `Exporter` of models whose state is any pytree of arrays (B, ...): the array at `a.b` is `state.a.b`.

    Where the initial state is not all zeros, one more tensor, `started`, says whether a stream has had a frame: as long
    as it has not, the other tensors are ignored.
    """

    def __init__(self, model: PoseModel):
        fields = {field.name for field in dataclasses.fields(model.config)}
        changes = {name: value for name, value in _DEPLOYED.items() if name in fields}
        self.model: PoseModel = model.clone(config=dataclasses.replace(model.config, **changes))
        initial = self.model.initial_state(1)
        self._structure = jax.tree.structure(initial)
        by_name = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(initial)}
        self._names = tuple(by_name)
        self._has_flag = any(np.any(leaf) for leaf in by_name.values())
        for name, leaf in by_name.items():
            checks.one_of([np.dtype(x).name for x in DTYPES.values()], **{f"type of {name}": leaf.dtype.name})

    def state_tensors(self, batch: int) -> tuple[Tensor, ...]:
        """See `Exporter`."""
        shapes = jax.tree.leaves(jax.eval_shape(lambda: self.model.initial_state(batch)))
        tensors = [
            Tensor(name=name, shape=x.shape, dtype=x.dtype.name, meaning="part of the state of the stream", state=True)
            for name, x in zip(self._names, shapes, strict=True)
        ]
        if self._has_flag:
            meaning = "whether the stream has had a frame"
            tensors.append(Tensor(name=_STARTED, shape=(batch,), dtype="bool", meaning=meaning, state=True))
        return tuple(tensors)

    def read_state(self, given: Mapping[str, jax.Array], batch: int) -> Any:
        """See `Exporter`."""
        state = jax.tree.unflatten(self._structure, [given[name] for name in self._names])
        if not self._has_flag:
            return state
        return base.reset(self.model, state, ~given[_STARTED])

    def write_state(self, state: Any) -> dict[str, jax.Array]:
        """See `Exporter`."""
        leaves = jax.tree.leaves(state)
        tensors = dict(zip(self._names, leaves, strict=True))
        return tensors | ({_STARTED: jnp.ones(leaves[0].shape[:1], bool)} if self._has_flag else {})

    def metadata(self) -> dict[str, Any]:
        """See `Exporter`."""
        return {"normalisation": "inside the graph"}


def _name(path: tuple) -> str:
    return ".".join(["state", *(jax.tree_util.keystr((key,), simple=True) for key in path)])
