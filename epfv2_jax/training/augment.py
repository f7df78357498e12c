"""Augmentation of training batches, on the device: light, noise, erased patches, left-right flip, dropped views.

Random numbers are drawn per clip from the step's key and the clip's id, so the result does not depend on the clip's
place in the batch or on its device. The ranges are our choice.
"""

import dataclasses
import functools
from typing import Any

import chex
import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of the augmentation; 0 turns one off. Light and dropout are per clip and view, noise per pixel."""

    brightness: float = 0.1  # largest shift up or down, in units of full scale
    contrast: float = 0.25  # the factor lies in [1 - contrast, 1 + contrast]
    gamma: float = 0.25  # the exponent lies in [exp(-gamma), exp(gamma)], uniform in its logarithm
    noise: float = 0.02  # largest standard deviation of the Gaussian noise, in units of full scale; uniform per clip
    blur_px: float = 0.7  # standard deviation of a Gaussian blur, mixed with the sharp image; share uniform per clip
    erase: float = 0.0  # probability that a patch of 2 to 20 % of a clip's view is replaced by noise (random erasing)
    flip: float = 0.5  # probability that a clip is mirrored left-right
    mirror_pairs: bool = False  # each clip and its mirror image instead: twice the clips, for images that cost much
    view_dropout: float = 0.05  # probability that a view is missing in a clip; 1: no images, see evaluation.hide_views

    def __post_init__(self):
        checks.at_least(0, brightness=self.brightness, gamma=self.gamma, noise=self.noise, blur_px=self.blur_px)
        checks.within(0, 1, erase=self.erase, flip=self.flip, view_dropout=self.view_dropout, contrast=self.contrast)


def to_float(batch: structs.Batch) -> structs.Batch:
    """Returns `batch` with float32 images in [0, 1]; images that are not uint8 stay unchanged."""
    images = batch.frames.images
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255.0
    return batch.replace(frames=batch.frames.replace(images=images))


def augment(
    key: jax.Array, batch: structs.Batch, config: AugmentConfig, skeleton: Skeleton, layout: RigLayout
) -> structs.Batch:
    """Returns `batch` augmented, with float32 images in [0, 1]; views that are not valid are black.

    With `mirror_pairs` it holds 2 B clips, each followed by its mirror image.

    Args:
      key: of the step; each clip folds its id in.
      batch: leading axes (B, T, V); uint8 or float images.
      config: static under jit, like the next two.
      skeleton: of the joints; gives their mirror pairs.
      layout: of the views; gives their mirror partners.
    """
    chex.assert_rank(batch.frames.images, 5)
    batch = to_float(batch)
    keys = jax.vmap(lambda clip_id: jax.random.fold_in(key, clip_id.astype(jnp.uint32)))(jnp.asarray(batch.clip_id))
    if config.mirror_pairs:
        mirrored = _fold_each(keys, 4), flip_left_right(batch, skeleton, layout)
        keys, batch = _alternate((keys, batch), mirrored)
    elif config.flip > 0:
        flipped = jax.vmap(lambda k: jax.random.bernoulli(k, config.flip))(_fold_each(keys, 0))
        batch = _select(flipped, flip_left_right(batch, skeleton, layout), batch)
    light_keys, drop_keys, erase_keys = (_fold_each(keys, i) for i in (1, 2, 3))
    if config.view_dropout > 0:
        V = batch.frames.images.shape[2]
        kept = jax.vmap(lambda k: ~jax.random.bernoulli(k, config.view_dropout, (V,)))(drop_keys)
        view_valid = batch.frames.view_valid & kept[:, None, :]
        batch = batch.replace(frames=batch.frames.replace(view_valid=view_valid))
    images = _photometric(light_keys, batch.frames.images, config)
    if config.erase > 0:
        images = jax.vmap(functools.partial(_erase, probability=config.erase))(erase_keys, images)
    images = jnp.where(batch.frames.view_valid[..., None, None], images, 0.0)
    return batch.replace(frames=batch.frames.replace(images=images))


def flip_left_right(batch: structs.Batch, skeleton: Skeleton, layout: RigLayout) -> structs.Batch:
    """Returns the mirror image of a batch: world, headset, body, cameras and images with left and right exchanged.

    World and headset coordinates have x negated. Views are swapped with their mirror partners, and each camera becomes
    that of the mirrored image. Flipping twice gives the same batch back.

    Raises:
      ValueError: the layout names no mirror partners.
    """
    frames, targets = batch.frames, batch.targets
    if layout.mirror is None:
        raise ValueError(
            f"augment.flip: the views of {layout.name!r} ({', '.join(layout.view_names)}) have no mirror partners; "
            "name them (mirror in headset.yaml), or set augment.flip=0 and augment.mirror_pairs=False"
        )
    chex.assert_axis_dimension(frames.view_valid, 2, layout.num_views)
    chex.assert_axis_dimension(targets.joint_valid, 2, skeleton.num_joints)
    order, mirror = np.asarray(layout.mirror), np.asarray(skeleton.mirror)
    mirrored_views = jax.tree.map(lambda leaf: leaf[:, order], frames.rig)
    return batch.replace(
        frames=frames.replace(
            images=frames.images[:, :, order, :, ::-1],
            rig=structs.Rig(
                cameras=cameras.mirror(mirrored_views.cameras), T_cam_headset=_mirrored(mirrored_views.T_cam_headset)
            ),
            T_world_headset=_mirrored(frames.T_world_headset),
            T_world_before=None if frames.T_world_before is None else _mirrored(frames.T_world_before),
            view_valid=frames.view_valid[:, :, order],
        ),
        targets=targets.replace(
            joints_headset_m=_negate_x(targets.joints_headset_m[:, :, mirror, :]),
            joint_valid=targets.joint_valid[:, :, mirror],
            cholesky_m=None if targets.cholesky_m is None else _mirrored_cholesky(targets.cholesky_m[:, :, mirror]),
        ),
    )


def _photometric(keys: jax.Array, images: jax.Array, config: AugmentConfig) -> jax.Array:
    """Returns images (B, T, V, H, W) with changed light, blur and noise, clipped to [0, 1]."""
    B, _, V = images.shape[:3]
    clip_view = (B, 1, V, 1, 1)

    def uniform(i: int, low: float, high: float, per_view: bool = True) -> jax.Array:
        draw = jax.vmap(lambda k: jax.random.uniform(k, (V if per_view else 1,), minval=low, maxval=high))
        return jnp.broadcast_to(draw(_fold_each(keys, i)).reshape(B, 1, -1, 1, 1), clip_view)

    if config.gamma > 0:
        exponent = jnp.exp(uniform(0, -config.gamma, config.gamma))
        images = pix.adjust_gamma(images, exponent, assume_in_bounds=True)
    if config.contrast > 0:
        factor = uniform(1, 1.0 - config.contrast, 1.0 + config.contrast)
        images = pix.adjust_contrast(images[..., None], factor[..., None])[..., 0]
    if config.brightness > 0:
        images = pix.adjust_brightness(images, uniform(2, -config.brightness, config.brightness))
    if config.blur_px > 0:
        share = uniform(3, 0.0, 1.0, per_view=False)
        images = images + share * (_blurred(images, config.blur_px) - images)
    if config.noise > 0:
        sigma = uniform(4, 0.0, config.noise, per_view=False)
        draw = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))
        images = images + sigma * draw(_fold_each(keys, 5))
    return jnp.clip(images, 0.0, 1.0)


def _erase(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Returns a clip's images (T, V, H, W) with a patch of some views replaced by noise, at one place in all frames.

    Zhong et al., "Random Erasing Data Augmentation", with smaller patches (our choice).
    """
    _, V, H, W = images.shape
    keys = jax.random.split(key, 6)
    erased = jax.random.bernoulli(keys[0], probability, (V,))
    area = jax.random.uniform(keys[1], (V,), minval=0.02, maxval=0.2)
    aspect = jnp.exp(jax.random.uniform(keys[2], (V,), minval=-1.0, maxval=1.0))
    height, width = (jnp.minimum(jnp.sqrt(area * a), 1.0) for a in (aspect, 1.0 / aspect))
    inside = [
        jnp.abs((jnp.arange(n) + 0.5)[None] / n - centre[:, None]) < size[:, None] / 2
        for n, size, centre in (
            (H, height, jax.random.uniform(keys[3], (V,))),
            (W, width, jax.random.uniform(keys[4], (V,))),
        )
    ]
    patch = erased[:, None, None] & inside[0][:, :, None] & inside[1][:, None, :]
    noise = jax.random.uniform(keys[5], images.shape, images.dtype)
    return jnp.where(jnp.broadcast_to(patch[None], images.shape), noise, images)


def _blurred(images: jax.Array, sigma_px: float) -> jax.Array:
    """Returns images (..., H, W) convolved with a Gaussian cut off at three sigma, with edge padding.

    Computed as sums of shifted images, which XLA fuses; on a CPU a one-channel convolution is many times slower.
    """
    radius = max(1, round(3.0 * sigma_px))
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2.0 * sigma_px**2))
    weights = [float(weight) for weight in weights / weights.sum()]
    H, W = images.shape[-2:]
    padded = jnp.pad(images, ((0, 0),) * (images.ndim - 2) + ((radius, radius),) * 2, mode="edge")
    rows = sum(weight * padded[..., i : i + H, :] for i, weight in enumerate(weights))
    return sum(weight * rows[..., i : i + W] for i, weight in enumerate(weights))


def _fold_each(keys: jax.Array, data: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def _select(choice: jax.Array, first: structs.Batch, second: structs.Batch) -> structs.Batch:
    """Returns `first` for the clips where `choice` (B,) is True, else `second`."""
    return jax.tree.map(lambda a, b: jnp.where(choice.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), first, second)


def _alternate(first: Any, second: Any) -> Any:
    """Returns arrays (2 B, ...) in which the rows of two trees take turns: a split of the rows over devices stays."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), first, second)


def _negate_x(vectors: jax.Array) -> jax.Array:
    return vectors * jnp.broadcast_to(jnp.asarray([-1.0, 1.0, 1.0], vectors.dtype), vectors.shape)


def _mirrored_cholesky(L: jax.Array) -> jax.Array:
    """Returns M L M (..., 3, 3) with M = diag(-1, 1, 1), the Cholesky factor of the mirrored covariance M L L^T M.

    It is lower-triangular with a positive diagonal, and M L M (M L M)^T = M L L^T M.
    """
    signs = jnp.asarray([-1.0, 1.0, 1.0], L.dtype)
    return L * jnp.broadcast_to(signs[:, None] * signs[None, :], L.shape)


def _mirrored(T: jax.Array) -> jax.Array:
    """Returns M T M (..., 4, 4) with M = diag(-1, 1, 1, 1): the same transform between mirrored coordinates."""
    signs = jnp.asarray([-1.0, 1.0, 1.0, 1.0], T.dtype)
    return T * jnp.broadcast_to(signs[:, None] * signs[None, :], T.shape)
