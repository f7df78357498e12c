"""Inference: poses of a live stream, frame by frame, or of recorded clips. A stream gives what its clip gives."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.checkpoints import checkpoint
from epfv2_jax.geometry import transforms
from epfv2_jax.models.epfv2 import model as epfv2
from epfv2_jax.structs import BodyParameters, Frames, Predictions, Rig


class Pose(struct.PyTreeNode):
    """Where the joints are. Leading axes (B,) from `Predictor.step`, (B, T) from `clip` and `sequence`; float32."""

    joints_headset_m: jax.Array  # (..., J, 3), after refinement
    joints_world_m: jax.Array  # (..., J, 3), moved there by the T_world_headset that was given
    # None where the model was trained without uncertainty.
    cholesky_m: jax.Array | None  # (..., J, 3, 3) lower-triangular L of covariance L L^T, in headset axes
    covariance_world_m2: jax.Array | None  # (..., J, 3, 3) that covariance in world axes
    body: BodyParameters | None  # in the headset frame; None for the keypoint body


class PredictorState(struct.PyTreeNode):
    """B streams between two frames. Whoever takes one uses it up and returns the next, in the same memory."""

    stream: epfv2.StreamState
    rig: Rig  # leading axes (B, V)
    image_size_hw: tuple[int, int] = struct.field(pytree_node=False)  # of the rig's cameras


class Predictor:
    """A trained model, ready to be asked.

    A live stream costs one compiled call a frame, the first of which compiles it:

        predictor = Predictor.from_checkpoint("runs/NAME/checkpoints")
        state = predictor.start(rig)
        for images, T_world_headset in frames:
            pose, state = predictor.step(state, images, T_world_headset)

    Calls return before the device is done; reading the pose waits for it. Arrays given to `step` may be overwritten as
    soon as it is back, those of `clip` and `sequence` once the poses have been read. What a call is given is checked on
    the host, and what is wrong is a ValueError before anything is computed: the state still stands where it stood.
    """

    def __init__(self, model: epfv2.EPFv2, variables: Any, image_size_hw: tuple[int, int] | None = None):
        """Takes the model, its variables (put on the device here) and the image size (height, width) of its training.

        Where `image_size_hw` is None, images of any size that their cameras state are taken.
        """
        self.model = model
        self.image_size_hw = None if image_size_hw is None else tuple(image_size_hw)
        self.variables = jax.device_put(variables)

    @classmethod
    def from_checkpoint(cls, directory: str | os.PathLike) -> "Predictor":
        """Returns the predictor of a run's checkpoints: the best one, else the latest.

        The image size is that of the data set that the run was trained on, where the checkpoint's configuration has
        one.

        Raises:
          ValueError: there is no committed checkpoint in `directory`.
        """
        model, variables, meta = checkpoint.load_model(directory)
        experiment = meta["experiment"]
        size = tuple(experiment["dataset"]["conversion"]["image_size_hw"]) if "dataset" in experiment else None
        return cls(model, variables, size)

    @property
    def num_views(self) -> int:
        """Cameras that the model looks through."""
        return self.model.config.num_views

    def start(self, rig: Rig, batch: int = 1) -> PredictorState:
        """Returns the state of `batch` streams that have seen nothing.

        All streams of a state go on together, a frame each; people who come and go on their own have a state each.

        Args:
          rig: of upright images as large as those to come. Leading axis (V,): one headset for all; or (B, V).
          batch: B, people.

        Raises:
          ValueError: not `num_views` cameras, an image size that the model was not trained on, values that no camera
            can have, or `batch` below 1.
        """
        if batch < 1:
            raise ValueError(f"batch: must be at least 1, got {batch}")
        rig = _on_host(rig)
        if rig.T_cam_headset.ndim == 3:
            rig = jax.tree.map(lambda x: np.broadcast_to(x, (batch, *x.shape)), rig)
        size = self._check_rig(rig, batch)
        stream = epfv2.initial_state(self.model.config, batch)
        # Every cache needs memory of its own to be given away; the caller's rig stays the caller's.
        return jax.tree.map(jnp.array, PredictorState(stream=stream, rig=rig, image_size_hw=size))

    def step(
        self,
        state: PredictorState,
        images: jax.Array,
        T_world_headset: jax.Array,
        view_valid: jax.Array | None = None,
        frame_gap: int | jax.Array = 1,
    ) -> tuple[Pose, PredictorState]:
        """Returns the pose at the next frame of every stream and the state after it.

        Uses `state` up: its memory becomes that of the new one, and asking it again is an error. To go two ways from
        one state, copy it first: `jax.tree.map(jnp.copy, state)`.

        Args:
          state: from `start`, `reset` or the last `step`.
          images: (B, V, H, W) uint8, upright, in the order of the rig's cameras.
          T_world_headset: (B, 4, 4); world y up, floor at y = 0.
          view_valid: (B, V) bool, False where a camera delivered nothing: what is in its image is not looked at. None:
            all delivered.
          frame_gap: one for all or (B,), frame times since the previous frame: 1 plus the frames that were dropped
            between. Of no meaning in a stream's first frame.

        Raises:
          ValueError: a shape or dtype that differs from these, a pose that is not finite and rigid, a frame gap below
            1, a state that was used up or belongs to another model.
        """
        batch = self._check_state(state)
        _check("images", images, self._image_shape(batch, state.image_size_hw), (np.uint8,), self._takes(state))
        T_world_headset = np.asarray(T_world_headset)
        _check("T_world_headset", T_world_headset, (batch, 4, 4), (np.floating,), "a 4x4 matrix a stream, metres")
        _check_poses(T_world_headset, "stream")
        if view_valid is None:
            view_valid = np.ones((batch, self.num_views), bool)
        _check("view_valid", view_valid, (batch, self.num_views), (np.bool_,), "True where a camera delivered")
        frame_gap = np.asarray(frame_gap)
        if frame_gap.ndim == 0:
            frame_gap = np.broadcast_to(frame_gap, (batch,))
        _check("frame_gap", frame_gap, (batch,), (np.integer,), "one whole number for all streams, or one each")
        _check_gaps(frame_gap, "stream")
        pose, stream = _step(
            self.model,
            self.variables,
            state.stream,
            state.rig,
            _own(images),
            T_world_headset.astype(np.float32),
            _own(view_valid),
            frame_gap.astype(np.int32),
        )
        return pose, state.replace(stream=stream)

    def reset(self, state: PredictorState, where: jax.Array) -> PredictorState:
        """Returns the state with the streams selected by `where` (B,) bool as if they had seen nothing.

        Their headsets stay. Uses `state` up as `step` does.

        Raises:
          ValueError: `where` has another shape or dtype, or the state was used up or belongs to another model.
        """
        batch = self._check_state(state)
        where = np.asarray(where)
        _check("where", where, (batch,), (np.bool_,), "True for the streams that start anew")
        return state.replace(stream=_reset(self.model.config, state.stream, where))

    def clip(self, frames: Frames) -> Pose:
        """Returns the poses (B, T, ...) of whole clips, each from an empty state, in one call of the model.

        Needs memory for all frames at once and compiles for each length. Poses at frames with `frame_valid` False are
        finite and meaningless.

        Raises:
          ValueError: as `start` and `step`; or padding that valid frames follow.
        """
        self._check_frames(frames)
        return _clip(self.model, self.variables, frames)

    def sequence(self, frames: Frames, chunk: int = 16) -> Pose:
        """Returns what `clip` does, computed `chunk` frames at a time: for recordings that are long.

        A `lax.scan`; the end is padded to a whole chunk, and what is computed there is cut off.

        Raises:
          ValueError: as `clip`; or `chunk` below 1.
        """
        if chunk < 1:
            raise ValueError(f"chunk: must be at least 1, got {chunk}")
        self._check_frames(frames)
        return _sequence(self.model, self.variables, frames, min(chunk, frames.frame_valid.shape[1]))

    def _image_shape(self, batch: int, size_hw: tuple[int, int]) -> tuple[int, ...]:
        return batch, self.num_views, *size_hw

    def _takes(self, state: PredictorState) -> str:
        height, width = state.image_size_hw
        return f"the model takes num_views = {self.num_views} images of {height}x{width} (height x width) a stream"

    def _check_rig(self, rig: Rig, batch: int) -> tuple[int, int]:
        """The image size (height, width) of a rig of host arrays with leading axes (B, V)."""
        V = self.num_views
        takes = f"the model has num_views = {V}; a rig has leading axis ({V},) here, or ({batch}, {V})"
        sizes = {"focal_px": 2, "center_px": 2, "radial": 6, "tangential": 2, "thin_prism": 4, "size_px": 2}
        arrays = {f"rig.cameras.{name}": (getattr(rig.cameras, name), (size,)) for name, size in sizes.items()}
        arrays["rig.cameras.max_angle_rad"] = (rig.cameras.max_angle_rad, ())
        arrays["rig.T_cam_headset"] = (rig.T_cam_headset, (4, 4))
        for name, (array, shape) in arrays.items():
            _check(name, array, (batch, V, *shape), (np.floating,), takes)
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: holds values that are not finite; calibrate the cameras anew")
        for v in range(V):
            transforms.check_rigid(rig.T_cam_headset[:, v], f"rig.T_cam_headset of camera {v}")
        found = {(int(height), int(width)) for width, height in np.rint(rig.cameras.size_px).reshape(-1, 2)}
        allowed = found if self.image_size_hw is None else {self.image_size_hw}
        if len(found) > 1 or found != allowed:
            wanted = "all the same" if self.image_size_hw is None else f"{_by(self.image_size_hw)}, as in training"
            raise ValueError(
                f"rig.cameras.size_px: images of {', '.join(map(_by, sorted(found)))} (height x width) from "
                f"{V} cameras, the model takes {wanted}; resize the images, and the cameras with cameras.resize"
            )
        return found.pop()

    def _check_state(self, state: PredictorState) -> int:
        """The number of streams of a state that is whole and of this model."""
        config, stream = self.model.config, state.stream
        batch = stream.started.shape[0]
        shape = (batch, config.window - 1, config.heads, config.width // config.heads)
        dtype = jnp.dtype(config.dtype)
        views = state.rig.T_cam_headset.shape[1]
        found = [(cache.keys.shape, cache.keys.dtype) for cache in stream.caches]
        if found != [(shape, dtype)] * config.num_caches or views != self.num_views:
            theirs = ", ".join(sorted({f"{s} {d}" for s, d in found}))
            raise ValueError(
                f"state: belongs to another model, with {views} views and {len(found)} caches {theirs}; this one has "
                f"num_views = {self.num_views} and {config.num_caches} caches {shape} {dtype} (B, window - 1, heads, "
                "width / heads); begin with start(rig)"
            )
        if stream.started.is_deleted():
            raise ValueError(
                "state: was used up by an earlier step or reset; go on with the state that it returned, or copy this "
                "one before the call: jax.tree.map(jnp.copy, state)"
            )
        return batch

    def _check_frames(self, frames: Frames) -> None:
        shape = np.shape(frames.frame_valid)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"frame_valid: expected clips (B, T) of at least one frame, got shape {shape}")
        B, T = shape
        size = self._check_rig(_on_host(frames.rig), B)
        takes = f"the model takes num_views = {self.num_views} images of {_by(size)} (height x width) a frame"
        _check("images", frames.images, (B, T, self.num_views, *size), (np.uint8, np.float32), takes)
        _check("view_valid", frames.view_valid, (B, T, self.num_views), (np.bool_,), "True where a camera delivered")
        valid = np.asarray(frames.frame_valid)
        _check("frame_valid", valid, (B, T), (np.bool_,), "False on padding")
        if (valid[:, 1:] & ~valid[:, :-1]).any():
            raise ValueError(
                "frame_valid: a valid frame follows padding; leave dropped frames out and count them in frame_gap"
            )
        T_world_headset, frame_gap = np.asarray(frames.T_world_headset), np.asarray(frames.frame_gap)
        _check("T_world_headset", T_world_headset, (B, T, 4, 4), (np.floating,), "a 4x4 matrix a frame, metres")
        _check_poses(np.where(valid[..., None, None], T_world_headset, np.eye(4)), "clip, frame")
        _check("frame_gap", frame_gap, (B, T), (np.integer,), "whole numbers")
        _check_gaps(np.where(valid, frame_gap, 1), "clip, frame")


def _on_host(rig: Rig) -> Rig:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), rig)


def _own(array: Any) -> Any:
    """A copy of a host array, which a compiled call may still read after its caller has overwritten it."""
    return array.copy() if isinstance(array, np.ndarray) else array


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def _check(name: str, array: Any, shape: tuple[int, ...], dtypes: tuple[type, ...], meaning: str) -> None:
    """Looks at shape and dtype only, so that what is on a device stays there."""
    if not hasattr(array, "dtype"):
        raise ValueError(f"{name}: expected an array of shape {shape}, got {type(array).__name__}; {meaning}")
    if array.shape != shape or not any(np.issubdtype(array.dtype, dtype) for dtype in dtypes):
        kinds = " or ".join(dtype.__name__.rstrip("_") for dtype in dtypes)
        raise ValueError(f"{name}: expected shape {shape}, {kinds}; got {array.shape}, {array.dtype}: {meaning}")


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


def _check_gaps(frame_gap: np.ndarray, axes: str) -> None:
    wrong = np.argwhere((frame_gap < 1) | (frame_gap > np.iinfo(np.int32).max))
    if len(wrong):
        where = ", ".join(map(str, wrong[0]))
        raise ValueError(
            f"frame_gap of {axes} {where}: {frame_gap[tuple(wrong[0])]}, must be at least 1 and 32 bits: 1 plus the "
            "number of frames that were dropped since the last one"
        )


def _pose(predictions: Predictions, T_world_headset: jax.Array) -> Pose:
    """Adds the world to predictions (B, T, ...); T_world_headset (B, T, 4, 4)."""
    covariance_world_m2 = None
    with jax.default_matmul_precision("highest"):
        joints_world_m = transforms.apply(T_world_headset, predictions.joints_headset_m)
        if predictions.cholesky_m is not None:
            factor = T_world_headset[..., None, :3, :3] @ predictions.cholesky_m
            covariance_world_m2 = factor @ jnp.swapaxes(factor, -1, -2)
    return Pose(
        joints_headset_m=predictions.joints_headset_m,
        joints_world_m=joints_world_m,
        cholesky_m=predictions.cholesky_m,
        covariance_world_m2=covariance_world_m2,
        body=predictions.body,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(
    model: epfv2.EPFv2,
    variables: Any,
    stream: epfv2.StreamState,
    rig: Rig,
    images: jax.Array,
    T_world_headset: jax.Array,
    view_valid: jax.Array,
    frame_gap: jax.Array,
) -> tuple[Pose, epfv2.StreamState]:
    frames = Frames(
        images=images[:, None],
        rig=rig,
        T_world_headset=T_world_headset[:, None],
        view_valid=view_valid[:, None],
        frame_valid=jnp.ones((images.shape[0], 1), bool),
        frame_gap=frame_gap[:, None],
    )
    predictions, stream = model.apply(variables, frames, stream, method="step")
    return jax.tree.map(lambda x: x[:, 0], _pose(predictions, frames.T_world_headset)), stream


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _reset(config: epfv2.ModelConfig, stream: epfv2.StreamState, where: jax.Array) -> epfv2.StreamState:
    return epfv2.reset(config, stream, where)


@functools.partial(jax.jit, static_argnums=0)
def _clip(model: epfv2.EPFv2, variables: Any, frames: Frames) -> Pose:
    return _pose(model.apply(variables, frames), _known_poses(frames))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sequence(model: epfv2.EPFv2, variables: Any, frames: Frames, chunk: int) -> Pose:
    T = frames.frame_valid.shape[1]
    missing = -T % chunk
    in_time = jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), frames.replace(rig=None)
    )  # zeros: frame_valid False
    predictions, _ = epfv2.scan_frames(model, variables, in_time.replace(rig=frames.rig), chunk=chunk)
    return _pose(jax.tree.map(lambda x: x[:, :T], predictions), _known_poses(frames))


def _known_poses(frames: Frames) -> jax.Array:
    """T_world_headset (B, T, 4, 4) with the identity for padding, under which may be anything."""
    identity = jnp.broadcast_to(jnp.eye(4), frames.T_world_headset.shape)
    return jnp.where(frames.frame_valid[..., None, None], frames.T_world_headset, identity)
