"""What cameras, poses and bodies of a person with a headset cannot be; the errors name the likely mistake.

The checks need no truth. They find wrong units, inverted or mirrored transforms, axes of another convention, and images
of another size than their calibration; they do not find small errors. All limits are our choice: far from what a person
and a headset do, so that a refusal is a mistake in the data.
"""

import numpy as np

from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

#: Farthest that a camera is from the headset's origin, metres.
MAX_CAMERA_DISTANCE_M = 0.25
#: Farthest that a principal point is from the middle of its image, in image widths and heights.
MAX_CENTRE_OFFSET = 0.1
#: Highest that a headset is above or below the floor, metres.
MAX_HEIGHT_M = 20.0
#: How much farther from the headset than at rest the top of the body is at most, metres.
MAX_HEAD_OFFSET_M = 0.36
#: Median length of a body's bones relative to the rest pose.
BODY_SCALE = (0.55, 1.5)
_MAX_EXCHANGED_M = 0.01


def check_cameras(T_cam_headset: np.ndarray, center_px: np.ndarray, size_px: np.ndarray, layout: RigLayout) -> None:
    """Raises ValueError unless the cameras can be those of a headset.

    Args:
      T_cam_headset: (V, 4, 4) headset to camera, metres; images upright.
      center_px: (V, 2) principal points, column and row.
      size_px: (V, 2) width and height of the images.
      layout: the views.
    """
    R = np.asarray(T_cam_headset, np.float64)[:, :3, :3]
    position_m = -np.einsum("vji,vj->vi", R, np.asarray(T_cam_headset, np.float64)[:, :3, 3])
    for v, name in enumerate(layout.view_names):
        axis, up, distance_m = R[v, 2], -R[v, 1], float(np.linalg.norm(position_m[v]))
        if reason := off_centre(center_px[v], size_px[v]):
            raise ValueError(f"{name}: {reason}")
        if distance_m > MAX_CAMERA_DISTANCE_M:
            raise ValueError(
                f"{name}: the camera is {distance_m:.3g} m from the headset; is T_cam_headset in cm or mm, or that of "
                "another body frame?"
            )
        seen = f"looks along {axis.round(2).tolist()} in headset axes (x left, y up, z forward)"
        if axis[2] < -0.3 or axis[1] > 0.6:
            raise ValueError(
                f"{name}: the camera {seen}; has it OpenGL axes (y up, z backward; ours: x right, y down, z forward), "
                "or is T_cam_headset inverted?"
            )
        if up[1] + up[2] < 0.2:  # up is up for a camera that looks ahead, and ahead for one that looks down
            raise ValueError(
                f"{name}: up in the image is {up.round(2).tolist()} in headset axes; turn images and cameras "
                "upright, or has it OpenGL axes (y up, z backward; ours: x right, y down, z forward)?"
            )
    for v, m in enumerate(layout.mirror or ()):
        name, partner = layout.view_names[v], layout.view_names[m]
        right_m = (position_m[m] - position_m[v])[0]
        named = "left" in name and "right" in partner
        if (named or R[v, 2, 0] - R[m, 2, 0] > 0.3) and right_m > _MAX_EXCHANGED_M:
            raise ValueError(
                f"{name} lies {100 * right_m:.1f} cm to the right of {partner}; are they exchanged, or is "
                "T_cam_headset inverted (it maps headset to camera)?"
            )


def off_centre(center_px: np.ndarray, size_px: np.ndarray) -> str:
    """Returns why a principal point (column, row) cannot be that of an image (width, height); "" where it can."""
    share = (np.asarray(center_px, np.float64) + 0.5) / np.asarray(size_px, np.float64)
    if np.abs(share - 0.5).max() <= MAX_CENTRE_OFFSET:
        return ""
    return (
        f"the principal point lies at {share[0]:.0%} of the image's width and {share[1]:.0%} of its height: the images "
        f"({size_px[0]:.0f}x{size_px[1]:.0f}) have been resized, cropped or turned against calibration and labels"
    )


def check_poses(T_world_headset: np.ndarray) -> None:
    """Raises ValueError unless headset poses (N, 4, 4) are in metres above a floor at y = 0."""
    height_m = float(np.median(np.asarray(T_world_headset)[:, 1, 3]))
    if abs(height_m) > MAX_HEIGHT_M:
        raise ValueError(
            f"T_world_headset: the headset is {height_m:.4g} m above the floor at y = 0; is it in cm or mm, or is the "
            "world's floor elsewhere?"
        )


def check_body(
    joints_world_m: np.ndarray, joint_valid: np.ndarray, T_world_headset: np.ndarray, skeleton: Skeleton
) -> None:
    """Raises ValueError unless the joints of a sequence can be those of the wearer, in a world whose y is up.

    Each check takes the median over the frames: a person may lie down or stand on the hands for less than half of them.

    Args:
      joints_world_m: (N, J, 3) true joints.
      joint_valid: (N, J) bool; joints that are not valid are left out.
      T_world_headset: (N, 4, 4) headset to world, metres.
      skeleton: of the joints; its rest pose says what is up, left and how long.
    """
    joints_m = np.where(joint_valid[..., None], joints_world_m, np.nan).astype(np.float64)
    rest_m = skeleton.rest_joints_headset_m().astype(np.float64)
    _check_scale(joints_m, rest_m, skeleton)
    _check_upright(joints_m, np.asarray(T_world_headset, np.float64), rest_m, skeleton)
    _check_sides(joints_m, np.asarray(T_world_headset, np.float64), rest_m, skeleton)


def _check_scale(joints_m: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> None:
    ratios = [
        np.linalg.norm(joints_m[:, j] - joints_m[:, parent], axis=-1) / rest
        for parent, j in _bones(skeleton)
        if (rest := np.linalg.norm(rest_m[j] - rest_m[parent])) > 0.1
    ]
    scale = _median(np.ravel(ratios))
    if scale < BODY_SCALE[0] or scale > BODY_SCALE[1]:
        raise ValueError(
            f"the body is {scale:.3g} times as large as a grown person; are the joints in another unit than metres?"
        )


def _check_upright(joints_m: np.ndarray, T_world_headset: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> None:
    top, bottom = int(rest_m[:, 1].argmax()), np.flatnonzero(rest_m[:, 1] < rest_m[:, 1].min() + 0.1)
    head_m = _median(np.linalg.norm(joints_m[:, top] - T_world_headset[:, :3, 3], axis=-1))
    if head_m > np.linalg.norm(rest_m[top]) + MAX_HEAD_OFFSET_M:
        raise ValueError(
            f"{skeleton.joint_names[top]} is {head_m:.3g} m from the headset; are joints and headset poses in one "
            "unit, one world and of one time, and does T_world_headset map headset to world?"
        )
    if np.ptp(rest_m[:, 1]) < 0.3:
        return  # such as arms alone, which may point anywhere
    upward = _median(joints_m[:, top] - joints_m[:, bottom].mean(axis=1))
    if upward[1] < 0.3 * np.linalg.norm(upward):
        axis = int(np.abs(upward).argmax())
        raise ValueError(
            f"the body stands along {'-' if upward[axis] < 0 else ''}{'xyz'[axis]} of the world, not along y; y must "
            "be up: turn joints and poses"
        )


def _check_sides(joints_m: np.ndarray, T_world_headset: np.ndarray, rest_m: np.ndarray, skeleton: Skeleton) -> None:
    sides = [(j, m) for j, m in enumerate(skeleton.mirror) if rest_m[j, 0] - rest_m[m, 0] > 0.1]
    if not sides:
        return
    leftward = np.mean([joints_m[:, j] - joints_m[:, m] for j, m in sides], axis=0)
    left_m = _median((leftward * T_world_headset[:, :3, 0]).sum(-1))
    if left_m < 0:
        raise ValueError(
            f"left joints are {-100 * left_m:.0f} cm to the wearer's right; are left and right exchanged, or the axes "
            "left-handed?"
        )
    # Such as the toes: joints that lie in front of or behind their parents. Forward is to the right of leftward.
    forward = np.cross(leftward, [0.0, 1.0, 0.0])
    ahead = [
        depth_m * ((joints_m[:, j] - joints_m[:, parent]) * forward).sum(-1)
        for parent, j in _bones(skeleton)
        if abs(depth_m := rest_m[j, 2] - rest_m[parent, 2]) > 0.03
    ]
    if ahead and _median(np.sum(ahead, axis=0)) < 0:
        raise ValueError(
            "toes and shoulders point backward while left is left: the body is mirrored; are the axes left-handed?"
        )


def _bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    return [(parent, j) for j, parent in enumerate(skeleton.parents) if parent >= 0]


def _median(values: np.ndarray) -> np.ndarray:
    """Returns the median over the leading axis of the entries without NaN; NaN where there is none."""
    known = values[np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
    return np.median(known, axis=0) if len(known) else np.full(values.shape[1:], np.nan)
