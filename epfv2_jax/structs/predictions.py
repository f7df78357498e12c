"""What a model returns."""

import jax
from flax import struct


class BodyParameters(struct.PyTreeNode):
    """Parameters of the body: forward kinematics of these gives the joints."""

    root_rotation: jax.Array  # (..., 3, 3) R_headset_root
    root_position_m: jax.Array  # (..., 3) in the headset frame
    joint_rotations: jax.Array  # (..., J, 3, 3) local, R_parent_joint; identity at leaves
    bone_scales: jax.Array  # (..., J) length of each bone relative to the rest pose


class StudentT(struct.PyTreeNode):
    """A Student-t distribution of each joint about its predicted position."""

    cholesky_m: jax.Array  # (..., J, 3, 3) lower-triangular L of the scale matrix L L^T, metres, headset axes
    degrees_of_freedom: float = struct.field(pytree_node=False)  # nu; above 2 the covariance is nu / (nu - 2) L L^T


class Predictions(struct.PyTreeNode):
    """What a model says about the frames of clips. A model leaves out what it does not know."""

    joints_headset_m: jax.Array  # (B, T, J, 3) float32, the final pose
    # Earlier poses that are trained too, (B, T, J, 3) each, by name: "proposal" for the first, "layer_1", ...
    intermediate_joints_m: dict[str, jax.Array] = struct.field(default_factory=dict)
    distribution: StudentT | None = None  # leading axes (B, T)
    body: BodyParameters | None = None  # of the final pose, leading axes (B, T); None without a body model
    # (B, T, V, h, w, K) float32 by name, 1 where a joint is, of some or all joints, whichever the model predicts:
    # "predicted", and "reconstructed" from them.
    heatmaps: dict[str, jax.Array] = struct.field(default_factory=dict)
    # (B, T, V, h, w, L) float32, of `Skeleton.limbs`: log odds that a limb, hidden or not, lies on a cell of the image.
    # Models find limbs in training alone.
    limb_logits: jax.Array | None = None
