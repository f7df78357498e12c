"""Free keypoints."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import BodyParameters


@dataclasses.dataclass(frozen=True)
class KeypointBody:
    """Free keypoints: parameters are offsets from the rest pose, metres."""

    skeleton: Skeleton

    @property
    def num_parameters(self) -> int:
        return 3 * self.skeleton.num_joints

    def joints(self, parameters: jax.Array, R_headset_level: jax.Array) -> tuple[jax.Array, BodyParameters | None]:
        chex.assert_axis_dimension(parameters, -1, self.num_parameters)
        rest = self.skeleton.rest_joints_headset_m()
        offsets = parameters.reshape(*parameters.shape[:-1], self.skeleton.num_joints, 3)
        joints_level_m = offsets + jnp.broadcast_to(rest, offsets.shape)
        return joints_level_m @ jnp.swapaxes(R_headset_level, -1, -2), None
