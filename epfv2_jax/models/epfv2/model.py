"""The model: encode the views -> propose a pose -> refine it; over a clip or as a stream, by one code path.

EgoPoseFormer v2 (arXiv 2603.04090), as far as it is public; each config field says where a choice is ours.
"""

import dataclasses
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from epfv2_jax.geometry import cameras, skeleton, transforms
from epfv2_jax.models import body as body_lib
from epfv2_jax.models import heads
from epfv2_jax.models.attention import position_code_2d
from epfv2_jax.models.encoders import ENCODERS, SCANNABLE
from epfv2_jax.models.epfv2.decoder import Decoder, TemporalBlock
from epfv2_jax.models.epfv2.query import HEADSET_VECTOR_SIZE, QueryToken, heading, headset_vector
from epfv2_jax.models.epfv2.temporal import KVCache, empty_cache
from epfv2_jax.structs import Frames, Predictions, Rig

# Projected keypoints further out than this, in half image sizes, say no more than that they are outside (our choice).
_MAX_NORMALIZED_UV = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model. The paper's ablations (1) to (5) are each one switch."""

    encoder: str = "resnet18"  # a key of models.encoders.ENCODERS
    # What training changes in the encoder: all of it; its weights but not its batch statistics; or nothing (frozen).
    encoder_train: Literal["all", "weights", "none"] = "all"
    drop_path: float = 0.0  # share of images that skip the encoder's deepest block in training; falls to 0 at its first
    num_views: int = 4
    num_joints: int = skeleton.NUM_JOINTS
    body: Literal["parametric", "keypoints"] = "parametric"  # ablation (1): "keypoints"
    temporal: bool = True  # ablation (2): False
    projection_conditioning: bool = True  # ablation (3): False
    auxiliary_input: bool = True  # ablation (4): False, the headset's pose is not told
    uncertainty: bool = True  # ablation (5): False
    temporal_position: Literal["decoder", "query"] = "decoder"  # "query": once, before the first decoder
    window: int = 16  # frame times that temporal attention sees, the current one included
    width: int = 128  # C
    heads: int = 4  # our choice
    ffn_width: int = 512  # our choice
    head_width: int = 256  # hidden layer of the heads; our choice
    depth: int = 1  # layers of each decoder
    rope_base: float = 100.0  # slowest rotary pair: about 1 / base radians a frame; our choice for windows of tens
    image_mean: float = 0.45  # of images in [0, 1]; our choice
    image_std: float = 0.225
    dtype: Literal["float32", "bfloat16"] = "float32"  # of encoder and decoders; heads and geometry are always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False  # recompute encoder blocks in the backward pass: less memory, more time
    scan_layers: bool = False  # one loop over the encoder's blocks: compiles faster; the parameters are the same

    def __post_init__(self):
        choices = {
            "encoder": tuple(ENCODERS),
            "encoder_train": ("all", "weights", "none"),
            "body": tuple(body_lib.BODIES),
            "temporal_position": ("decoder", "query"),
            "dtype": ("float32", "bfloat16"),
            "param_dtype": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        for name in ("num_views", "num_joints", "window", "width", "heads", "ffn_width", "head_width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(
                f"width: {self.width} must be a multiple of 4 (2D position code) and of 2 x heads = {2 * self.heads} "
                "(RoPE turns pairs of channels)"
            )
        if self.body == "parametric" and self.num_joints != skeleton.NUM_JOINTS:
            raise ValueError(
                f"num_joints: the parametric body has {skeleton.NUM_JOINTS}, not {self.num_joints}; use 'keypoints'"
            )
        if self.scan_layers and self.encoder not in SCANNABLE:
            raise ValueError(
                f"scan_layers: the blocks of {self.encoder!r} are not all alike; those of {', '.join(SCANNABLE)} are"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path: must be in [0, 1), got {self.drop_path}")
        for name in ("rope_base", "image_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be positive, got {getattr(self, name)}")

    @property
    def num_caches(self) -> int:
        """Temporal attention layers in the whole model."""
        if not self.temporal:
            return 0
        return 1 if self.temporal_position == "query" else 2 * self.depth


class StreamState(struct.PyTreeNode):
    """What a stream remembers between chunks; immutable. Leading axis B: each person is a stream of their own."""

    caches: tuple[KVCache, ...]  # one a temporal attention layer, in the order in which they run
    T_world_headset: jax.Array  # (B, 4, 4) of the newest valid frame
    started: jax.Array  # (B,) bool, whether there was one


def initial_state(config: ModelConfig, batch: int) -> StreamState:
    """Returns the state of `batch` streams that have seen nothing."""
    cache = empty_cache(batch, config.window, config.heads, config.width // config.heads, jnp.dtype(config.dtype))
    return StreamState(
        caches=(cache,) * config.num_caches,
        T_world_headset=jnp.broadcast_to(jnp.eye(4), (batch, 4, 4)),
        started=jnp.zeros((batch,), bool),
    )


def reset(config: ModelConfig, state: StreamState, where: jax.Array) -> StreamState:
    """Returns `state` with the streams selected by `where` (B,) bool as if they had seen nothing."""
    chex.assert_shape(where, state.started.shape)
    fresh = initial_state(config, where.shape[0])
    return jax.tree.map(lambda new, old: jnp.where(where.reshape(-1, *(1,) * (old.ndim - 1)), new, old), fresh, state)


class EPFv2(nn.Module):
    """The model. `__call__` on a clip is `step` from an empty state; every output at a frame sees no later frame."""

    config: ModelConfig

    def setup(self):
        config = self.config
        dtypes = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
        temporal = {"heads": config.heads, "window": config.window, "rope_base": config.rope_base, **dtypes}
        in_decoder = config.temporal and config.temporal_position == "decoder"
        decoder = {"depth": config.depth, "ffn_width": config.ffn_width, "temporal": in_decoder, **temporal}
        head = {"hidden_width": config.head_width, "param_dtype": dtypes["param_dtype"]}
        self.body = body_lib.BODIES[config.body](config.num_joints)

        self.encoder = ENCODERS[config.encoder](
            remat=config.remat,
            drop_path=config.drop_path,
            frozen_statistics=config.encoder_train != "all",
            **({"scan_layers": True} if config.scan_layers else {}),
            **dtypes,
        )
        self.to_tokens = nn.Dense(config.width, **dtypes)
        self.query = QueryToken(config.width, **dtypes)
        if config.temporal and config.temporal_position == "query":
            self.query_temporal = TemporalBlock(**temporal)
        self.proposal_decoder = Decoder(**decoder)
        self.proposal_head = heads.Head(self.body.num_parameters, **head)
        if config.projection_conditioning:
            self.projection_hidden = nn.Dense(config.width, **dtypes)
            self.projection_out = nn.Dense(config.width, **dtypes)
        self.refinement_decoder = Decoder(**decoder)
        self.refinement_head = heads.Head(self.body.num_parameters, **head)
        if config.uncertainty:
            self.uncertainty_head = heads.Head(6 * config.num_joints, **head)

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """Returns predictions for clips, each from an empty state; `train` uses and updates batch statistics."""
        predictions, _ = self.step(frames, initial_state(self.config, frames.frame_valid.shape[0]), train)
        return predictions

    def step(self, frames: Frames, state: StreamState, train: bool = False) -> tuple[Predictions, StreamState]:
        """Returns predictions for a chunk of any length T >= 1 and the state after its last valid frame.

        Chunks of any lengths, one after the other, give what the whole clip gives. Predictions at frames with
        `frame_valid` False are finite and meaningless.
        """
        self._check(frames)
        # What lies under a mask may be anything, NaN too: it is replaced before it is used.
        identity = jnp.broadcast_to(jnp.eye(4), frames.T_world_headset.shape)
        T_world_headset = jnp.where(frames.frame_valid[..., None, None], frames.T_world_headset, identity)
        frames = frames.replace(
            T_world_headset=T_world_headset, view_valid=frames.view_valid & frames.frame_valid[..., None]
        )
        tokens = self.encode(frames, train)
        return self.decode(tokens, frames, state)

    def encode(self, frames: Frames, train: bool = False) -> jax.Array:
        """Returns features (B, T, V, h, w, C) of the views; the views share one encoder and fold into its batch."""
        B, T, V, H, W = frames.images.shape
        view_valid = frames.view_valid & frames.frame_valid[..., None]
        images = jnp.where(view_valid[..., None, None], frames.images, jnp.zeros((), frames.images.dtype))
        if jnp.issubdtype(images.dtype, jnp.integer):
            images = images.astype(jnp.float32) / 255
        images = (images - self.config.image_mean) / self.config.image_std
        frozen = self.config.encoder_train == "none"
        features = self.encoder(images.reshape(B * T * V, H, W, 1), train and not frozen, view_valid.reshape(-1))
        if frozen:
            features = jax.lax.stop_gradient(features)
        features = self.to_tokens(features)
        return features.reshape(B, T, V, *features.shape[1:])

    def decode(self, features: jax.Array, frames: Frames, state: StreamState) -> tuple[Predictions, StreamState]:
        """Returns predictions and the next state from features (B, T, V, h, w, C): everything after the encoder."""
        B, T, V, h, w, C = features.shape
        values = features.reshape(B, T, V, h * w, C)
        code = jnp.asarray(position_code_2d(h, w, C), values.dtype)
        keys = values + jnp.broadcast_to(code, values.shape)  # positions on keys only
        caches = list(state.caches)
        masks = (frames.view_valid, frames.frame_valid, frames.frame_gap)

        token, state_pose = self._query(frames, state)
        if self.config.temporal and self.config.temporal_position == "query":
            token, caches[0] = self.query_temporal(token, *masks[1:], caches[0])
        layers = slice(0, self.config.depth), slice(self.config.depth, 2 * self.config.depth)

        token, new = self.proposal_decoder(token, keys, values, None, *masks, tuple(caches[layers[0]]))
        if new:
            caches[layers[0]] = new
        parameters = self.proposal_head(token)
        with jax.default_matmul_precision("highest"):
            R_headset_level = self._level(frames.T_world_headset)
            proposal_joints_m, _ = self.body.joints(parameters, R_headset_level)

        # No stop_gradient anywhere: the refinement teaches the proposal through projection, token and sum.
        conditioning = self._projection(proposal_joints_m, frames.rig) if self.config.projection_conditioning else None
        token, new = self.refinement_decoder(token, keys, values, conditioning, *masks, tuple(caches[layers[1]]))
        if new:
            caches[layers[1]] = new
        with jax.default_matmul_precision("highest"):
            joints_m, body = self.body.joints(parameters + self.refinement_head(token), R_headset_level)
        cholesky_m = None
        if self.config.uncertainty:
            raw = self.uncertainty_head(token).reshape(B, T, self.config.num_joints, 6)
            cholesky_m = heads.cholesky_from_raw(raw)

        predictions = Predictions(
            joints_headset_m=joints_m,
            proposal_joints_headset_m=proposal_joints_m,
            cholesky_m=cholesky_m,
            body=body,
        )
        return predictions, state_pose.replace(caches=tuple(caches))

    def _query(self, frames: Frames, state: StreamState) -> tuple[jax.Array, StreamState]:
        """The query token (B, T, C), and `state` with the headset pose of the newest valid frame."""
        B, T = frames.frame_valid.shape
        poses = jnp.concatenate([state.T_world_headset[:, None], frames.T_world_headset], axis=1)
        # Padding only trails valid frames, so the frame before a valid one is valid, or the stream's newest.
        seen = jnp.concatenate([state.started[:, None], frames.frame_valid], axis=1)
        vector = None
        if self.config.auxiliary_input:
            recent = frames.frame_gap < self.config.window  # a motion over a longer gap says nothing: a new start
            with jax.default_matmul_precision("highest"):
                vector = headset_vector(poses[:, 1:], poses[:, :-1], seen[:, :-1] & recent, frames.frame_gap)
            chex.assert_shape(vector, (B, T, HEADSET_VECTOR_SIZE))
        newest = frames.frame_valid.sum(axis=1, dtype=jnp.int32)[:, None, None, None]
        pose = jnp.take_along_axis(poses, newest, axis=1)[:, 0]
        return self.query(vector, (B, T)), state.replace(T_world_headset=pose, started=seen.any(axis=1))

    def _level(self, T_world_headset: jax.Array) -> jax.Array:
        """R_headset_level (B, T, 3, 3): from the headset's upright frame (see `models.body`) to its own."""
        R_world_headset = T_world_headset[..., :3, :3]
        if not self.config.auxiliary_input:
            return jnp.broadcast_to(jnp.eye(3), R_world_headset.shape)
        return jnp.swapaxes(R_world_headset, -1, -2) @ heading(R_world_headset)

    def _projection(self, joints_headset_m: jax.Array, rig: Rig) -> jax.Array:
        """The conditioning (B, T, V, C) of the second decoder: an MLP of the proposal's keypoints as seen by each view.

        A keypoint gives (u, v) in [-1, 1] over the image and a 1, or a clamped place and a 0 where the lens cannot see
        it.
        """
        B, T, J, _ = joints_headset_m.shape
        V = self.config.num_views
        with jax.default_matmul_precision("highest"):
            joints_cam_m = transforms.apply(rig.T_cam_headset[:, None], joints_headset_m[:, :, None])
            camera = jax.tree.map(lambda x: x[:, None], rig.cameras)
            uv_px, valid = cameras.project(camera, joints_cam_m)
            uv = cameras.normalized_uv(camera, uv_px)
        chex.assert_shape(uv, (B, T, V, J, 2))
        uv = jnp.clip(uv, -_MAX_NORMALIZED_UV, _MAX_NORMALIZED_UV)
        seen = jnp.concatenate([uv, valid[..., None].astype(uv.dtype)], axis=-1).reshape(B, T, V, 3 * J)
        return self.projection_out(nn.gelu(self.projection_hidden(seen)))

    def _check(self, frames: Frames) -> None:
        B, T, V = frames.view_valid.shape
        if self.config.num_views != V:
            raise ValueError(
                f"the frames have {V} views, the model num_views = {self.config.num_views}; change one of them"
            )
        chex.assert_shape(frames.images, (B, T, V, None, None))
        chex.assert_shape(frames.T_world_headset, (B, T, 4, 4))
        chex.assert_shape(frames.rig.T_cam_headset, (B, V, 4, 4))
        chex.assert_shape([frames.frame_valid, frames.frame_gap], (B, T))


def scan_frames(
    model: EPFv2, variables: Any, frames: Frames, state: StreamState | None = None, chunk: int = 1
) -> tuple[Predictions, StreamState]:
    """Returns predictions (B, T, ...) and the last state of streaming: a `lax.scan` over chunks of `chunk` frames.

    Compiles one chunk whatever T, and needs the memory of one.

    Args:
      model: the model.
      variables: its parameters and batch statistics.
      frames: clips (B, T, ...); `chunk` divides T.
      state: where the streams stand; None for empty ones.

    Raises:
      ValueError: `chunk` does not divide T.
    """
    B, T = frames.frame_valid.shape
    if chunk < 1 or T % chunk:
        raise ValueError(f"chunk: {chunk} does not divide the {T} frames of the clip; pad it with frame_valid False")
    state = initial_state(model.config, B) if state is None else state
    rig = frames.rig
    in_time = frames.replace(rig=None)  # the rig has no time axis

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(B, T // chunk, chunk, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(B, T, *x.shape[3:])

    def body(state: StreamState, part: Frames) -> tuple[StreamState, Predictions]:
        predictions, state = model.apply(variables, part.replace(rig=rig), state, method="step")
        return state, predictions

    state, predictions = jax.lax.scan(body, state, jax.tree.map(split, in_time))
    return jax.tree.map(join, predictions), state
