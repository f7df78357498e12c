"""The model: encode the views -> propose a pose -> refine it; one code path for clips and streams.

EgoPoseFormer v2 (arXiv 2603.04090), as far as it is public; the config fields say which choices are ours.
"""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from epfv2_jax.core import checks
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models import base, contrast, heads, headset
from epfv2_jax.models.attention import position_code_2d
from epfv2_jax.models.bodies import BODIES
from epfv2_jax.models.encoders import ENCODERS, SCANNABLE
from epfv2_jax.models.epfv2.decoder import Decoder, TemporalBlock, ViewTokens
from epfv2_jax.models.epfv2.query import QueryToken
from epfv2_jax.models.epfv2.temporal import KVCache, empty_cache
from epfv2_jax.structs import Frames, Predictions, Rig, StudentT

# Projected keypoints are clamped to this distance from the image centre, in half image sizes (our choice).
_MAX_NORMALIZED_UV = 3.0
# Pixels per cell of the maps of limbs, along each axis, where the encoder's cells are not smaller (our choice).
_LIMB_CELL_PX = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class EPFv2Config:
    """Configures EgoPoseFormer v2. Each of the paper's ablations (1) to (5) is one switch."""

    kind: str = "epfv2"

    encoder: str = "resnet18"  # a key of models.encoders.ENCODERS
    # What training changes in the encoder: everything; its weights but not its batch statistics; or nothing (frozen).
    encoder_train: Literal["all", "weights", "none"] = "all"
    drop_path: float = 0.0  # share of images that skip the encoder's deepest block in training; 0 at the first block
    body: str = "parametric"  # a key of models.bodies.BODIES; ablation (1): "keypoints"
    temporal: bool = True  # ablation (2): False
    projection_conditioning: bool = True  # ablation (3): False
    auxiliary_input: bool = True  # ablation (4): False, the headset's pose is not an input
    uncertainty: bool = True  # ablation (5): False
    degrees_of_freedom: float = 4.0  # nu of the predicted Student-t; our choice
    temporal_position: Literal["decoder", "query"] = "decoder"  # "query": once, before the first decoder
    window: int = 16  # frame times that temporal attention sees, the current one included
    width: int = 128  # C
    heads: int = 4  # our choice
    ffn_width: int = 512  # our choice
    head_width: int = 256  # hidden layer of the heads; our choice
    depth: int = 1  # layers of each decoder
    rope_base: float = 100.0  # slowest rotary pair: about 1 / base radians a frame; our choice for windows of tens
    # In training, also find the limbs in the images: the objective's `limb_weight`. Our choice, for encoders that start
    # from nothing: they learn sooner what an arm looks like.
    limb_maps: bool = False
    # Side of the window of local contrast normalisation, in image heights; 0: mean and deviation below. Our choice: it
    # teaches an encoder that starts from nothing much faster, and is not what imported weights expect.
    local_contrast: float = 0.0
    image_mean: float = 0.45  # of images in [0, 1]; our choice
    image_std: float = 0.225  # likewise
    dtype: Literal["float32", "bfloat16"] = "float32"  # of encoder and decoders; heads and geometry are always float32
    param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights
    remat: bool = False  # recompute encoder blocks in the backward pass: less memory, more time
    scan_layers: bool = False  # one loop over the encoder's blocks: compiles faster; the parameters are the same

    def __post_init__(self):
        checks.one_of(ENCODERS, encoder=self.encoder)
        checks.one_of(("all", "weights", "none"), encoder_train=self.encoder_train)
        checks.one_of(BODIES, body=self.body)
        checks.one_of(("decoder", "query"), temporal_position=self.temporal_position)
        checks.one_of(("float32", "bfloat16"), dtype=self.dtype, param_dtype=self.param_dtype)
        checks.at_least(1, window=self.window, width=self.width, heads=self.heads, ffn_width=self.ffn_width)
        checks.at_least(1, head_width=self.head_width, depth=self.depth)
        checks.above(0, rope_base=self.rope_base, image_std=self.image_std, degrees_of_freedom=self.degrees_of_freedom)
        checks.below_one(drop_path=self.drop_path)
        checks.within(0, 1, local_contrast=self.local_contrast)
        if self.width % (2 * self.heads) or self.width % 4:
            raise ValueError(
                f"width: {self.width} must be a multiple of 4 (2D position code) and of 2 x heads = {2 * self.heads} "
                "(RoPE rotates pairs of channels)"
            )
        if self.scan_layers and self.encoder not in SCANNABLE:
            raise ValueError(
                f"scan_layers: the blocks of {self.encoder!r} are not all alike; use one of {', '.join(SCANNABLE)}, or "
                "turn scan_layers off"
            )

    @property
    def num_caches(self) -> int:
        """Temporal attention layers in the whole model."""
        if not self.temporal:
            return 0
        return 1 if self.temporal_position == "query" else 2 * self.depth


class StreamState(struct.PyTreeNode):
    """What B streams, one per person, remember between chunks; immutable."""

    caches: tuple[KVCache, ...]  # one per temporal attention layer, in the order in which they run
    T_world_headset: jax.Array  # (B, 4, 4) of the newest valid frame
    started: jax.Array  # (B,) bool, whether there was a valid frame


class EPFv2(nn.Module):
    """EgoPoseFormer v2, a `PoseModel`: `__call__` on a clip is `step` from an empty state."""

    config: EPFv2Config
    skeleton: Skeleton
    layout: RigLayout

    @property
    def history(self) -> int | None:
        """Frame times that a prediction depends on, its own included.

        The windows of the temporal layers add up, and the headset's motion reaches one frame further back.
        """
        return (self.config.num_caches + 1) * (self.config.window - 1) + 1

    @property
    def backbone(self) -> base.Backbone:
        """The image encoder."""
        encoder = ENCODERS[self.config.encoder]()
        return base.Backbone(
            name=self.config.encoder, layers=encoder.layers, frozen=self.config.encoder_train == "none"
        )

    @nn.nowrap
    def initial_state(self, batch: int) -> StreamState:
        """Returns the state of `batch` streams before their first frame."""
        config = self.config
        cache = empty_cache(batch, config.window, config.heads, config.width // config.heads, jnp.dtype(config.dtype))
        return StreamState(
            caches=(cache,) * config.num_caches,
            T_world_headset=jnp.broadcast_to(jnp.eye(4), (batch, 4, 4)),
            started=jnp.zeros((batch,), bool),
        )

    def setup(self):
        config = self.config
        dtypes = {"dtype": jnp.dtype(config.dtype), "param_dtype": jnp.dtype(config.param_dtype)}
        temporal = {"heads": config.heads, "window": config.window, "rope_base": config.rope_base, **dtypes}
        in_decoder = config.temporal and config.temporal_position == "decoder"
        decoder = {"depth": config.depth, "ffn_width": config.ffn_width, "temporal": in_decoder, **temporal}
        head = {"hidden_width": config.head_width, "param_dtype": dtypes["param_dtype"]}
        self.body = BODIES[config.body](self.skeleton)

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
            self.uncertainty_head = heads.Head(6 * self.skeleton.num_joints, **head)
        if config.limb_maps:
            remedy = "use a skeleton with long bones on both sides, or set model.limb_maps = False"
            checks.not_empty(f"limbs of the skeleton {self.skeleton.name!r}", self.skeleton.limbs, remedy)
            cells = max(1, self.encoder.strides[-1] // _LIMB_CELL_PX)
            self.limb_head = heads.MapHead(len(self.skeleton.limbs), cells, param_dtype=dtypes["param_dtype"])

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """Returns predictions for clips, each from the initial state; `train` uses and updates batch statistics."""
        predictions, _ = self.step(frames, self.initial_state(frames.frame_valid.shape[0]), train)
        return predictions

    def step(self, frames: Frames, state: StreamState, train: bool = False) -> tuple[Predictions, StreamState]:
        """Returns predictions for a chunk of any length T >= 1 and the state after its last valid frame.

        Consecutive chunks of any lengths give the predictions of the whole clip. Predictions at frames with
        `frame_valid` False are finite but meaningless.
        """
        base.check_frames(self, frames)
        frames = base.clean(frames)
        tokens = self.encode(frames, train)
        predictions, state = self.decode(tokens, frames, state)
        if self.config.limb_maps and (train or self.is_initializing()):
            predictions = predictions.replace(limb_logits=self.limb_head(tokens))
        return predictions, state

    def encode(self, frames: Frames, train: bool = False) -> jax.Array:
        """Returns features (B, T, V, h, w, C) of the views, all encoded in one batch by one encoder.

        The frames must be clean, see `models.base.clean`.
        """
        B, T, V, H, W = frames.images.shape
        images = base.float_images(frames).reshape(B * T * V, H, W)
        if self.config.local_contrast > 0:
            images = contrast.normalize(images, self.config.local_contrast)
        else:
            images = (images - self.config.image_mean) / self.config.image_std
        frozen = self.config.encoder_train == "none"
        maps = self.encoder(images[..., None], train and not frozen, frames.view_valid.reshape(-1))
        features = maps[-1]
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
        views = ViewTokens(keys=keys, values=values, valid=frames.view_valid)
        masks = (frames.frame_valid, frames.frame_gap)

        token, state_pose = self._query(frames, state)
        if self.config.temporal and self.config.temporal_position == "query":
            token, caches[0] = self.query_temporal(token, *masks, caches[0])
        layers = slice(0, self.config.depth), slice(self.config.depth, 2 * self.config.depth)

        token, new = self.proposal_decoder(token, views, None, *masks, tuple(caches[layers[0]]))
        if new:
            caches[layers[0]] = new
        parameters = self.proposal_head(token)
        with jax.default_matmul_precision("highest"):
            R_headset_level = self._level(frames.T_world_headset)
            proposal_joints_m, _ = self.body.joints(parameters, R_headset_level)

        # No stop_gradient: the refinement's gradient reaches the proposal through projection, token and sum.
        conditioning = self._projection(proposal_joints_m, frames.rig) if self.config.projection_conditioning else None
        token, new = self.refinement_decoder(token, views, conditioning, *masks, tuple(caches[layers[1]]))
        if new:
            caches[layers[1]] = new
        with jax.default_matmul_precision("highest"):
            joints_m, body = self.body.joints(parameters + self.refinement_head(token), R_headset_level)
        distribution = None
        if self.config.uncertainty:
            raw = self.uncertainty_head(token).reshape(B, T, self.skeleton.num_joints, 6)
            distribution = StudentT(
                cholesky_m=heads.cholesky_from_raw(raw), degrees_of_freedom=self.config.degrees_of_freedom
            )

        predictions = Predictions(
            joints_headset_m=joints_m,
            intermediate_joints_m={"proposal": proposal_joints_m},
            distribution=distribution,
            body=body,
        )
        return predictions, state_pose.replace(caches=tuple(caches))

    def _query(self, frames: Frames, state: StreamState) -> tuple[jax.Array, StreamState]:
        """Returns the query token (B, T, C), and `state` with the headset pose of the newest valid frame."""
        # Motion over a gap as long as the window is ignored, as at the start.
        vectors, pose, started = headset.follow(frames, state.T_world_headset, state.started, self.config.window - 1)
        token = self.query(vectors if self.config.auxiliary_input else None, frames.frame_valid.shape)
        return token, state.replace(T_world_headset=pose, started=started)

    def _level(self, T_world_headset: jax.Array) -> jax.Array:
        """Returns R_headset_level (B, T, 3, 3), from the level frame (see `models.bodies`) to the headset frame."""
        R_world_headset = T_world_headset[..., :3, :3]
        if not self.config.auxiliary_input:
            return jnp.broadcast_to(jnp.eye(3), R_world_headset.shape)
        return jnp.swapaxes(R_world_headset, -1, -2) @ headset.heading(R_world_headset)

    def _projection(self, joints_headset_m: jax.Array, rig: Rig) -> jax.Array:
        """Returns the conditioning (B, T, V, C) of the second decoder: an MLP of the proposal projected into each view.

        A joint gives (u, v), in [-1, 1] inside the image and clamped to [-3, 3], and 1, or 0 if the lens cannot see it.
        """
        B, T, J, _ = joints_headset_m.shape
        V = self.layout.num_views
        with jax.default_matmul_precision("highest"):
            joints_cam_m = transforms.apply(rig.T_cam_headset[:, None], joints_headset_m[:, :, None])
            camera = jax.tree.map(lambda x: x[:, None], rig.cameras)
            uv_px, valid = cameras.project(camera, joints_cam_m)
            uv = cameras.normalized_uv(camera, uv_px)
        chex.assert_shape(uv, (B, T, V, J, 2))
        uv = jnp.clip(uv, -_MAX_NORMALIZED_UV, _MAX_NORMALIZED_UV)
        seen = jnp.concatenate([uv, valid[..., None].astype(uv.dtype)], axis=-1).reshape(B, T, V, 3 * J)
        return self.projection_out(nn.gelu(self.projection_hidden(seen)))
