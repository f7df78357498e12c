"""What a model returns."""

import jax
from flax import struct


class BodyParameters(struct.PyTreeNode):
    """Parameters of the body: forward kinematics of these gives the joints."""

    root_rotation: jax.Array  # (..., 3, 3) R_headset_root
    root_position_m: jax.Array  # (..., 3) in the headset frame
    joint_rotations: jax.Array  # (..., J, 3, 3) local, R_parent_joint; identity at leaves
    bone_scales: jax.Array  # (..., J) length of each bone relative to the rest pose


class Predictions(struct.PyTreeNode):
    """What the model says."""

    joints_headset_m: jax.Array  # (B, T, J, 3) float32, after refinement
    proposal_joints_headset_m: jax.Array  # (B, T, J, 3) float32, before it
    cholesky_m: jax.Array | None  # (B, T, J, 3, 3) float32 lower-triangular L of covariance L L^T; None if switched off
    body: BodyParameters | None  # of the refined pose, leading axes (B, T); None for the keypoint body
