"""The optimizer: AdamW with warm-up and cosine decay, gradient clipping and a learning-rate scale for the encoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. All values are our choice where the paper is silent."""

    learning_rate: float = 1e-3  # peak
    warmup_steps: int = 500
    final_fraction: float = 0.01  # of the peak, at the last step
    weight_decay: float = 1e-2  # on matrices and kernels only
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    encoder_scale: float = 1.0  # the encoder's learning rate relative to the rest

    def __post_init__(self):
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "encoder_scale", "final_fraction"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


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


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns the gradient transformation for a run of `steps` steps."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, mu_dtype=jnp.float32),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.masked(optax.scale(config.encoder_scale), in_encoder),
        optax.scale_by_learning_rate(learning_rate_schedule(config, steps)),
    )


def decayed(params: Any) -> Any:
    """Returns a tree of bools: True on kernels (two axes or more), False on biases, norms, embeddings of one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def in_encoder(params: Any) -> Any:
    """Returns a tree of bools: True below the top-level module `encoder`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "encoder", params)
