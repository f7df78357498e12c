"""Checks of what a predictor is given: rigs, frames and states from outside. Each raises a ValueError with a remedy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.geometry import plausibility, transforms
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.models.base import PoseModel
from epfv2_jax.structs import Frames, Rig

_DELIVERED = "True where a camera delivered an image"


def rig_image_size(rig: Rig, batch: int, layout: RigLayout, image_size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the image size (height, width) of a rig of host arrays with leading axes (B, V).

    Raises:
      ValueError: not the model's views, values that no camera can have, or another size than `image_size_hw`.
    """
    V = layout.num_views
    takes = f"the model has {V} views; a rig has leading axis ({V},), or ({batch}, {V})"
    sizes = {"focal_px": 2, "center_px": 2, "radial": 6, "tangential": 2, "thin_prism": 4, "size_px": 2}
    arrays = {f"rig.cameras.{name}": (getattr(rig.cameras, name), (size,)) for name, size in sizes.items()}
    arrays["rig.cameras.max_angle_rad"] = (rig.cameras.max_angle_rad, ())
    arrays["rig.T_cam_headset"] = (rig.T_cam_headset, (4, 4))
    for name, (array, shape) in arrays.items():
        checks.array(name, array, (batch, V, *shape), np.floating, takes)
        checks.finite(name, array, "calibrate the cameras again")
    for v in range(V):
        transforms.check_rigid(rig.T_cam_headset[:, v], f"rig.T_cam_headset of camera {v}")
    found = {(int(height), int(width)) for width, height in np.rint(rig.cameras.size_px).reshape(-1, 2)}
    allowed = found if image_size_hw is None else {tuple(image_size_hw)}
    if len(found) > 1 or found != allowed:
        wanted = "one size for all" if image_size_hw is None else f"{by(image_size_hw)}, as in training"
        raise ValueError(
            f"rig.cameras.size_px: images of {', '.join(map(by, sorted(found)))} (height x width) from {V} cameras, "
            f"the model takes {wanted}; resize the images, and the cameras with cameras.resize"
        )
    for b in range(batch):
        with checks.naming("rig"):
            center_px, size_px = rig.cameras.center_px[b], rig.cameras.size_px[b]
            plausibility.check_cameras(rig.T_cam_headset[b], center_px, size_px, layout)
    return found.pop()


def check_step(
    images: Any, T_world_headset: np.ndarray, view_valid: Any, frame_gap: np.ndarray, image_shape: tuple[int, ...]
) -> None:
    """Checks the frame of every stream; `image_shape` is (B, V, H, W) of the state that it is for."""
    batch, views, height, width = image_shape
    takes = f"the model takes {views} images of {height}x{width} (height x width) a stream"
    checks.array("images", images, image_shape, np.uint8, takes)
    checks.array("T_world_headset", T_world_headset, (batch, 4, 4), np.floating, "a 4x4 matrix a stream, metres")
    _check_poses(T_world_headset, "stream")
    plausibility.check_poses(T_world_headset)
    checks.array("view_valid", view_valid, (batch, views), np.bool_, _DELIVERED)
    checks.array("frame_gap", frame_gap, (batch,), np.integer, "one whole number for all streams, or one each")
    _check_gaps(frame_gap, "stream")


def check_frames(frames: Frames, layout: RigLayout, image_size_hw: tuple[int, int] | None) -> None:
    """Checks whole clips."""
    checks.instance("frames", frames, Frames, "epfv2_jax.structs.Frames")
    shape = getattr(frames.frame_valid, "shape", ())
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"frame_valid: expected clips (B, T) of at least one frame, got shape {shape}")
    B, T = shape
    V = layout.num_views
    size = rig_image_size(on_host(frames.rig), B, layout, image_size_hw)
    kind = np.uint8 if getattr(frames.images, "dtype", None) == np.uint8 else np.float32
    takes = f"the model takes {V} images of {by(size)} (height x width) a frame, uint8 or float32"
    checks.array("images", frames.images, (B, T, V, *size), kind, takes)
    checks.array("view_valid", frames.view_valid, (B, T, V), np.bool_, _DELIVERED)
    valid = np.asarray(frames.frame_valid)
    checks.array("frame_valid", valid, (B, T), np.bool_, "False on padding")
    if (valid[:, 1:] & ~valid[:, :-1]).any():
        raise ValueError(
            "frame_valid: a valid frame follows padding; leave dropped frames out and count them in frame_gap"
        )
    T_world_headset, frame_gap = np.asarray(frames.T_world_headset), np.asarray(frames.frame_gap)
    checks.array("T_world_headset", T_world_headset, (B, T, 4, 4), np.floating, "a 4x4 matrix a frame, metres")
    _check_poses(np.where(valid[..., None, None], T_world_headset, np.eye(4)), "clip, frame")
    plausibility.check_poses(T_world_headset[valid])
    if kind != np.uint8:
        _check_intensities(frames)
    checks.array("frame_gap", frame_gap, (B, T), np.integer, "whole numbers")
    _check_gaps(np.where(valid, frame_gap, 1), "clip, frame")


def check_stream(model: PoseModel, stream: Any, rig: Rig) -> int:
    """Returns the number of streams of a state that is whole and of this model."""
    checks.instance("state.rig", rig, Rig, "the rig that start(rig) put there")
    batch, views = rig.T_cam_headset.shape[:2]
    own = jax.eval_shape(lambda: model.initial_state(batch))

    def shapes(tree: Any) -> list[str]:
        return [
            f"{jax.tree_util.keystr(path)} {np.shape(x)} {getattr(x, 'dtype', type(x))}"
            for path, x in jax.tree.leaves_with_path(tree)
        ]

    if shapes(stream) != shapes(own) or views != model.layout.num_views:
        raise ValueError(
            f"state: belongs to another model, with {views} views and {', '.join(shapes(stream)) or 'no arrays'}; this "
            f"one has {model.layout.num_views} views and {', '.join(shapes(own)) or 'no arrays'}; begin with start(rig)"
        )
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(stream)):
        raise ValueError(
            "state: was used up by an earlier step or reset; go on with the state that it returned, or copy this one "
            "before the call: jax.tree.map(jnp.copy, state)"
        )
    return batch


def on_host(rig: Any) -> Rig:
    """Returns the rig as float32 numpy arrays, or raises ValueError if it is none."""
    checks.instance("rig", rig, Rig, "an epfv2_jax.structs.Rig")
    checks.instance("rig.cameras", rig.cameras, Camera, "an epfv2_jax.geometry.cameras.Camera")
    with checks.naming("rig: its fields must be arrays of numbers", (TypeError, ValueError)):
        return jax.tree.map(lambda x: np.asarray(x, np.float32), rig)


def count(**values: Any) -> None:
    """Raises ValueError unless every value is a whole number of at least 1."""
    for name, value in values.items():
        checks.instance(name, value, (int, np.integer), "a whole number")
        checks.at_least(1, **{name: value})


def by(size_hw: tuple[int, int]) -> str:
    """Returns '48x64' for (48, 64)."""
    return f"{size_hw[0]}x{size_hw[1]}"


def _check_poses(T_world_headset: np.ndarray, axes: str) -> None:
    try:
        transforms.check_rigid(T_world_headset)
        return
    except ValueError:
        pass  # once more, to say which
    for index in np.ndindex(T_world_headset.shape[:-2]):
        try:
            transforms.check_rigid(T_world_headset[index], f"T_world_headset of {axes} {', '.join(map(str, index))}")
        except ValueError as error:
            raise ValueError(
                f"{error}. It is {T_world_headset[index].tolist()}. Where the tracker has no pose, leave the frame out "
                "and give the next one a frame_gap that counts it"
            ) from None


def _check_intensities(frames: Frames) -> None:
    seen = frames.view_valid & np.asarray(frames.frame_valid)[..., None]
    seen_images = jnp.where(seen[..., None, None], frames.images, 0.0)
    if not ((seen_images >= -0.01) & (seen_images <= 1.01)).all():  # also where a value is not finite
        raise ValueError(
            f"images: float32 images hold intensities from {seen_images.min():.3g} to {seen_images.max():.3g}, or such "
            "that are not finite; the model takes 0 to 1: divide by 255, or give uint8"
        )


def _check_gaps(frame_gap: np.ndarray, axes: str) -> None:
    wrong = np.argwhere((frame_gap < 1) | (frame_gap > np.iinfo(np.int32).max))
    if len(wrong):
        where = ", ".join(map(str, wrong[0]))
        raise ValueError(
            f"frame_gap of {axes} {where}: {frame_gap[tuple(wrong[0])]}, must be at least 1 and fit in 32 bits: 1 plus "
            "the number of frames that were dropped since the last one"
        )
