"""The named inputs and outputs of a graph that do not depend on the kind of model: frames in, predictions out."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.deploy.sequences import CALIBRATION
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.cameras import Camera, Model
from epfv2_jax.structs import Frames, Predictions, Rig

#: What each output holds that is not state.
MEANINGS = {
    "joints_headset_m": "joints in the headset frame, metres",
    "joints_world_m": "joints in the world frame, metres",
    "cholesky_m": "lower-triangular L of each joint's scale matrix L L^T in the headset frame, metres",
    "root_rotation": "R_headset_root of the hidden root between the hips",
    "root_position_m": "the hidden root in the headset frame, metres",
    "joint_rotations": "R_parent_joint of each joint; identity at leaves",
    "bone_scales": "length of each bone relative to the rest pose",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str
    state: bool = False  # comes back as the output next_NAME; zeros before the first frame

    def abstract(self) -> jax.ShapeDtypeStruct:
        """Returns shape and dtype."""
        return jax.ShapeDtypeStruct(self.shape, np.dtype(self.dtype))


def frame_inputs(num_views: int, image_size_hw: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    """Returns the inputs that every graph has, in order: one frame of `batch` streams and their cameras."""
    B, V, (H, W) = batch, num_views, image_size_hw
    return (
        Tensor(name="images", shape=(B, V, H, W), dtype="uint8", meaning="monochrome, upright, views in camera order"),
        Tensor(name="T_world_headset", shape=(B, 4, 4), dtype="float32", meaning="pose of the headset, metres"),
        Tensor(name="view_valid", shape=(B, V), dtype="bool", meaning="false: this camera delivered no usable image"),
        Tensor(name="frame_gap", shape=(B,), dtype="int32", meaning="frame times since the previous frame, usually 1"),
        Tensor(name="focal_px", shape=(B, V, 2), dtype="float32", meaning="fx, fy, pixels"),
        Tensor(name="center_px", shape=(B, V, 2), dtype="float32", meaning="cx, cy, pixels; a pixel's centre is whole"),
        Tensor(name="radial", shape=(B, V, 6), dtype="float32", meaning="k1 ... k6 of the lens model"),
        Tensor(name="tangential", shape=(B, V, 2), dtype="float32", meaning="p1, p2"),
        Tensor(name="thin_prism", shape=(B, V, 4), dtype="float32", meaning="s1 ... s4; zeros where there are none"),
        Tensor(
            name="max_angle_rad", shape=(B, V), dtype="float32", meaning="the lens model is valid below this angle, rad"
        ),
        Tensor(name="T_cam_headset", shape=(B, V, 4, 4), dtype="float32", meaning="pose of the headset in each camera"),
    )


def frames_of(given: Mapping[str, jax.Array], camera_model: Model = "fisheye") -> Frames:
    """Returns chunks of one frame, T = 1, from the inputs of the graph by name."""
    B, V, H, W = given["images"].shape
    lens = {name: given[name] for name in CALIBRATION[:-1]}
    size_px = jnp.broadcast_to(jnp.asarray([W, H], jnp.float32), (B, V, 2))
    return Frames(
        images=given["images"][:, None],
        rig=Rig(cameras=Camera(size_px=size_px, model=camera_model, **lens), T_cam_headset=given["T_cam_headset"]),
        T_world_headset=given["T_world_headset"][:, None],
        view_valid=given["view_valid"][:, None],
        frame_valid=jnp.ones((B, 1), bool),
        frame_gap=given["frame_gap"][:, None],
    )


def outputs_of(predictions: Predictions, T_world_headset: jax.Array) -> dict[str, jax.Array]:
    """Returns the outputs by name from predictions for chunks of one frame; T_world_headset (B, 4, 4)."""
    joints = predictions.joints_headset_m[:, 0]
    with jax.default_matmul_precision("highest"):
        outputs = {"joints_headset_m": joints, "joints_world_m": transforms.apply(T_world_headset, joints)}
    if predictions.distribution is not None:
        outputs["cholesky_m"] = predictions.distribution.cholesky_m[:, 0]
    if predictions.body is not None:
        body = {f.name: getattr(predictions.body, f.name) for f in dataclasses.fields(predictions.body)}
        outputs |= {name: value[:, 0] for name, value in body.items()}
    return outputs


def empty_state(inputs: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Returns the state of streams that have seen nothing, by name: zeros."""
    return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in inputs if tensor.state}
