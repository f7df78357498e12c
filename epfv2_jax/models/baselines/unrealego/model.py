"""The model: one encoder for all views -> heatmaps of all views -> code -> pose. Each frame for itself, no cameras.

UnrealEgo (Akada et al., ECCV 2022), after its public code (hiroyasuakada/UnrealEgo). It is trained in two stages: the
heatmap network by the objective "heatmap"; then, with `frozen_heatmaps`, the autoencoder by the objective "unrealego",
from the first stage's modules `encoder` and `heatmaps` (`init_from`, `init_modules`).

Our choice where the original has two views of 256x256 pixels and poses relative to the pelvis:

* V views: their maps and heatmaps are concatenated, as the original's two are. Two views are the original's network.
* Poses are in the headset frame, in metres; the last layer and the loss have the original's centimetres. The
  pose starts as the rest pose.
* The frozen network normalises by its running statistics. In the authors' code a call of `train()` on the whole model
  puts it back to batch statistics, which differ from those that it is tested with, and goes on moving the running ones.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from epfv2_jax.core import checks
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.models import base, contrast
from epfv2_jax.models.baselines.unrealego.autoencoder import AutoEncoder
from epfv2_jax.models.baselines.unrealego.heatmaps import HeatmapDecoder
from epfv2_jax.models.encoders import ENCODERS
from epfv2_jax.structs import Frames, Predictions

_CM_PER_M = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnrealEgoConfig:
    """The network's sizes, by default those of the paper, and what of it is trained."""

    kind: str = "unrealego"

    encoder: str = "resnet18"  # a key of models.encoders.ENCODERS whose strides are 4, 8, 16, ...
    heatmap_joints: tuple[str, ...] = ()  # the K joints that have heatmaps, in this order; (): all
    frozen_heatmaps: bool = False  # True in the second stage: encoder and heatmap decoder are not trained
    # Channels after each upsampling, the coarsest first; an encoder of n + 1 maps takes the last n.
    decoder_widths: tuple[int, ...] = (1024, 512, 512)
    conv_widths: tuple[int, ...] = (64, 128, 256)  # of the autoencoder
    dense_widths: tuple[int, ...] = (2048, 512)  # of its layers before the code, and after it in reverse
    code_width: int = 20  # between its two halves
    pose_width: int = 32  # of the two hidden layers between code and pose
    # Input normalisation as in EPFv2; see EPFv2Config. The original has ImageNet's mean and deviation of each colour.
    local_contrast: float = 0.0
    image_mean: float = 0.45  # of images in [0, 1]
    image_std: float = 0.225  # likewise
    dtype: Literal["float32", "bfloat16"] = "float32"  # of all layers but the last one of the pose

    def __post_init__(self):
        checks.one_of(ENCODERS, encoder=self.encoder)
        checks.one_of(("float32", "bfloat16"), dtype=self.dtype)
        checks.at_least(1, code_width=self.code_width, pose_width=self.pose_width)
        for name in ("decoder_widths", "conv_widths", "dense_widths"):
            checks.at_least(1, **{f"{name}[{i}]": width for i, width in enumerate(getattr(self, name))})
        checks.above(0, image_std=self.image_std)
        checks.within(0, 1, local_contrast=self.local_contrast)
        checks.not_empty("conv_widths", self.conv_widths, "give the channels of at least one convolution")
        strides = ENCODERS[self.encoder]().strides
        doubling = tuple(4 * 2**i for i in range(len(strides)))
        checks.equal(f"encoder: strides of {self.encoder!r}", strides, doubling, "choose another encoder")
        most = len(self.decoder_widths)
        checks.within(0, most, **{f"decoder_widths: upsamplings of {self.encoder!r}": len(strides) - 1})


class UnrealEgo(base.SingleFrameModel):
    """UnrealEgo, a `PoseModel`. Heatmaps: "predicted" and "reconstructed", a cell for four by four pixels."""

    config: UnrealEgoConfig
    skeleton: Skeleton
    layout: RigLayout

    @property
    def backbone(self) -> base.Backbone:
        """The image encoder; the heatmap decoder is frozen with it."""
        layers = ENCODERS[self.config.encoder]().layers
        frozen = self.config.frozen_heatmaps
        return base.Backbone(name=self.config.encoder, layers=layers, frozen=frozen, frozen_with=("heatmaps",))

    @property
    def num_heatmaps(self) -> int:
        """K.

        Raises:
          ValueError: the skeleton lacks one of the configuration's `heatmap_joints`.
        """
        return len([self.skeleton.index(name) for name in self.config.heatmap_joints]) or self.skeleton.num_joints

    def setup(self):
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.encoder = ENCODERS[config.encoder](dtype=dtype)
        upsamplings = len(self.encoder.strides) - 1
        self.heatmaps = HeatmapDecoder(
            num_heatmaps=self.layout.num_views * self.num_heatmaps,
            widths=config.decoder_widths[len(config.decoder_widths) - upsamplings :],
            dtype=dtype,
        )
        self.autoencoder = AutoEncoder(
            rest=tuple(map(tuple, (_CM_PER_M * self.skeleton.rest_joints_headset_m()).tolist())),
            conv_widths=config.conv_widths,
            dense_widths=config.dense_widths,
            code_width=config.code_width,
            pose_width=config.pose_width,
            dtype=dtype,
        )

    def __call__(self, frames: Frames, train: bool = False) -> Predictions:
        """Returns predictions for clips; `train` uses and updates the batch statistics of what is not frozen."""
        base.check_frames(self, frames)
        frames = base.clean(frames)
        B, T, V, _, _ = frames.images.shape
        heatmaps = self._heatmaps(frames, train and not self.config.frozen_heatmaps)
        if self.config.frozen_heatmaps:
            heatmaps = jax.lax.stop_gradient(heatmaps)
        joints_cm, again = self.autoencoder(heatmaps, train, frames.frame_valid.reshape(-1))

        def by_view(maps: jax.Array) -> jax.Array:
            h, w = maps.shape[1:3]
            return maps.reshape(B, T, h, w, V, self.num_heatmaps).transpose(0, 1, 4, 2, 3, 5)

        return Predictions(
            joints_headset_m=joints_cm.reshape(B, T, -1, 3) / _CM_PER_M,
            heatmaps={"predicted": by_view(heatmaps), "reconstructed": by_view(again)},
        )

    def _heatmaps(self, frames: Frames, train: bool) -> jax.Array:
        """Returns the heatmaps (B * T, h, w, V * K) of clean frames, the views in order.

        The views pass through the encoder one after the other: in training each is normalised by its own statistics.
        """
        config = self.config
        B, T, V, H, W = frames.images.shape
        images = base.float_images(frames).reshape(B * T * V, H, W)
        if config.local_contrast > 0:
            images = contrast.normalize(images, config.local_contrast)
        else:
            images = (images - config.image_mean) / config.image_std
        images, valid = images.reshape(B * T, V, H, W, 1), frames.view_valid.reshape(B * T, V)
        views = [self.encoder(images[:, v], train, valid[:, v]) for v in range(V)]
        return self.heatmaps([jnp.concatenate(maps, axis=-1) for maps in zip(*views, strict=True)])
