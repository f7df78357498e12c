"""An LSTM over pooled features of the views, in the spirit of the tracker of EgoBody3M (ECCV 2024).

Of that network only the idea is public: multi-view latent features, an LSTM over time, no geometry of cameras. Every
size below, the pooling, and what the headset's pose tells the model are our choice: this is not its exact network.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from epfv2_jax.core import checks
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models import base, contrast, heads, headset
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.structs import Frames, Predictions

Carry = tuple[jax.Array, jax.Array]  # cell and hidden state (B, C) each


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Configures the LSTM baseline. All sizes are our choice."""

    kind: str = "lstm"

    encoder: str = "resnet18"  # a key of models.encoders.ENCODERS, shared by the views
    # What training changes in the encoder: everything; its weights but not its batch statistics; or nothing (frozen).
    encoder_train: Literal["all", "weights", "none"] = "all"
    drop_path: float = 0.0  # share of images that skip the encoder's deepest block in training; 0 at the first block
    view_width: int = 128  # of the latent of a view
    width: int = 512  # of the LSTM
    head_width: int = 256  # hidden layer of the head
    headset_pose: bool = True  # tilt, height and motion of the headset are inputs, as EPFv2's auxiliary input
    longest_gap: int = 15  # frame times; after a longer gap the stream begins anew
    # Side of the window of local contrast normalisation, in image heights; 0: mean and deviation below.
    local_contrast: float = 0.0
    image_mean: float = 0.45  # of images in [0, 1]
    image_std: float = 0.225  # likewise
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the encoder; LSTM and head are always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights
    remat: bool = False  # recompute encoder blocks in the backward pass: less memory, more time

    def __post_init__(self):
        checks.one_of(ENCODERS, encoder=self.encoder)
        checks.one_of(("all", "weights", "none"), encoder_train=self.encoder_train)
        checks.one_of(("float32", "bfloat16"), dtype=self.dtype, param_dtype=self.param_dtype)
        checks.at_least(1, view_width=self.view_width, width=self.width, head_width=self.head_width)
        checks.at_least(1, longest_gap=self.longest_gap)
        checks.above(0, image_std=self.image_std)
        checks.below_one(drop_path=self.drop_path)
        checks.within(0, 1, local_contrast=self.local_contrast)


class LSTMState(struct.PyTreeNode):
    """What B streams, one per person, remember between chunks; immutable. Zeros before the first frame."""

    cell: jax.Array  # (B, C) float32
    hidden: jax.Array  # (B, C) float32
    T_world_headset: jax.Array  # (B, 4, 4) of the newest valid frame
    started: jax.Array  # (B,) bool, whether there was a valid frame


class LSTM(nn.Module):
    """The LSTM baseline, a `PoseModel`: encoder, pooled latent of each view, LSTM, MLP, keypoints about the rest pose.

    Time is known to it as the number of frames. Where frames were dropped, the logarithm of the gap is an input, zero
    where none was; after more than `longest_gap` frame times the stream begins anew.
    """

    config: LSTMConfig
    skeleton: Skeleton
    layout: RigLayout

    @property
    def history(self) -> int | None:
        """None: the carry holds the whole past."""
        return None

    @property
    def backbone(self) -> base.Backbone:
        """The image encoder."""
        encoder = ENCODERS[self.config.encoder]()
        return base.Backbone(
            name=self.config.encoder, layers=encoder.layers, frozen=self.config.encoder_train == "none"
        )

    @nn.nowrap
    def initial_state(self, batch: int) -> LSTMState:
        """Returns the state of `batch` streams before their first frame."""
        carry = jnp.zeros((batch, self.config.width))
        return LSTMState(
            cell=carry, hidden=carry, T_world_headset=jnp.zeros((batch, 4, 4)), started=jnp.zeros((batch,), bool)
        )

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """Returns predictions for clips, each from the initial state; `train` uses and updates batch statistics."""
        return self.step(frames, self.initial_state(frames.frame_valid.shape[0]), train)[0]

    @nn.compact
    def step(self, frames: Frames, state: LSTMState, train: bool = False) -> tuple[Predictions, LSTMState]:
        """See `PoseModel`."""
        config = self.config
        base.check_frames(self, frames)
        frames = base.clean(frames)
        B, T, V = frames.view_valid.shape
        latent = self._latents(frames, train).reshape(B, T, V * config.view_width)
        vectors, pose, started = headset.follow(frames, state.T_world_headset, state.started, config.longest_gap)
        gap = jnp.clip(frames.frame_gap, 1, config.longest_gap).astype(jnp.float32)
        inputs = [latent, jnp.log2(gap)[..., None], *([vectors] if config.headset_pose else [])]
        in_time = jnp.concatenate(inputs, axis=-1), frames.frame_valid, frames.frame_gap > config.longest_gap
        (cell, hidden), seen = self._over_time((state.cell, state.hidden), *in_time)

        head = heads.Head(3 * self.skeleton.num_joints, config.head_width, jnp.dtype(config.param_dtype), name="head")
        offsets_m = head(seen).reshape(B, T, -1, 3)
        joints_m = offsets_m + jnp.broadcast_to(self.skeleton.rest_joints_headset_m(), offsets_m.shape)
        after = LSTMState(cell=cell, hidden=hidden, T_world_headset=pose, started=started)
        return Predictions(joints_headset_m=joints_m), after

    def _latents(self, frames: Frames, train: bool) -> jax.Array:
        """Returns the latent (B, T, V, view_width) of each view; zeros for invalid views."""
        config = self.config
        B, T, V, H, W = frames.images.shape
        images = base.float_images(frames).reshape(B * T * V, H, W)
        if config.local_contrast > 0:
            images = contrast.normalize(images, config.local_contrast)
        else:
            images = (images - config.image_mean) / config.image_std
        frozen = config.encoder_train == "none"
        dtypes = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
        features = ENCODERS[config.encoder](
            name="encoder",
            remat=config.remat,
            drop_path=config.drop_path,
            frozen_statistics=config.encoder_train != "all",
            **dtypes,
        )(images[..., None], train and not frozen, frames.view_valid.reshape(-1))[-1]
        if frozen:
            features = jax.lax.stop_gradient(features)
        pooled = features.astype(jnp.float32).mean((1, 2)).reshape(B, T, V, -1)
        param_dtype = dtypes["param_dtype"]
        latent = nn.gelu(nn.Dense(config.view_width, dtype=jnp.float32, param_dtype=param_dtype, name="latent")(pooled))
        return jnp.where(frames.view_valid[..., None], latent, 0.0)

    def _over_time(
        self, carry: Carry, inputs: jax.Array, valid: jax.Array, restart: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Returns the carry after the last valid frame, and the outputs (B, T, C); inputs (B, T, ...)."""
        settings = {"width": self.config.width, "param_dtype": jnp.dtype(self.config.param_dtype), "name": "lstm"}
        if inputs.shape[1] == 1:  # no loop, so that an exported graph of one frame holds none
            carry, seen = _Cell(**settings)(carry, inputs[:, 0], valid[:, 0], restart[:, 0])
            return carry, seen[:, None]
        in_time = nn.scan(_Cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        return in_time(**settings)(carry, inputs, valid, restart)


class _Cell(nn.Module):
    """Returns the next carry and the output (B, C) of one frame. An invalid frame leaves the carry as it is."""

    width: int
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, carry: Carry, inputs: jax.Array, valid: jax.Array, restart: jax.Array
    ) -> tuple[Carry, jax.Array]:
        before = tuple(jnp.where(restart[:, None], 0.0, x) for x in carry)
        cell = nn.OptimizedLSTMCell(self.width, dtype=jnp.float32, param_dtype=self.param_dtype, name="cell")
        after, seen = cell(before, inputs)
        return tuple(jnp.where(valid[:, None], new, old) for new, old in zip(after, carry, strict=True)), seen
