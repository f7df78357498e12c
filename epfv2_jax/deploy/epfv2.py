"""The stream state of EPFv2 as named tensors of a graph. No other module outside `models` knows that state."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from epfv2_jax.deploy.signature import Tensor
from epfv2_jax.models.epfv2.model import EPFv2, StreamState
from epfv2_jax.models.epfv2.temporal import KVCache


class EPFv2Exporter:
    """The `Exporter` of EPFv2.

    The state is in the graph as far as the model uses it. Ages of cached frames become `cache_time_left`, window - age,
    so that zeros are an empty cache. All layers have seen the same frames: one age serves all caches.
    """

    def __init__(self, model: EPFv2):
        config = dataclasses.replace(model.config, dtype="float32", param_dtype="float32", remat=False)
        self.model: EPFv2 = model.clone(config=config)

    @property
    def _cache_shape(self) -> tuple[int, int, int, int]:
        """(layers, W - 1, A, K)."""
        config = self.model.config
        return config.num_caches, config.window - 1, config.heads, config.width // config.heads

    @property
    def _has_caches(self) -> bool:
        return 0 not in self._cache_shape

    def state_tensors(self, batch: int) -> tuple[Tensor, ...]:
        """See `Exporter`."""
        tensors = []
        if self._has_caches:
            layers, *entry = self._cache_shape
            shape, meaning = (layers, batch, *entry), "of temporal attention, by layer and frame, oldest frame first"
            tensors += [
                Tensor(name="cache_keys", shape=shape, dtype="float32", meaning=f"keys {meaning}", state=True),
                Tensor(name="cache_values", shape=shape, dtype="float32", meaning=f"values {meaning}", state=True),
                Tensor(
                    name="cache_time_left",
                    shape=(batch, entry[0]),
                    dtype="int32",
                    meaning="frame times for which a cached frame will still be seen; 0: nothing is there",
                    state=True,
                ),
            ]
        if self.model.config.auxiliary_input:
            tensors += [
                Tensor(
                    name="previous_T_world_headset",
                    shape=(batch, 4, 4),
                    dtype="float32",
                    meaning="pose of the headset at the previous frame",
                    state=True,
                ),
                Tensor(name="started", shape=(batch,), dtype="bool", meaning="whether there was one", state=True),
            ]
        return tuple(tensors)

    def read_state(self, given: Mapping[str, jax.Array], batch: int) -> StreamState:
        """See `Exporter`."""
        config = self.model.config
        state = self.model.initial_state(batch)
        if self._has_caches:
            keys, values = given["cache_keys"], given["cache_values"]
            age = config.window - given["cache_time_left"]
            caches = tuple(KVCache(keys=keys[i], values=values[i], age=age) for i in range(config.num_caches))
            state = state.replace(caches=caches)
        if config.auxiliary_input:
            state = state.replace(T_world_headset=given["previous_T_world_headset"], started=given["started"])
        return state

    def write_state(self, state: StreamState) -> dict[str, jax.Array]:
        """See `Exporter`."""
        config = self.model.config
        tensors = {}
        if self._has_caches:
            tensors["cache_keys"] = jnp.stack([cache.keys for cache in state.caches])
            tensors["cache_values"] = jnp.stack([cache.values for cache in state.caches])
            tensors["cache_time_left"] = config.window - state.caches[0].age
        if config.auxiliary_input:
            tensors["previous_T_world_headset"] = state.T_world_headset
            tensors["started"] = state.started
        return tensors

    def metadata(self) -> dict[str, Any]:
        """See `Exporter`."""
        config = self.model.config
        normalisation = "(image / 255 - image_mean) / image_std"
        if config.local_contrast > 0:
            normalisation = f"local contrast, in windows of {config.local_contrast:g} image heights"
        return {
            "image_mean": config.image_mean,
            "image_std": config.image_std,
            "normalisation": f"inside the graph: {normalisation}",
            "window": config.window,
        }
