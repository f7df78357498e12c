"""The optimizer: AdamW or Muon, warm-up and cosine decay, clipping, and learning rates by depth for the encoder."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from epfv2_jax.core import checks
from epfv2_jax.models.base import Backbone

# Root mean square of the updates of Adam in practice, before the learning rate (Liu et al.).
_ADAM_RMS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon. All values are our choice where the paper is silent."""

    # "muon" orthogonalises the momentum of each kernel (Jordan et al., 2024), scaled so that learning rate and weight
    # decay mean what they mean for AdamW (Liu et al., "Muon is Scalable for LLM Training"); all else goes by AdamW with
    # Nesterov's momentum. For encoders that start from nothing: it needs fewer samples.
    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 500  # in which the learning rate rises to its peak
    final_fraction: float = 0.01  # of the peak, at the last step
    weight_decay: float = 1e-2  # on kernels only
    b1: float = 0.9  # decay of the mean gradient
    b2: float = 0.999  # decay of its mean square
    clip_norm: float = 1.0  # largest norm of the gradient; a longer one is shortened to it
    encoder_scale: float = 1.0  # learning rate of the encoder relative to the rest of the model
    encoder_layer_decay: float = 1.0  # of each encoder layer relative to the next deeper one (0.65-0.8 for a ViT)

    def __post_init__(self):
        checks.one_of(("adamw", "muon"), kind=self.kind)
        checks.above(0, learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        checks.at_least(0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay)
        checks.at_least(0, encoder_scale=self.encoder_scale, final_fraction=self.final_fraction)
        checks.above(0, encoder_layer_decay=self.encoder_layer_decay)
        checks.within(0, 1, encoder_layer_decay=self.encoder_layer_decay)


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate by optimizer step: linear warm-up, then cosine down to `final_fraction` at `steps`."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(
    config: OptimizerConfig, steps: int, backbone: Backbone | None = None
) -> optax.GradientTransformation:
    """Returns the gradient transformation for a run of `steps` steps.

    What is frozen with the backbone, and itself, is not updated, has no moments and is left out of the gradient norm.
    """
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        _muon(config) if config.kind == "muon" else _adam(config),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rate_scales(updates, config, backbone))),
        optax.scale_by_learning_rate(learning_rate_schedule(config, steps)),
    )
    if backbone is None or not backbone.frozen:
        return trained
    frozen = functools.partial(in_modules, names=("encoder", *backbone.frozen_with))
    return optax.partition({False: trained, True: optax.set_to_zero()}, frozen)


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, mu_dtype=jnp.float32)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Directions of descent like those of `_adam`: of the same size."""

    def dimensions(params: Any) -> Any:
        def of(path: tuple, leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
            *modules, name = (part.key for part in path)
            if not name.endswith("kernel") or leaf.ndim < 2 or "last" in modules:
                return None  # Muon is for hidden layers, whose kernels are matrices
            # Kernels with three axes are those of attention, from tokens to heads (C, A, K) or, as "out", back.
            inputs = 1 if leaf.ndim == 3 and modules[-1] != "out" else leaf.ndim - 1
            axes = tuple(range(leaf.ndim))
            return contrib.MuonDimensionNumbers(axes[:inputs], axes[inputs:])

        return jax.tree_util.tree_map_with_path(of, params)

    muon = contrib.muon(
        1.0,
        adam_b1=config.b1,
        adam_b2=config.b2,
        mu_dtype=jnp.float32,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=_ADAM_RMS,
    )
    return optax.chain(muon, optax.scale(-1.0))


def rate_scales(params: Any, config: OptimizerConfig, backbone: Backbone | None) -> Any:
    """Returns a tree of learning rates relative to that of the rest of the model.

    Counted from the output side, the backbone's last layer has encoder_scale * decay, the one before encoder_scale *
    decay^2, and so on (Bao et al., "BEiT").

    Raises:
      ValueError: there is a layer decay, and a module of the backbone is in none of its layers.
    """
    layers = () if backbone is None else backbone.layers
    depth = {name: len(layers) - i for i, names in enumerate(layers) for name in names}

    def scale(path: tuple, leaf: jax.Array) -> float:
        if backbone is None or path[0].key != "encoder":
            return 1.0
        if config.encoder_layer_decay == 1:
            return config.encoder_scale
        if path[1].key not in depth:
            raise ValueError(f"encoder_layer_decay: the encoder's module {path[1].key!r} is in none of its layers")
        return config.encoder_scale * config.encoder_layer_decay ** depth[path[1].key]

    return jax.tree_util.tree_map_with_path(scale, params)


def decayed(params: Any) -> Any:
    """Returns a tree of bools: True on kernels, False on biases, norms, embeddings, tokens and layer scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def in_modules(params: Any, names: tuple[str, ...]) -> Any:
    """Returns a tree of bools: True below the top-level modules of these names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in names, params)
