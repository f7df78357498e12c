"""Body representations: what the heads' numbers mean. Parameters are residuals on a rest pose; zeros are that pose.

They are read in the level frame: at the headset, with its heading, but upright (y opposite to gravity). A nod of the
head then leaves the parameters of a standing body alone; in the headset frame its feet swing through half a metre.
Joints leave here in the headset frame, as the paper has them; the level frame is our choice. Without the headset's
pose (ablation 4) the level frame is the headset frame.
"""

import dataclasses
from typing import Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.geometry import kinematics, rotations, skeleton
from epfv2_jax.structs import BodyParameters

_NUM_INNER = len(skeleton.INNER_JOINTS)
# Where joint j's rotation lies among those of the inner joints; leaves share a last, constant one.
_INNER_SLOT = np.asarray(
    [skeleton.INNER_JOINTS.index(j) if j in skeleton.INNER_JOINTS else _NUM_INNER for j in range(skeleton.NUM_JOINTS)]
)
_IDENTITY_6D = np.asarray([1, 0, 0, 0, 1, 0], np.float32)
# A bone is at most this factor longer or shorter than in the rest pose (our choice).
_MAX_BONE_SCALE = 2.0


class Body(Protocol):
    """A body representation."""

    @property
    def num_parameters(self) -> int:
        """Numbers that a head predicts for a pose."""

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        """Returns joints (..., J, 3) in the headset frame, metres, and the body behind them.

        Args:
          parameters: (..., num_parameters), in the level frame.
          R_headset_level: (..., 3, 3).
        """


@dataclasses.dataclass(frozen=True)
class KeypointBody:
    """Free keypoints: parameters are offsets from the rest pose, metres.

    For another number of joints than the skeleton's, the rest pose is repeated.
    """

    num_joints: int

    @property
    def num_parameters(self) -> int:
        return 3 * self.num_joints

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        chex.assert_axis_dimension(parameters, -1, self.num_parameters)
        rest = np.resize(rest_joints_headset_m(), (self.num_joints, 3))
        offsets = parameters.reshape(*parameters.shape[:-1], self.num_joints, 3)
        joints_level_m = offsets + jnp.broadcast_to(rest, offsets.shape)
        return joints_level_m @ jnp.swapaxes(R_headset_level, -1, -2), None


@dataclasses.dataclass(frozen=True)
class ParametricBody:
    """Forward kinematics of a root pose, local joint rotations and bone scales.

    Parameters, in order: root position (3, metres), root rotation and the rotations of the joints that have children
    (6 each, rot6D), bone log scales (J). Rotations are residuals on the identity's rot6D, position and scales on the
    rest pose. The log scales saturate smoothly, so that no step of training can blow a bone up.
    """

    num_joints: int = skeleton.NUM_JOINTS

    def __post_init__(self):
        if self.num_joints != skeleton.NUM_JOINTS:
            raise ValueError(
                f"the parametric body has {skeleton.NUM_JOINTS} joints, not {self.num_joints}; use body='keypoints'"
            )

    @property
    def num_parameters(self) -> int:
        return 3 + 6 * (1 + _NUM_INNER) + self.num_joints

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        chex.assert_axis_dimension(parameters, -1, self.num_parameters)
        lead = parameters.shape[:-1]
        position, turns, log_scales = jnp.split(parameters, (3, 9 + 6 * _NUM_INNER), axis=-1)
        turns = turns.reshape(*lead, 1 + _NUM_INNER, 6)
        matrices = rotations.rot6d_to_matrix(turns + jnp.broadcast_to(_IDENTITY_6D, turns.shape))
        identity = jnp.broadcast_to(jnp.eye(3, dtype=matrices.dtype), (*lead, 1, 3, 3))
        root_level_m = position + jnp.broadcast_to(jnp.asarray(skeleton.REST_ROOT_HEADSET_M), position.shape)
        limit = float(np.log(_MAX_BONE_SCALE))
        body = BodyParameters(
            root_rotation=R_headset_level @ matrices[..., 0, :, :],
            root_position_m=(R_headset_level @ root_level_m[..., None])[..., 0],
            joint_rotations=jnp.concatenate([matrices[..., 1:, :, :], identity], axis=-3)[..., _INNER_SLOT, :, :],
            bone_scales=jnp.exp(limit * jnp.tanh(log_scales / limit)),
        )
        return joints_of(body), body


#: Body representations by the name that a recipe gives.
BODIES: dict[str, type[Body]] = {"keypoints": KeypointBody, "parametric": ParametricBody}


def joints_of(body: BodyParameters) -> jax.Array:
    """Returns the joints (..., J, 3) of a body in the headset frame, metres."""
    return kinematics.forward_kinematics(
        body.root_rotation, body.root_position_m, body.joint_rotations, kinematics.joint_offsets(body.bone_scales)
    )


def rest_joints_headset_m() -> np.ndarray:
    """Returns the joints (J, 3) of the rest pose, a T-pose below an upright headset, in the headset frame, metres."""
    joints = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
    for level in skeleton.DEPTH_LEVELS:
        for j in level:
            parent = skeleton.PARENTS[j]
            origin = np.asarray(skeleton.REST_ROOT_HEADSET_M, np.float32) if parent < 0 else joints[parent]
            joints[j] = origin + np.asarray(skeleton.REST_OFFSETS_M[j], np.float32)
    return joints
