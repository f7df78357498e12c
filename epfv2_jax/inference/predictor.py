"""Runs a trained model on live streams, frame by frame, and on recorded clips. A stream gives what its clip gives."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax import checkpoints
from epfv2_jax.core import checks
from epfv2_jax.geometry import transforms
from epfv2_jax.inference import inputs, streams
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel
from epfv2_jax.structs import BodyParameters, Frames, Predictions, Rig, StudentT


class Pose(struct.PyTreeNode):
    """Where the joints are. Leading axes (B,) from `Predictor.step`, (B, T) from `clip` and `sequence`; float32."""

    joints_headset_m: jax.Array  # (..., J, 3), after refinement
    joints_world_m: jax.Array  # (..., J, 3), moved there by the T_world_headset that was given
    # None where the model states no uncertainty.
    distribution: StudentT | None  # of each joint, in headset axes
    covariance_world_m2: jax.Array | None  # (..., J, 3, 3) L L^T, the paper's covariance, in world axes
    body: BodyParameters | None  # in the headset frame; None for models without a body


class PredictorState(struct.PyTreeNode):
    """B streams between two frames. A call uses the state up and returns the next one in the same memory."""

    stream: Any  # the model's own state
    rig: Rig  # leading axes (B, V)
    image_size_hw: tuple[int, int] = struct.field(pytree_node=False)  # of the rig's cameras


class Predictor:
    """Runs a trained model on live streams and recorded clips.

    A live stream costs one compiled call a frame, the first of which compiles it:

        predictor = Predictor.from_checkpoint("runs/NAME")
        state = predictor.start(rig)
        for images, T_world_headset in frames:
            pose, state = predictor.step(state, images, T_world_headset)

    Calls return before the device is done; reading the pose waits for it. Arrays given to `step` may be overwritten as
    soon as it returns, those of `clip` and `sequence` once the poses have been read. Arguments are checked on the host:
    a wrong one is a ValueError before anything is computed, and the state is still usable.
    """

    def __init__(self, model: PoseModel, variables: Any, image_size_hw: tuple[int, int] | None = None):
        """Takes the model, its variables (put on the device here) and the image size (height, width) of its training.

        Where `image_size_hw` is None, images of any size that their cameras state are taken.
        """
        self.model = model
        self.image_size_hw = None if image_size_hw is None else tuple(image_size_hw)
        self.variables = jax.device_put(variables)

    @classmethod
    def from_checkpoint(cls, directory: str | os.PathLike) -> "Predictor":
        """Returns the predictor of a run: its best checkpoint, else the latest.

        The image size is that of the records that the run was trained on.

        Raises:
          ValueError: there is no committed checkpoint in `directory`.
        """
        trained = checkpoints.load(directory)
        return cls(trained.model, trained.variables, trained.about.image_size_hw)

    @property
    def num_views(self) -> int:
        """V, the views that the model takes."""
        return self.model.layout.num_views

    def start(self, rig: Rig, batch: int = 1) -> PredictorState:
        """Returns the state of `batch` streams that have seen nothing.

        All streams of a state advance together, a frame each; people who come and go on their own have a state each.

        Args:
          rig: of upright images as large as those to come. Leading axis (V,): one headset for all; or (B, V).
          batch: B, people.

        Raises:
          ValueError: no rig, not `num_views` cameras, an image size that the model was not trained on, values that no
            camera can have, or `batch` below 1.
        """
        inputs.count(batch=batch)
        rig = inputs.on_host(rig)
        if getattr(rig.T_cam_headset, "ndim", 0) == 3:
            rig = jax.tree.map(lambda x: np.broadcast_to(x, (batch, *x.shape)), rig)
        size = inputs.rig_image_size(rig, batch, self.model.layout, self.image_size_hw)
        stream = self.model.initial_state(batch)
        # Every array of the state needs memory of its own to be given away; the caller's rig stays the caller's.
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

        Uses `state` up: its memory becomes that of the new one, and using it again is an error. To go two ways from one
        state, copy it first: `jax.tree.map(jnp.copy, state)`.

        Args:
          state: from `start`, `reset` or the last `step`.
          images: (B, V, H, W) uint8, upright, in the order of the rig's cameras.
          T_world_headset: (B, 4, 4); world y up, floor at y = 0.
          view_valid: (B, V) bool, False where a camera delivered nothing: its image is ignored. None: all delivered.
          frame_gap: one for all or (B,), frame times of the training data since the previous frame: at their frame
            rate, 1 plus the frames that were dropped between. Without meaning in a stream's first frame.

        Raises:
          ValueError: a shape or dtype that differs from these, a pose that is not finite and rigid, a frame gap below
            1, a state that was used up or belongs to another model.
        """
        checks.instance("state", state, PredictorState, "what start, reset or the last step returned")
        batch = inputs.check_stream(self.model, state.stream, state.rig)
        with checks.naming("T_world_headset, frame_gap: must be arrays of numbers"):  # not rows of different lengths
            T_world_headset, frame_gap = np.asarray(T_world_headset), np.asarray(frame_gap)
        if view_valid is None:
            view_valid = np.ones((batch, self.num_views), bool)
        if frame_gap.ndim == 0:
            frame_gap = np.broadcast_to(frame_gap, (batch,))
        image_shape = (batch, self.num_views, *state.image_size_hw)
        inputs.check_step(images, T_world_headset, view_valid, frame_gap, image_shape)
        frames = Frames(
            images=_own(images),
            rig=None,  # the state has it
            T_world_headset=T_world_headset.astype(np.float32),
            view_valid=_own(view_valid),
            frame_valid=np.ones(batch, bool),
            frame_gap=frame_gap.astype(np.int32),
        )
        pose, stream = _step(self.model, self.variables, state.stream, state.rig, frames)
        return pose, state.replace(stream=stream)

    def reset(self, state: PredictorState, where: jax.Array) -> PredictorState:
        """Returns the state with the streams selected by `where` (B,) bool as if they had seen nothing.

        Their headsets stay. Uses `state` up as `step` does.

        Raises:
          ValueError: `where` has another shape or dtype, or the state was used up or belongs to another model.
        """
        checks.instance("state", state, PredictorState, "what start, reset or the last step returned")
        batch = inputs.check_stream(self.model, state.stream, state.rig)
        where = np.asarray(where)
        checks.array("where", where, (batch,), np.bool_, "True for the streams that start again")
        return state.replace(stream=_reset(self.model, state.stream, where))

    def clip(self, frames: Frames) -> Pose:
        """Returns the poses (B, T, ...) of whole clips, each from an empty state, in one call of the model.

        Needs memory for all frames at once and compiles for each length. Poses at frames with `frame_valid` False are
        finite and have no meaning.

        Raises:
          ValueError: as `start` and `step`; or padding that valid frames follow.
        """
        inputs.check_frames(frames, self.model.layout, self.image_size_hw)
        return _clip(self.model, self.variables, frames)

    def chunk(self, stream: Any, frames: Frames) -> tuple[Pose, Any]:
        """Returns the poses (B, T, ...) of the next frames of recorded streams, and the model's state after them.

        As `clip`, but goes on from `stream`, which it uses up: the state that the last chunk returned, or None at the
        beginning. Compiles for each length; a shorter chunk is padded with `frame_valid` False and may be followed by
        others.

        Raises:
          ValueError: as `clip`.
        """
        inputs.check_frames(frames, self.model.layout, self.image_size_hw)
        if stream is None:
            stream = jax.tree.map(jnp.array, self.model.initial_state(len(frames.frame_valid)))
        return _chunk(self.model, self.variables, stream, frames)

    def sequence(self, frames: Frames, chunk: int = 16) -> Pose:
        """Returns what `clip` does, computed `chunk` frames at a time: for long recordings.

        A `lax.scan`; the end is padded to a whole chunk, and the poses of the padding are cut off.

        Raises:
          ValueError: as `clip`; or `chunk` below 1.
        """
        inputs.count(chunk=chunk)
        inputs.check_frames(frames, self.model.layout, self.image_size_hw)
        return _sequence(self.model, self.variables, frames, min(chunk, frames.frame_valid.shape[1]))


def _own(array: Any) -> Any:
    """A copy of a host array, which a compiled call may still read after its caller has overwritten it."""
    return array.copy() if isinstance(array, np.ndarray) else array


def _pose(predictions: Predictions, T_world_headset: jax.Array) -> Pose:
    """Adds the world to predictions (B, T, ...); T_world_headset (B, T, 4, 4)."""
    covariance_world_m2 = None
    with jax.default_matmul_precision("highest"):
        joints_world_m = transforms.apply(T_world_headset, predictions.joints_headset_m)
        if predictions.distribution is not None:
            factor = T_world_headset[..., None, :3, :3] @ predictions.distribution.cholesky_m
            covariance_world_m2 = factor @ jnp.swapaxes(factor, -1, -2)
    return Pose(
        joints_headset_m=predictions.joints_headset_m,
        joints_world_m=joints_world_m,
        distribution=predictions.distribution,
        covariance_world_m2=covariance_world_m2,
        body=predictions.body,
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(model: PoseModel, variables: Any, stream: Any, rig: Rig, frames: Frames) -> tuple[Pose, Any]:
    """`frames` without a time axis."""
    frames = jax.tree.map(lambda x: x[:, None], frames).replace(rig=rig)
    predictions, stream = model.apply(variables, frames, stream, method="step")
    return jax.tree.map(lambda x: x[:, 0], _pose(predictions, frames.T_world_headset)), stream


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _reset(model: PoseModel, stream: Any, where: jax.Array) -> Any:
    return base.reset(model, stream, where)


@functools.partial(jax.jit, static_argnums=0)
def _clip(model: PoseModel, variables: Any, frames: Frames) -> Pose:
    return _pose(model.apply(variables, frames), base.clean(frames).T_world_headset)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _chunk(model: PoseModel, variables: Any, stream: Any, frames: Frames) -> tuple[Pose, Any]:
    predictions, stream = model.apply(variables, frames, stream, method="step")
    return _pose(predictions, base.clean(frames).T_world_headset), stream


@functools.partial(jax.jit, static_argnums=(0, 3))
def _sequence(model: PoseModel, variables: Any, frames: Frames, chunk: int) -> Pose:
    T = frames.frame_valid.shape[1]
    missing = -T % chunk
    in_time = jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)), frames.replace(rig=None)
    )  # zeros: frame_valid False
    predictions, _ = streams.scan_frames(model, variables, in_time.replace(rig=frames.rig), chunk=chunk)
    return _pose(jax.tree.map(lambda x: x[:, :T], predictions), base.clean(frames).T_world_headset)
