"""Forward kinematics over the 26-joint tree, bone lengths, and the fit of the tree to observed joints."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from epfv2_jax.geometry import skeleton

_ORDER = tuple(j for level in skeleton.DEPTH_LEVELS for j in level)
_BACK = tuple(int(i) for i in np.argsort(_ORDER))
_REST_OFFSETS = np.asarray(skeleton.REST_OFFSETS_M, np.float32)


def forward_kinematics(
    root_rotation: jax.Array, root_position_m: jax.Array, joint_rotations: jax.Array, offsets_m: jax.Array
) -> jax.Array:
    """Returns the joints (..., J, 3) of a body, metres, in the frame of its root pose.

    Args:
      root_rotation: (..., 3, 3), R_frame_root of the hidden root.
      root_position_m: (..., 3), the hidden root in the frame.
      joint_rotations: (..., J, 3, 3), local: R_parent_joint. Those of leaves move nothing.
      offsets_m: (..., J, 3), each joint in its parent's axes.

    A joint lies at its parent's position plus its offset turned by the parent's rotation in the frame. All joints of
    one depth are computed together: eight steps instead of 26.
    """
    chex.assert_shape(joint_rotations, (..., skeleton.NUM_JOINTS, 3, 3))
    chex.assert_shape(offsets_m, (..., skeleton.NUM_JOINTS, 3))
    rotations, positions = root_rotation[..., None, :, :], root_position_m[..., None, :]
    above: tuple[int, ...] = (-1,)
    joints = []
    for level in skeleton.DEPTH_LEVELS:
        rows = np.asarray([above.index(skeleton.PARENTS[j]) for j in level])
        columns = np.asarray(level)
        parent_rotations = rotations[..., rows, :, :]
        offsets = offsets_m[..., columns, :]
        moved = jnp.sum(parent_rotations * offsets[..., None, :], axis=-1)
        positions = positions[..., rows, :] + moved
        # Sums of products rather than matrix products: exact float32 on every accelerator, and XLA on CPU (jaxlib
        # 0.10.2) refuses the batched 3x3 product under several leading axes.
        local = joint_rotations[..., columns, :, :]
        rotations = jnp.sum(parent_rotations[..., :, :, None] * local[..., None, :, :], axis=-2)
        joints.append(positions)
        above = level
    return jnp.concatenate(joints, axis=-2)[..., np.asarray(_BACK), :]


def joint_offsets(bone_scales: jax.Array) -> jax.Array:
    """Returns the offsets (..., J, 3), metres, of the rest pose with every bone scaled by `bone_scales` (..., J)."""
    chex.assert_axis_dimension(bone_scales, -1, skeleton.NUM_JOINTS)
    rest = jnp.asarray(_REST_OFFSETS, bone_scales.dtype)
    return bone_scales[..., None] * jnp.broadcast_to(rest, (*bone_scales.shape, 3))


def bone_lengths(joints_m: jax.Array) -> jax.Array:
    """Returns the distance of each joint from its parent (..., J), metres, given joints (..., J, 3) in any frame.

    The hidden root is taken midway between the hips. Finite gradients, also where two joints coincide.
    """
    chex.assert_shape(joints_m, (..., skeleton.NUM_JOINTS, 3))
    left, right = (skeleton.JOINT_NAMES.index(name) for name in ("b_l_upleg", "b_r_upleg"))
    root = 0.5 * (joints_m[..., left, :] + joints_m[..., right, :])
    with_root = jnp.concatenate([joints_m, root[..., None, :]], axis=-2)
    square = jnp.sum((joints_m - with_root[..., np.asarray(skeleton.PARENTS), :]) ** 2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedBody:
    """A tree of constant offsets and its pose in every frame: what `forward_kinematics` takes (float64 host arrays)."""

    offsets_m: np.ndarray  # (J, 3)
    root_rotation: np.ndarray  # (F, 3, 3)
    root_position_m: np.ndarray  # (F, 3)
    joint_rotations: np.ndarray  # (F, J, 3, 3)


def fit_body(joints_m: np.ndarray) -> FittedBody:
    """Returns the body whose constant offsets and per-frame rotations best rebuild observed joints (F, J, 3), metres.

    A joint with several children turns them as one rigid piece; its offsets are the mean of the pieces after
    alignment to the rest pose. A joint with one child has that child at its mean distance along the rest direction
    and swings to it by the smallest rotation, since the twist about a single bone cannot be seen.

    Raises:
      ValueError: the array is not (F, J, 3), holds no frame or holds values that are not finite.
    """
    joints_m = np.asarray(joints_m, np.float64)
    if joints_m.ndim != 3 or joints_m.shape[1:] != (skeleton.NUM_JOINTS, 3) or not joints_m.shape[0]:
        raise ValueError(
            f"joints to fit must be (frames, {skeleton.NUM_JOINTS}, 3) and not empty, got {joints_m.shape}"
        )
    if not np.isfinite(joints_m).all():
        raise ValueError("joints to fit must be finite; drop the frames that are not")
    num_frames = joints_m.shape[0]
    left, right = (skeleton.JOINT_NAMES.index(name) for name in ("b_l_upleg", "b_r_upleg"))
    offsets = _REST_OFFSETS.astype(np.float64).copy()
    local = np.broadcast_to(np.eye(3), (num_frames, skeleton.NUM_JOINTS, 3, 3)).copy()

    def fit_piece(children: list[int], origin: np.ndarray, parent_rotation: np.ndarray) -> np.ndarray:
        """The local rotations (F, 3, 3) of a joint with these children; fills the children's offsets."""
        seen = np.einsum("fba,fcb->fca", parent_rotation, joints_m[:, children] - origin[:, None])  # in parent axes
        rest = _REST_OFFSETS[children].astype(np.float64)
        if len(children) == 1:
            length = np.linalg.norm(seen[:, 0], axis=-1)
            rest_length = np.linalg.norm(rest[0])
            direction = rest[0] / rest_length if rest_length > 0 else np.array([0.0, 1.0, 0.0])
            offsets[children[0]] = direction * length.mean()
            if length.mean() < 1e-6:
                return np.broadcast_to(np.eye(3), (num_frames, 3, 3))
            return _smallest_rotation(direction, seen[:, 0] / length[:, None])
        shape = rest
        for _ in range(3):
            turned = np.einsum("fba,fcb->fca", _kabsch(shape, seen), seen)
            shape = turned.mean(axis=0)
        offsets[children] = shape
        return _kabsch(shape, seen)

    def children_of(joint: int) -> list[int]:
        return [j for j, parent in enumerate(skeleton.PARENTS) if parent == joint]

    root_position = 0.5 * (joints_m[:, left] + joints_m[:, right])
    identity = np.broadcast_to(np.eye(3), (num_frames, 3, 3))
    root_rotation = fit_piece(children_of(-1), root_position, identity)
    world = {-1: root_rotation}
    rebuilt = {-1: root_position}
    for joint in _ORDER:
        parent = skeleton.PARENTS[joint]
        rebuilt[joint] = rebuilt[parent] + world[parent] @ offsets[joint]
        children = children_of(joint)
        if children:
            local[:, joint] = fit_piece(children, rebuilt[joint], world[parent])
        world[joint] = world[parent] @ local[:, joint]
    return FittedBody(
        offsets_m=offsets, root_rotation=root_rotation, root_position_m=root_position, joint_rotations=local
    )


def _kabsch(source: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rotations (F, 3, 3) about the origin that best take `source` (C, 3) to `targets` (F, C, 3)."""
    U, _, Vt = np.linalg.svd(np.einsum("fca,cb->fab", targets, source))
    sign = np.ones((targets.shape[0], 3))
    sign[:, 2] = np.where(np.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    return (U * sign[:, None, :]) @ Vt


def _smallest_rotation(unit: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Smallest rotations (F, 3, 3) that take the direction `unit` (3,) to the directions `targets` (F, 3)."""
    # Two reflections, at the half-way plane and at the plane across `unit`, make the smallest rotation.
    half = targets + unit
    opposite = np.linalg.norm(half, axis=-1) < 1e-9
    across = np.cross(unit, np.eye(3)[np.argmin(np.abs(unit))])
    half = np.where(opposite[:, None], across, half)
    half = half / np.linalg.norm(half, axis=-1, keepdims=True)
    turn = 2.0 * half[:, :, None] * half[:, None, :] - np.eye(3)  # half turn about `half`: unit -> target
    first = 2.0 * np.outer(unit, unit) - np.eye(3)  # half turn about `unit` keeps it
    return turn @ np.where(opposite[:, None, None], np.eye(3), first)
