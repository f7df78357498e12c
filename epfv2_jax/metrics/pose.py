"""Metrics of predicted motion as mergeable sums, and the mean-pose baseline.

`PoseMetrics.from_batch` is pure and may be compiled; it returns sums over one batch, with masked frames and joints
left out. Sums merge by addition, so the result does not depend on how frames were batched. Merge on the host in
float64: `zeros` returns numpy arrays for that.

Definitions, errors in the headset frame without alignment unless said otherwise (the choices are ours where the
literature does not fix them):

* MPJPE: mean distance over joints. PA-MPJPE: after a similarity alignment of each frame onto the truth.
* MPJVE: mean norm of the difference between predicted and true velocity from frame to frame, world frame; in cm per
1/30 s, which at the frame rate of EgoBody3M is cm per frame (the paper's likely unit), and in m/s.
* Jitter: mean norm of the third derivative of positions, world frame, m/s^3.
* Calibration: share of the errors inside the ellipsoids that the predicted Student-t holds with a given probability.
"""

from collections.abc import Iterable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import struct

from epfv2_jax import structs
from epfv2_jax.core import derivatives, linalg, masks
from epfv2_jax.geometry import alignment, transforms
from epfv2_jax.geometry.skeleton import Skeleton

#: Nominal probabilities of the ellipsoids at which calibration is measured.
CALIBRATION_LEVELS: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: A similarity has seven degrees of freedom: with fewer points PA-MPJPE would be zero or arbitrary.
_MIN_ALIGNED_JOINTS = 4


class PoseMetrics(struct.PyTreeNode):
    """Sums and counts; per joint where it says J. Lengths in metres."""

    error_sum: jax.Array  # (J,)
    proposal_error_sum: jax.Array  # (J,) of the proposal; of the final pose if a model has no proposal
    squared_error_sum: jax.Array  # (J,)
    count: jax.Array  # (J,) valid joints
    frames: jax.Array  # () frames with at least one valid joint
    aligned_error_sum: jax.Array  # (J,)
    aligned_count: jax.Array  # (J,)
    velocity_error_sum: jax.Array  # (J,) m/s
    velocity_count: jax.Array  # (J,)
    jerk_sum: jax.Array  # (J,) m/s^3, of the prediction
    true_jerk_sum: jax.Array  # (J,) the same of the truth
    jerk_count: jax.Array  # (J,)
    inside_count: jax.Array  # (levels, J) errors inside the ellipsoid of each of CALIBRATION_LEVELS
    variance_sum: jax.Array  # (J,) predicted variance of one axis, mean over the axes
    distribution_count: jax.Array  # (J,) joints with a predicted distribution; zero if the model has none

    @classmethod
    def zeros(cls, num_joints: int) -> "PoseMetrics":
        """Returns the neutral element of `merge`, float64 on the host."""
        J = num_joints
        shapes = {name: (J,) for name in cls.__dataclass_fields__}
        shapes |= {"frames": (), "inside_count": (len(CALIBRATION_LEVELS), J)}
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})

    @classmethod
    def from_batch(cls, predictions: structs.Predictions, batch: structs.Batch) -> "PoseMetrics":
        """Returns the sums over one batch, float32.

        Args:
          predictions: leading axes (B, T), headset frame, metres.
          batch: targets, masks and times; images are not read.
        """
        frames, targets = batch.frames, batch.targets
        chex.assert_equal_shape([predictions.joints_headset_m, targets.joints_headset_m])
        valid = frames.frame_valid[..., None] & targets.joint_valid
        truth = masks.keep(targets.joints_headset_m, valid)
        joints = masks.keep(predictions.joints_headset_m, valid)
        first = predictions.intermediate_joints_m.get("proposal", predictions.joints_headset_m)
        proposal = masks.keep(first, valid)
        T_world_headset = masks.keep(frames.T_world_headset, frames.frame_valid, jnp.eye(4))
        true_world, world = (transforms.apply(T_world_headset, x) for x in (truth, joints))

        aligned = alignment.similarity_align(joints, truth, valid.astype(jnp.float32))
        alignable = valid & (valid.sum(-1, keepdims=True) >= _MIN_ALIGNED_JOINTS)
        moving = masks.consecutive(frames.frame_valid, frames.frame_gap, targets.joint_valid, order=1)
        steady = masks.consecutive(frames.frame_valid, frames.frame_gap, targets.joint_valid, order=3)
        velocity_error = derivatives.derivative(world - true_world, batch.time_s, 1)
        jerk, true_jerk = (derivatives.derivative(x, batch.time_s, 3) for x in (world, true_world))
        inside, variance, has_distribution = _calibration(predictions.distribution, joints - truth, valid)
        return cls(
            error_sum=_sum(_norm(joints - truth), valid),
            proposal_error_sum=_sum(_norm(proposal - truth), valid),
            squared_error_sum=_sum(linalg.squared_norm(joints - truth), valid),
            count=_count(valid),
            frames=valid.any(-1).sum(dtype=jnp.float32),
            aligned_error_sum=_sum(_norm(aligned - truth), alignable),
            aligned_count=_count(alignable),
            velocity_error_sum=_sum(_norm(velocity_error), moving),
            velocity_count=_count(moving),
            jerk_sum=_sum(_norm(jerk), steady),
            true_jerk_sum=_sum(_norm(true_jerk), steady),
            jerk_count=_count(steady),
            inside_count=inside,
            variance_sum=variance,
            distribution_count=has_distribution,
        )

    def merge(self, other: "PoseMetrics") -> "PoseMetrics":
        """Returns the sums over both."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def summary(self, skeleton: Skeleton) -> dict[str, float]:
        """Returns the metrics by name, the unit at the end of each name; NaN where nothing was counted.

        Names: frames, mpjpe_cm, mpjve_cm (per 1/30 s), mpjve_m_s, one per metric group (wrist_cm, ...), pa_mpjpe_cm,
        proposal_mpjpe_cm, jitter_m_s3, true_jitter_m_s3; with a predicted distribution also inside_50, inside_90,
        inside_99 (shares in [0, 1]), predicted_sigma_cm and error_sigma_cm (root mean square of one axis of the
        predicted distribution and of the error).
        """
        mpjve_m_s = _ratio(self.velocity_error_sum, self.velocity_count)
        values = {
            "frames": float(self.frames),
            "mpjpe_cm": 100 * _ratio(self.error_sum, self.count),
            "mpjve_cm": 100 * mpjve_m_s * derivatives.PUBLISHED_FRAME_S,
            "mpjve_m_s": mpjve_m_s,
        }
        for name, joints in skeleton.metric_groups.items():
            rows = list(joints)
            values[f"{name}_cm"] = 100 * _ratio(np.asarray(self.error_sum)[rows], np.asarray(self.count)[rows])
        values |= {
            "pa_mpjpe_cm": 100 * _ratio(self.aligned_error_sum, self.aligned_count),
            "proposal_mpjpe_cm": 100 * _ratio(self.proposal_error_sum, self.count),
            "jitter_m_s3": _ratio(self.jerk_sum, self.jerk_count),
            "true_jitter_m_s3": _ratio(self.true_jerk_sum, self.jerk_count),
        }
        shares = self.calibration()
        if shares:
            values |= {f"inside_{round(100 * level)}": shares[level] for level in (0.5, 0.9, 0.99)}
            values["predicted_sigma_cm"] = 100 * _ratio(self.variance_sum, self.distribution_count) ** 0.5
            values["error_sigma_cm"] = 100 * (_ratio(self.squared_error_sum, self.count) / 3) ** 0.5
        return values

    def per_joint_cm(self, skeleton: Skeleton) -> dict[str, float]:
        """Returns the mean error of each joint by name, cm; NaN for a joint that was never valid."""
        sums, counts = np.asarray(self.error_sum), np.asarray(self.count)
        return {name: 100 * _ratio(sums[j], counts[j]) for j, name in enumerate(skeleton.joint_names)}

    def calibration(self, joints: Sequence[int] | None = None) -> dict[float, float]:
        """Returns the share of errors inside each ellipsoid of `CALIBRATION_LEVELS`; empty without a distribution.

        `joints`: only of these; None: of all.
        """
        rows = slice(None) if joints is None else list(joints)
        count, inside = np.asarray(self.distribution_count)[rows], np.asarray(self.inside_count)[:, rows]
        if not count.sum():
            return {}
        return {level: _ratio(inside[i], count) for i, level in enumerate(CALIBRATION_LEVELS)}


def ellipsoid_radius(level: float, degrees_of_freedom: float) -> float:
    """Returns r such that a 3D Student-t with scale L L^T is inside {L x: |x| <= r} with probability `level`.

    The squared radius is 3 times the quantile of the F distribution with 3 and nu degrees of freedom.
    """
    return float(np.sqrt(3 * scipy.special.fdtri(3, degrees_of_freedom, level)))


def mean_pose(batches: Iterable[structs.Batch], skeleton: Skeleton) -> np.ndarray:
    """Returns the mean of the valid target joints (J, 3), headset frame, metres, float64; images are not read.

    NaN for a joint that is valid in no frame.

    Raises:
      ValueError: that holds for all joints.
    """
    total, count = np.zeros((skeleton.num_joints, 3)), np.zeros(skeleton.num_joints)
    for batch in batches:
        valid = np.asarray(batch.frames.frame_valid)[..., None] & np.asarray(batch.targets.joint_valid)
        joints = np.where(valid[..., None], np.asarray(batch.targets.joints_headset_m, np.float64), 0.0)
        total += joints.sum((0, 1))
        count += valid.sum((0, 1))
    if not count.any():
        raise ValueError(f"mean pose: no joint of {skeleton.name!r} is valid in any frame; give batches with a truth")
    seen = count[:, None] > 0
    return np.where(seen, total / np.where(seen, count[:, None], 1), np.nan)


def mean_pose_predictions(mean_pose_headset_m: jax.Array, batch: structs.Batch) -> structs.Predictions:
    """Returns the mean pose (J, 3) as the prediction for every frame of `batch`: a baseline that uses no image."""
    shape = batch.targets.joints_headset_m.shape
    joints = jnp.broadcast_to(jnp.asarray(mean_pose_headset_m, jnp.float32)[None, None], shape)
    return structs.Predictions(joints_headset_m=joints)


def _calibration(
    distribution: structs.StudentT | None, delta: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns sums: (errors inside each ellipsoid (levels, J), variance of one axis (J,), joints counted (J,))."""
    if distribution is None:
        zeros = jnp.zeros(valid.shape[-1])
        return jnp.zeros((len(CALIBRATION_LEVELS), valid.shape[-1])), zeros, zeros
    nu = distribution.degrees_of_freedom
    lower = masks.keep(distribution.cholesky_m, valid, jnp.eye(3))
    radius = jnp.sqrt(linalg.squared_norm(linalg.solve_lower_3x3(lower, delta)))
    levels = [ellipsoid_radius(level, nu) for level in CALIBRATION_LEVELS]
    inside = jnp.stack([_count(valid & (radius <= level)) for level in levels])
    spread = nu / (nu - 2) if nu > 2 else jnp.nan  # variance of the Student-t relative to its scale matrix
    variance = spread * jnp.square(lower).sum((-2, -1)) / 3
    return inside, _sum(variance, valid), _count(valid)


def _sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    return masks.masked_sum(values, mask, axis=(0, 1))


def _count(mask: jax.Array) -> jax.Array:
    return mask.sum((0, 1), dtype=jnp.float32)


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(linalg.squared_norm(x))


def _ratio(total, count) -> float:
    count = float(np.sum(count))
    return float(np.sum(total)) / count if count else float("nan")
