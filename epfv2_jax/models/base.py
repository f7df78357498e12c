"""The protocol `PoseModel`: all that training, checkpoints, inference, auto-labelling and evaluation use of a model.

A model is a Linen module with the fields `config`, `skeleton` and `layout`. `model.init(key, frames)` makes its
variables; `model.apply(variables, frames)` runs it on clips and
`model.apply(variables, frames, state, method="step")` on streams.
"""

import dataclasses
import functools
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from epfv2_jax import structs
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Frames, Predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """The registered encoder of a model. Its parameters lie in the model's top-level module `encoder`."""

    name: str  # key of models.encoders.ENCODERS
    layers: tuple[tuple[str, ...], ...]  # its parameter modules by depth, input side first
    frozen: bool = False  # not changed by training
    frozen_with: tuple[str, ...] = ()  # further top-level modules of the model that are frozen where the encoder is


class PoseModel(Protocol):
    """A causal model of body motion. A stream gives the predictions of the whole clip, for any chunking."""

    config: Any  # its own frozen dataclass, with a field `kind`: its key in models.MODELS
    skeleton: Skeleton  # J joints, in the order of the predictions
    layout: RigLayout  # V views, in the order of the frames

    @property
    def history(self) -> int | None:
        """Frame times of the data that a prediction depends on, its own included; None: the whole past."""

    @property
    def backbone(self) -> Backbone | None:
        """The registered encoder, for weight import and its own learning rates; None if there is none."""

    def initial_state(self, batch: int) -> Any:
        """Returns the state of `batch` streams before their first frame: a pytree with leading axes (B, ...)."""

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """Returns predictions for clips, each from the initial state; `train` uses and updates batch statistics."""

    def step(self, frames: Frames, state: Any, train: bool = False) -> tuple[Predictions, Any]:
        """Returns predictions for a chunk of T >= 1 frames, and the state after its last valid frame.

        Predictions at frames with `frame_valid` False are finite but meaningless.
        """


class SingleFrameModel(nn.Module):
    """Base class of models that use only the current frame: a subclass writes `__call__` only."""

    @property
    def history(self) -> int | None:
        """See `PoseModel`."""
        return 1

    @property
    def backbone(self) -> Backbone | None:
        """See `PoseModel`."""
        return None

    @nn.nowrap
    def initial_state(self, batch: int) -> Any:
        """See `PoseModel`."""
        return ()

    def step(self, frames: Frames, state: Any, train: bool = False) -> tuple[Predictions, Any]:
        """See `PoseModel`."""
        return self(frames, train), state


def reset(model: PoseModel, state: Any, where: jax.Array) -> Any:
    """Returns `state` with the streams selected by `where` (B,) bool set back to the initial state."""
    chex.assert_rank(where, 1)
    fresh = model.initial_state(where.shape[0])
    return jax.tree.map(lambda new, old: jnp.where(where.reshape(-1, *(1,) * (old.ndim - 1)), new, old), fresh, state)


def clean(frames: Frames) -> Frames:
    """Returns the frames with finite values under every mask.

    Masked values may be anything, even NaN: poses of invalid frames become the identity, images of invalid views become
    black, and views of invalid frames become invalid.
    """
    view_valid = frames.view_valid & frames.frame_valid[..., None]
    identity = jnp.broadcast_to(jnp.eye(4), frames.T_world_headset.shape)
    return frames.replace(
        images=jnp.where(view_valid[..., None, None], frames.images, jnp.zeros((), frames.images.dtype)),
        T_world_headset=jnp.where(frames.frame_valid[..., None, None], frames.T_world_headset, identity),
        view_valid=view_valid,
    )


def float_images(frames: Frames) -> jax.Array:
    """Returns the images (B, T, V, H, W) as float32 in [0, 1]; augmented images already are."""
    images = frames.images
    return images.astype(jnp.float32) / 255 if jnp.issubdtype(images.dtype, jnp.integer) else images


def check_frames(model: PoseModel, frames: Frames) -> None:
    """Raises unless the shapes of `frames` agree with each other and with the model's views.

    Raises:
      ValueError: the frames have another number of views than the model.
      AssertionError: shapes do not agree.
    """
    B, T, V = frames.view_valid.shape
    if model.layout.num_views != V:
        raise ValueError(
            f"frames: {V} views, but the model was built for the {model.layout.num_views} views of "
            f"{model.layout.name!r}; give it the data that it was trained on, or train it on these"
        )
    chex.assert_shape(frames.images, (B, T, V, None, None))
    chex.assert_shape(frames.T_world_headset, (B, T, 4, 4))
    chex.assert_shape(frames.rig.T_cam_headset, (B, V, 4, 4))
    chex.assert_shape([frames.frame_valid, frames.frame_gap], (B, T))


def abstract_variables(model: PoseModel, frames: Frames) -> Any:
    """Returns shapes and dtypes of the model's variables for frames of these shapes. Nothing is computed."""
    return _initialised.eval_shape(model, jax.random.key(0), structs.abstract(frames))[1]


def abstract_predictions(model: PoseModel, frames: Frames) -> Predictions:
    """Returns shapes and dtypes of the predictions for frames of these shapes. Nothing is computed."""
    return _initialised.eval_shape(model, jax.random.key(0), structs.abstract(frames))[0]


@functools.partial(jax.jit, static_argnums=0)  # traced once for each model and shape
def _initialised(model: PoseModel, key: jax.Array, frames: Frames) -> tuple[Predictions, Any]:
    return model.init_with_output(key, frames)


def predicts_distribution(model: PoseModel, image_size_hw: tuple[int, int]) -> bool:
    """Returns whether the model predicts a distribution for each joint."""
    frames = structs.blank_frames(1, 1, model.layout.num_views, image_size_hw)
    return abstract_predictions(model, frames).distribution is not None
