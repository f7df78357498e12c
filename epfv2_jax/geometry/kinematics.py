"""Forward kinematics over a tree of joints, bone lengths, and the fit of a skeleton to observed joints."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.geometry.skeleton import Skeleton, depth_levels

Array = np.ndarray | jax.Array

#: Shorter bones, metres, have no direction in a fit: noise would turn them, and all below them, at will.
MIN_BONE_M = 0.01


def forward_kinematics(
    parents: tuple[int, ...],
    root_rotation: Array,
    root_position_m: Array,
    joint_rotations: Array,
    offsets_m: Array,
) -> tuple[Array, Array]:
    """Returns joints (..., J, 3), metres, and rotations R_frame_joint (..., J, 3, 3), in the frame of the root's pose.

    A joint lies at its parent's position plus its offset, which the parent's rotation turns. All joints of one depth
    are computed together. NumPy arrays give NumPy arrays of the same dtype; all others go through JAX.

    Args:
      parents: the parent of each joint, -1 for a child of the root; in any order.
      root_rotation: (..., 3, 3), R_frame_root.
      root_position_m: (..., 3), of the root in the frame.
      joint_rotations: (..., J, 3, 3), local: R_parent_joint. Those of leaves move no joint.
      offsets_m: (..., J, 3), of each joint from its parent, in the parent's axes.

    Raises:
      ValueError: the parents are not a tree.
    """
    chex.assert_shape(joint_rotations, (..., len(parents), 3, 3))
    chex.assert_shape(offsets_m, (..., len(parents), 3))
    xp = np if all(isinstance(x, np.ndarray) for x in (root_rotation, joint_rotations, offsets_m)) else jnp
    levels = depth_levels(tuple(parents))
    rotations, positions = root_rotation[..., None, :, :], root_position_m[..., None, :]
    above: tuple[int, ...] = (-1,)
    joints, joint_frames = [], []
    for level in levels:
        rows = np.asarray([above.index(parents[j]) for j in level])
        columns = np.asarray(level)
        parent_rotations = rotations[..., rows, :, :]
        offsets = offsets_m[..., columns, :]
        local = joint_rotations[..., columns, :, :]
        if xp is np:
            moved = (parent_rotations @ offsets[..., None])[..., 0]
            rotations = parent_rotations @ local
        else:
            # Sums of products rather than matrix products: exact float32 on every accelerator, and XLA on CPU (jaxlib
            # 0.10.2) refuses the batched 3x3 product under several leading axes.
            moved = jnp.sum(parent_rotations * offsets[..., None, :], axis=-1)
            rotations = jnp.sum(parent_rotations[..., :, :, None] * local[..., None, :, :], axis=-2)
        positions = positions[..., rows, :] + moved
        joints.append(positions)
        joint_frames.append(rotations)
        above = level
    back = np.argsort([j for level in levels for j in level])
    return xp.concatenate(joints, axis=-2)[..., back, :], xp.concatenate(joint_frames, axis=-3)[..., back, :, :]


def local_rotations(parents: tuple[int, ...], root_rotation: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Returns R_parent_joint (..., J, 3, 3) from R_frame_joint: inverts the rotations of `forward_kinematics`.

    Args:
      parents: the parent of each joint, -1 for a child of the root.
      root_rotation: (..., 3, 3), R_frame_root.
      rotations: (..., J, 3, 3), R_frame_joint.
    """
    with_root = np.concatenate([rotations, root_rotation[..., None, :, :]], axis=-3)
    return np.swapaxes(with_root[..., np.asarray(parents), :, :], -1, -2) @ rotations


def joint_offsets(skeleton: Skeleton, bone_scales: jax.Array) -> jax.Array:
    """Returns the offsets (..., J, 3), metres, of the rest pose with each bone scaled by `bone_scales` (..., J)."""
    chex.assert_axis_dimension(bone_scales, -1, skeleton.num_joints)
    rest_m = jnp.asarray(skeleton.rest_offsets_m, bone_scales.dtype)
    return bone_scales[..., None] * jnp.broadcast_to(rest_m, (*bone_scales.shape, 3))


def bone_lengths(skeleton: Skeleton, joints_m: jax.Array) -> jax.Array:
    """Returns the distance of each joint from its parent (..., J), metres, given joints (..., J, 3) in any frame.

    The hidden root is at the mean of the joints `root_between`. Gradients are finite, also where two joints coincide.
    """
    chex.assert_shape(joints_m, (..., skeleton.num_joints, 3))
    root = jnp.mean(joints_m[..., np.asarray(skeleton.root_between), :], axis=-2, keepdims=True)
    with_root = jnp.concatenate([joints_m, root], axis=-2)
    square = jnp.sum((joints_m - with_root[..., np.asarray(skeleton.parents), :]) ** 2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedBody:
    """Constant offsets and the pose in each frame, as `forward_kinematics` takes them (float64 host arrays)."""

    offsets_m: np.ndarray  # (J, 3)
    root_rotation: np.ndarray  # (F, 3, 3)
    root_position_m: np.ndarray  # (F, 3)
    joint_rotations: np.ndarray  # (F, J, 3, 3)


def fit_body(
    skeleton: Skeleton, joints_m: np.ndarray, offsets_m: np.ndarray | None = None, like: np.ndarray | None = None
) -> FittedBody:
    """Returns the body whose constant offsets and rotations in each frame best fit observed joints (F, J, 3), metres.

    The children of a joint with several children turn as one rigid piece; their offsets are the mean over the frames,
    aligned to the rest pose. A single child lies at its mean distance along the rest direction, and the smallest
    rotation takes it to the observed direction, since the twist about a single bone cannot be observed. A bone below
    `MIN_BONE_M` has no direction: it keeps its mean offset and turns nothing. Directions are those between observed
    joints, so that a bone above of another length does not turn the bones below it (both our choice).

    Args:
      skeleton: of the joints.
      joints_m: (F, J, 3) observed, in any frame.
      offsets_m: (J, 3) of an earlier fit to the same person, which are kept; None: fitted too.
      like: (F, J + 1, 3, 3) R_frame_joint, the root's last, of a body near to the observed one: single bones take
        their twist from it, and make the smallest rotation from there. None: from the bone above.

    Raises:
      ValueError: the array is not (F, J, 3), has no frame, or holds values that are not finite.
    """
    joints_m = np.asarray(joints_m, np.float64)
    checks.array("joints to fit", joints_m, (None, skeleton.num_joints, 3), np.floating)
    checks.at_least(1, **{"joints to fit, number of frames": len(joints_m)})
    checks.finite("joints to fit", joints_m, "drop those frames")
    rest_m = np.asarray(skeleton.rest_offsets_m, np.float32).astype(np.float64)
    fitting = offsets_m is None
    offsets_m = rest_m.copy() if fitting else np.array(offsets_m, np.float64)
    identity = np.broadcast_to(np.eye(3), (len(joints_m), 3, 3))
    local = np.tile(np.eye(3), (*joints_m.shape[:2], 1, 1))
    root_m = joints_m[:, list(skeleton.root_between)].mean(axis=1)
    rotations = {-1: identity}  # R_frame_joint of the fitted body so far
    for joint in (-1, *(j for level in skeleton.depth_levels for j in level)):
        if joint >= 0:
            rotations[joint] = rotations[skeleton.parents[joint]]
        if children := list(skeleton.children(joint)):
            first = identity if like is None else np.swapaxes(rotations[joint], -1, -2) @ like[:, joint]
            seen_m = joints_m[:, children] - (root_m if joint < 0 else joints_m[:, joint])[:, None]
            seen_m = np.einsum("fba,fcb->fca", rotations[joint], seen_m)  # in the axes of the joint's parent
            if fitting:
                offsets_m[children] = _fit_offsets(rest_m[children], seen_m)
            turn = _fit_rotations(offsets_m[children], seen_m, first)
            rotations[joint] = rotations[joint] @ turn
            if joint >= 0:
                local[:, joint] = turn
    return FittedBody(offsets_m=offsets_m, root_rotation=rotations[-1], root_position_m=root_m, joint_rotations=local)


def _fit_offsets(rest_m: np.ndarray, seen_m: np.ndarray) -> np.ndarray:
    """Returns constant offsets (C, 3) of a joint's children, in the orientation of the rest pose.

    Args:
      rest_m: (C, 3), offsets in the rest pose.
      seen_m: (F, C, 3), observed offsets.
    """
    if len(rest_m) > 1:
        shape = rest_m
        for _ in range(3):
            shape = np.einsum("fba,fcb->fca", _kabsch(shape, seen_m), seen_m).mean(axis=0)
        return shape
    length, rest_length = np.linalg.norm(seen_m[:, 0], axis=-1).mean(), np.linalg.norm(rest_m[0])
    if length < MIN_BONE_M:
        return seen_m.mean(axis=0)
    direction = rest_m[0] / rest_length if rest_length > 0 else np.array([0.0, 1.0, 0.0])
    return direction[None] * length


def _fit_rotations(offsets_m: np.ndarray, seen_m: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns rotations (F, 3, 3) that best take offsets (C, 3) to observed ones (F, C, 3).

    That of a single offset is the smallest one after the rotations `first` (F, 3, 3).
    """
    if len(offsets_m) > 1:
        return _kabsch(offsets_m, seen_m)
    length, lengths = np.linalg.norm(offsets_m[0]), np.linalg.norm(seen_m[:, 0], axis=-1, keepdims=True)
    if length < MIN_BONE_M:
        return first
    directions = first @ (offsets_m[0] / length)
    targets = np.where(lengths > 0, seen_m[:, 0] / np.where(lengths > 0, lengths, 1.0), directions)
    return smallest_rotation(directions, targets) @ first


def _kabsch(source: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the rotations (F, 3, 3) about the origin that best take `source` (C, 3) to `targets` (F, C, 3)."""
    U, _, Vt = np.linalg.svd(np.einsum("fca,cb->fab", targets, source))
    sign = np.ones((targets.shape[0], 3))
    sign[:, 2] = np.where(np.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    return (U * sign[:, None, :]) @ Vt


def smallest_rotation(units: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the smallest rotations (F, 3, 3) that take `units` (F, 3), or (3,), to `targets` (F, 3), of length 1."""
    # Two half turns, about the unit and about the direction half-way to the target, make the smallest rotation.
    units = np.broadcast_to(units, targets.shape)
    half = targets + units
    opposite = np.linalg.norm(half, axis=-1) < 1e-9
    across = np.cross(units, np.eye(3)[np.argmin(np.abs(units), axis=-1)])
    half = np.where(opposite[:, None], across, half)
    half = half / np.linalg.norm(half, axis=-1, keepdims=True)
    turn = 2.0 * half[:, :, None] * half[:, None, :] - np.eye(3)  # half turn about `half`: unit -> target
    first = 2.0 * units[:, :, None] * units[:, None, :] - np.eye(3)  # half turn about the unit, which stays
    return turn @ np.where(opposite[:, None, None], np.eye(3), first)
