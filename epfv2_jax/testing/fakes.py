"""Batches and predictions of small people near the rest pose, for tests of losses, metrics, evaluation and pictures."""

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from epfv2_jax import structs
from epfv2_jax.data import records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel

J = EGOBODY3M.num_joints

#: A headset with two cameras whose stored images are upright.
TWO_VIEWS = RigLayout(name="two_views", view_names=("left", "right"), upright_turns=(0, 0), mirror=(1, 0))


def rest_joints() -> np.ndarray:
    """Returns the rest pose (J, 3) in the headset frame, metres."""
    return EGOBODY3M.rest_joints_headset_m().astype(np.float64)


def record_spec(image_size_hw: tuple[int, int]) -> records.RecordSpec:
    """Returns the specification of records like those of EgoBody3M, with images of this size."""
    return records.RecordSpec(
        image_size_hw=image_size_hw,
        camera_model="fisheye",
        frame_s=1 / 30,
        skeleton=EGOBODY3M,
        layout=layout.EGOBODY3M,
    )


def fake_batch(B=3, T=6, seed=0, image_hw=(16, 16), joints=None) -> structs.Batch:
    """Returns a numpy batch at 30 Hz: moving joints, a wandering headset, some masked joints, every mask honest."""
    rng = np.random.default_rng(seed)
    if joints is None:
        drift = np.cumsum(rng.normal(0, 0.01, (B, T, J, 3)), axis=1)
        joints = np.broadcast_to(rest_joints(), (B, T, J, 3)) + drift
    T_world_headset = np.broadcast_to(np.eye(4), (B, T, 4, 4)).copy()
    angles = np.cumsum(rng.normal(0, 0.04, (B, T, 3)), axis=1)
    T_world_headset[..., :3, :3] = Rotation.from_euler("yxz", angles.reshape(-1, 3)).as_matrix().reshape(B, T, 3, 3)
    T_world_headset[..., :3, 3] = np.array([0.3, 1.5, -0.4]) + np.cumsum(rng.normal(0, 0.01, (B, T, 3)), axis=1)
    rig = rig_lib.upright(rig_lib.default_rig(), layout.EGOBODY3M, image_hw)
    V = 4
    return structs.Batch(
        frames=structs.Frames(
            images=rng.integers(0, 255, (B, T, V, *image_hw), dtype=np.uint8),
            rig=jax.tree.map(lambda leaf: np.broadcast_to(leaf, (B, *np.shape(leaf))), rig),
            T_world_headset=T_world_headset.astype(np.float32),
            view_valid=np.ones((B, T, V), bool),
            frame_valid=np.ones((B, T), bool),
            frame_gap=np.ones((B, T), np.int32),
        ),
        targets=structs.Targets(
            joints_headset_m=joints.astype(np.float32),
            joint_valid=rng.random((B, T, J)) > 0.05,
        ),
        clip_id=np.arange(B, dtype=np.int32),
        time_s=np.tile(np.arange(T, dtype=np.float32) / 30, (B, 1)),
    )


def circling(rate_hz: float | None, radius_m: float, period_s: float) -> tuple[structs.Batch, np.ndarray]:
    """Returns a batch of one clip of 2 s with a resting truth, and joints (1, T, J, 3) that move on a circle.

    `rate_hz` is the frame rate; None: uneven steps of 20 to 60 ms. World and headset axes are the same.
    """
    if rate_hz is None:
        time_s = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 50))
        time_s -= time_s[0]
    else:
        time_s = np.arange(round(2 * rate_hz)) / rate_hz
    T = len(time_s)
    batch = fake_batch(B=1, T=T, joints=np.zeros((1, T, J, 3)))
    batch.targets.joint_valid[:] = True
    batch.frames.T_world_headset[:] = np.eye(4)
    angle = 2 * np.pi * time_s / period_s
    circle = radius_m * np.stack([np.cos(angle), np.zeros(T), np.sin(angle)], axis=-1)
    joints = np.broadcast_to(circle[None, :, None], (1, T, J, 3)).astype(np.float32)
    return batch.replace(time_s=time_s[None].astype(np.float32)), joints


def fake_predictions(batch: structs.Batch, seed=1, sigma_m=0.05) -> structs.Predictions:
    """Returns predictions off by about `sigma_m`, with a lower-triangular scale of about that size."""
    rng = np.random.default_rng(seed)
    truth = batch.targets.joints_headset_m
    lower = np.tril(rng.normal(0, 0.2 * sigma_m, (*truth.shape, 3)), -1)
    lower += np.eye(3) * rng.uniform(0.7, 1.3, (*truth.shape, 1)) * sigma_m
    return structs.Predictions(
        joints_headset_m=(truth + rng.normal(0, sigma_m, truth.shape)).astype(np.float32),
        intermediate_joints_m={
            "proposal": (truth + rng.normal(0, 1.5 * sigma_m, truth.shape)).astype(np.float32),
        },
        distribution=structs.StudentT(cholesky_m=lower.astype(np.float32), degrees_of_freedom=4.0),
    )


def mask_some(batch: structs.Batch) -> structs.Batch:
    """Returns `batch` with the tail of clip 0 as padding and a dropped frame inside clip 1 (which it must have)."""
    frame_valid, frame_gap = batch.frames.frame_valid.copy(), batch.frames.frame_gap.copy()
    frame_valid[0, -2:] = False
    frame_gap[1, 2] = 3
    time_s = np.cumsum(frame_gap, axis=1, dtype=np.float32) / 30
    frames = batch.frames.replace(frame_valid=frame_valid, frame_gap=frame_gap)
    return batch.replace(frames=frames, time_s=time_s - time_s[:, :1])


def poison(batch: structs.Batch, predictions: structs.Predictions) -> tuple[structs.Batch, structs.Predictions]:
    """Returns both with NaN wherever the masks say that nothing counts."""
    valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid

    def spoil(array, mask):
        return np.where(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array, np.nan).astype(np.float32)

    frames = batch.frames.replace(T_world_headset=spoil(batch.frames.T_world_headset, batch.frames.frame_valid))
    targets = batch.targets.replace(joints_headset_m=spoil(batch.targets.joints_headset_m, valid))
    predictions = structs.Predictions(
        joints_headset_m=spoil(predictions.joints_headset_m, valid),
        intermediate_joints_m={k: spoil(v, valid) for k, v in predictions.intermediate_joints_m.items()},
        distribution=predictions.distribution.replace(cholesky_m=spoil(predictions.distribution.cholesky_m, valid)),
    )
    return batch.replace(frames=frames, targets=targets), predictions


def random_variables(model: PoseModel, frames: structs.Frames, seed: int = 0) -> dict:
    """Returns variables of a model as after some training: last layers, which start near zero, are random too.

    Drawn by numpy: compiling `init` takes longer than most tests.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith(("scale", "var")):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        std = 0.03 if "last" in name else 0.1 if leaf.ndim == 1 else (leaf.shape[-1] / leaf.size) ** 0.5
        return rng.normal(0, std, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, base.abstract_variables(model, frames))
