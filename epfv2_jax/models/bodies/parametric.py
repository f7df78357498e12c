"""A body of bones: forward kinematics of a root pose, local rotations and bone scales."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.geometry import kinematics, rotations
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import BodyParameters

_IDENTITY_6D = np.asarray([1, 0, 0, 0, 1, 0], np.float32)
# A bone is at most this factor longer or shorter than in the rest pose (our choice).
_MAX_BONE_SCALE = 2.0


@dataclasses.dataclass(frozen=True)
class ParametricBody:
    """Forward kinematics of a root pose, local joint rotations and bone scales.

    Parameters, in order: root position (3, metres), root rotation and the rotations of the joints that have children
    (6 each, rot6D), bone log scales (J). Rotations are residuals on the identity's rot6D, position and scales on the
    rest pose. The log scales saturate smoothly, which bounds the bone lengths in training.
    """

    skeleton: Skeleton

    @property
    def num_parameters(self) -> int:
        return 3 + 6 * (1 + len(self.skeleton.inner_joints)) + self.skeleton.num_joints

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        chex.assert_axis_dimension(parameters, -1, self.num_parameters)
        lead, inner = parameters.shape[:-1], self.skeleton.inner_joints
        position, turns, log_scales = jnp.split(parameters, (3, 9 + 6 * len(inner)), axis=-1)
        turns = turns.reshape(*lead, 1 + len(inner), 6)
        matrices = rotations.rot6d_to_matrix(turns + jnp.broadcast_to(_IDENTITY_6D, turns.shape))
        identity = jnp.broadcast_to(jnp.eye(3, dtype=matrices.dtype), (*lead, 1, 3, 3))
        root_level_m = position + jnp.broadcast_to(jnp.asarray(self.skeleton.rest_root_headset_m), position.shape)
        limit = float(np.log(_MAX_BONE_SCALE))
        # Index of joint j's rotation among those of the inner joints; leaves share the identity, which comes last.
        index = np.asarray([inner.index(j) if j in inner else len(inner) for j in range(self.skeleton.num_joints)])
        body = BodyParameters(
            root_rotation=R_headset_level @ matrices[..., 0, :, :],
            root_position_m=(R_headset_level @ root_level_m[..., None])[..., 0],
            joint_rotations=jnp.concatenate([matrices[..., 1:, :, :], identity], axis=-3)[..., index, :, :],
            bone_scales=jnp.exp(limit * jnp.tanh(log_scales / limit)),
        )
        return joints_of(body, self.skeleton), body


def joints_of(body: BodyParameters, skeleton: Skeleton) -> jax.Array:
    """Returns the joints (..., J, 3) of a body in the headset frame, metres."""
    offsets_m = kinematics.joint_offsets(skeleton, body.bone_scales)
    joints_m, _ = kinematics.forward_kinematics(
        skeleton.parents, body.root_rotation, body.root_position_m, body.joint_rotations, offsets_m
    )
    return joints_m
