"""The model: encoder and neck -> a pose from pooled features -> layers that look where its joints project to.

EgoPoseFormer v1 (Yang et al., ECCV 2024), after its public code (ChenhongyiYang/egoposeformer). Each frame for itself.
It is trained in two stages: encoder and neck by the objective "heatmap", with `heatmap_head`; then all by the objective
"distances", from the first stage's modules `encoder` and `neck` (`init_from`, `init_modules`).

Our choice where the original has two cameras of UnrealEgo and poses relative to a pelvis that is given at test time
too: poses are in the headset frame and metres (centimetres inside, as in the original), project with the cameras of
the rig, and their number of views and joints is that of the data. A joint counts as seen in a view that is valid, if
the lens can see it and it lies in the image.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from epfv2_jax.core import checks
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models import base, contrast
from epfv2_jax.models.baselines.egoposeformer_v1.layers import KERNEL_INIT, StereoLayer, Views, dense, layer_norm
from epfv2_jax.models.baselines.egoposeformer_v1.neck import Neck
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.structs import Frames, Predictions

#: From joints (N, J, 3), metres, to their places (N, V, J, 2) in the images, x right and y down, from 0 to 1, and
#: whether each view has the joint in it, (N, V, J) bool.
Projection = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

#: Poses are in centimetres inside the network.
CM_PER_M = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EPFv1Config:
    """The network's sizes, by default those of the paper."""

    kind: str = "epfv1"

    encoder: str = "resnet18"  # a key of models.encoders.ENCODERS; the layers look at its finest stride
    width: int = 128  # C of neck and layers
    proposal_width: int = 1024  # of the two hidden layers of the first pose
    depth: int = 3  # layers
    heads: int = 4  # of each attention
    points: int = 16  # that each head samples in each view
    ffn_width: int = 512  # hidden layer of each feed-forward network
    heatmap_head: bool = False  # predict heatmaps: True in the first stage
    heatmap_joints: tuple[str, ...] = ()  # the K joints that have heatmaps, in this order; (): all
    # Input normalisation as in EPFv2; see EPFv2Config. The original has ImageNet's mean and deviation of each colour.
    local_contrast: float = 0.0
    image_mean: float = 0.45  # of images in [0, 1]
    image_std: float = 0.225  # likewise
    # Of encoder, neck and all that is computed for each cell; poses, queries and geometry are always float32.
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        checks.one_of(ENCODERS, encoder=self.encoder)
        checks.one_of(("float32", "bfloat16"), dtype=self.dtype)
        checks.at_least(1, width=self.width, proposal_width=self.proposal_width, depth=self.depth, heads=self.heads)
        checks.at_least(1, points=self.points, ffn_width=self.ffn_width)
        checks.multiple_of(self.heads, "width", self.width, "each head has an equal share")
        checks.above(0, image_std=self.image_std)
        checks.within(0, 1, local_contrast=self.local_contrast)


class EPFv1(base.SingleFrameModel):
    """EgoPoseFormer v1, a `PoseModel`. Earlier poses: "proposal", "layer_1", ...; heatmaps: "predicted"."""

    config: EPFv1Config
    skeleton: Skeleton
    layout: RigLayout

    @property
    def backbone(self) -> base.Backbone:
        """The image encoder."""
        return base.Backbone(name=self.config.encoder, layers=ENCODERS[self.config.encoder]().layers)

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = ENCODERS[config.encoder](dtype=dtype)
        self.neck = Neck(config.width, dtype)
        if config.heatmap_head:
            joints = [self.skeleton.index(name) for name in config.heatmap_joints] or self.skeleton.joint_names
            self.heatmap_head = nn.Conv(len(joints), (1, 1), kernel_init=KERNEL_INIT, dtype=dtype)
        self.features = dense(config.width, dtype=dtype)
        self.proposal = Proposal(config.proposal_width, self.skeleton)
        self.query = Query(config.width)
        layer = {"heads": config.heads, "points": config.points, "ffn_width": config.ffn_width, "dtype": dtype}
        self.layers = [StereoLayer(**layer) for _ in range(config.depth)]
        self.offsets = [Offset() for _ in range(config.depth)]

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """See `PoseModel`."""
        base.check_frames(self, frames)
        frames = base.clean(frames)
        B, T, V, H, W = frames.images.shape
        images = base.float_images(frames).reshape(B * T * V, H, W)
        if self.config.local_contrast > 0:
            images = contrast.normalize(images, self.config.local_contrast)
        else:
            images = (images - self.config.image_mean) / self.config.image_std

        def project(joints_m: jax.Array) -> tuple[jax.Array, jax.Array]:
            place, seen = frames.rig.project(joints_m.reshape(B, T, -1, 3))
            seen = seen & ((place > 0) & (place < 1)).all(-1) & frames.view_valid[..., None]
            return place.reshape(B * T, V, -1, 2), seen.reshape(B * T, V, -1)

        view_valid = frames.view_valid.reshape(B * T, V)
        heatmaps, poses = self.poses(images.reshape(B * T, V, H, W), view_valid, project, train)
        *earlier, final = (joints_m.reshape(B, T, -1, 3) for joints_m in poses)
        names = ["proposal", *(f"layer_{i + 1}" for i in range(self.config.depth - 1))]
        return Predictions(
            joints_headset_m=final,
            intermediate_joints_m=dict(zip(names, earlier, strict=True)),
            heatmaps={name: maps.reshape(B, T, *maps.shape[1:]) for name, maps in heatmaps.items()},
        )

    def poses(
        self, images: jax.Array, view_valid: jax.Array, project: Projection, train: bool = False
    ) -> tuple[dict[str, jax.Array], list[jax.Array]]:
        """Returns heatmaps (N, V, h, w, K) by name, and the poses (N, J, 3), metres: the proposal, then each layer's.

        The whole network, whatever the frame of its poses and the camera model.

        Args:
          images: (N, V, H, W), normalised.
          view_valid: (N, V) bool; the other views do not count.
          project: from a pose to the places of its joints in the images.
          train: use and update batch statistics.
        """
        N, V, H, W = images.shape
        maps = self.encoder(images.reshape(N * V, H, W, 1), train, view_valid.reshape(-1))
        fine = self.neck(maps)
        heatmaps = {}
        if self.config.heatmap_head:
            predicted = self.heatmap_head(fine).astype(jnp.float32)
            heatmaps["predicted"] = predicted.reshape(N, V, *predicted.shape[1:])
        features = self.features(fine)
        features = features.reshape(N, V, *features.shape[1:])
        proposal_cm = self.proposal(features, view_valid)

        # The layers look around the proposal and correct it, but do not train it.
        start_cm = jax.lax.stop_gradient(proposal_cm)
        place, seen = project(start_cm / CM_PER_M)
        views = Views(features=features, anchors=jnp.clip(place, 0.0, 1.0), seen=seen)
        queries = self.query(start_cm)
        poses_cm = [proposal_cm]
        for layer, offset in zip(self.layers, self.offsets, strict=True):
            queries = layer(queries, views)
            poses_cm.append(start_cm + offset(queries))
        return heatmaps, [pose / CM_PER_M for pose in poses_cm]


class Proposal(nn.Module):
    """Returns the first pose (N, J, 3), cm, of the features (N, V, h, w, C) of the views, pooled over each image.

    The last layer gives the differences from the rest pose, and invalid views count as zeros: both are our choice.
    """

    width: int
    skeleton: Skeleton

    @nn.compact
    def __call__(self, features: jax.Array, view_valid: jax.Array) -> jax.Array:
        pooled = features.astype(jnp.float32).mean((2, 3))
        x = jnp.where(view_valid[..., None], pooled, 0.0).reshape(features.shape[0], -1)
        for i in range(2):
            x = nn.gelu(dense(self.width, name=f"hidden_{i}")(x), approximate=False)
        rest_cm = CM_PER_M * self.skeleton.rest_joints_headset_m()
        x = dense(rest_cm.size, name="out")(x).reshape(-1, *rest_cm.shape)
        return x + rest_cm[None]


class Query(nn.Module):
    """Returns the query (N, J, width) of each joint of a pose (N, J, 3), cm: an MLP of its number and its position."""

    width: int

    @nn.compact
    def __call__(self, joints_cm: jax.Array) -> jax.Array:
        N, J, _ = joints_cm.shape
        number = np.arange(1, J + 1, dtype=np.float32)[None, :, None] / J
        x = jnp.concatenate([jnp.broadcast_to(number, (N, J, 1)), joints_cm], axis=-1)
        for i in range(2):
            x = nn.relu(dense(self.width, name=f"hidden_{i}")(x))
        return dense(self.width, name="out")(x)


class Offset(nn.Module):
    """Returns the correction (N, J, 3), cm, that the queries (N, J, C) of a layer say."""

    @nn.compact
    def __call__(self, queries: jax.Array) -> jax.Array:
        x = layer_norm(name="norm")(queries)
        x = nn.gelu(dense(x.shape[-1], name="hidden")(x), approximate=False)
        return dense(3, name="out")(x)
