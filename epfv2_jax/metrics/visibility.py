"""Errors of the joints that a camera sees and of those that none does, as mergeable sums.

A joint is in view where at least one valid camera's lens sees its true position inside the image. Occlusion is not
considered: a hand behind the back of a chair, or of the body, is in view.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.core import linalg, masks
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Batch, Frames, Predictions

#: The name of all joints together in `InViewMetrics.summary`.
ALL_JOINTS = "all joints"


class InViewMetrics(struct.PyTreeNode):
    """Sums and counts per joint; metres."""

    in_view_error_sum: jax.Array  # (J,)
    in_view_count: jax.Array  # (J,)
    out_of_view_error_sum: jax.Array  # (J,)
    out_of_view_count: jax.Array  # (J,)

    @classmethod
    def zeros(cls, num_joints: int) -> "InViewMetrics":
        """Returns the neutral element of `merge`, float64 on the host."""
        return cls(**{name: np.zeros(num_joints) for name in cls.__dataclass_fields__})

    @classmethod
    def from_batch(cls, predictions: Predictions, batch: Batch) -> "InViewMetrics":
        """Returns the sums over one batch, float32; see `PoseMetrics.from_batch`."""
        valid = batch.frames.frame_valid[..., None] & batch.targets.joint_valid
        truth, joints = (masks.keep(x, valid) for x in (batch.targets.joints_headset_m, predictions.joints_headset_m))
        error = jnp.sqrt(linalg.squared_norm(joints - truth))
        seen = in_view(truth, batch.frames)
        shown, hidden = valid & seen, valid & ~seen
        return cls(
            in_view_error_sum=masks.masked_sum(error, shown, axis=(0, 1)),
            in_view_count=shown.sum((0, 1), dtype=jnp.float32),
            out_of_view_error_sum=masks.masked_sum(error, hidden, axis=(0, 1)),
            out_of_view_count=hidden.sum((0, 1), dtype=jnp.float32),
        )

    def merge(self, other: "InViewMetrics") -> "InViewMetrics":
        """Returns the sums over both."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def summary(self, skeleton: Skeleton) -> dict[str, dict[str, float]]:
        """Returns for all joints and for each metric group by name: in_view_cm, out_of_view_cm, in_view_share.

        Mean errors in cm, and the share [0, 1] of the joints that are in view; NaN where nothing was counted.
        """
        groups = {ALL_JOINTS: tuple(range(skeleton.num_joints)), **skeleton.metric_groups}
        found = {}
        for name, rows in groups.items():
            sums = jax.tree.map(lambda x, rows=rows: float(np.asarray(x)[list(rows)].sum()), self)
            shown, hidden = sums.in_view_count, sums.out_of_view_count
            found[name] = {
                "in_view_cm": _ratio(100 * sums.in_view_error_sum, shown),
                "out_of_view_cm": _ratio(100 * sums.out_of_view_error_sum, hidden),
                "in_view_share": _ratio(shown, shown + hidden),
            }
        return found


def in_view(joints_headset_m: jax.Array, frames: Frames) -> jax.Array:
    """Returns whether a valid camera's lens sees each of the joints (B, T, J, 3) inside its image: (B, T, J) bool."""
    B, T, J, _ = joints_headset_m.shape
    camera = jax.tree.map(lambda x: x[:, None], frames.rig.cameras)
    uv_px, valid = cameras.project(
        camera, transforms.apply(frames.rig.T_cam_headset[:, None], joints_headset_m[:, :, None])
    )
    seen = valid & cameras.inside_image(camera, uv_px) & frames.view_valid[..., None]
    chex.assert_shape(seen, (B, T, frames.view_valid.shape[-1], J))
    return seen.any(axis=2)


def _ratio(total: float, count: float) -> float:
    return total / count if count else float("nan")
