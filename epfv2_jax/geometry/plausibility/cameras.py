"""Checks of the cameras of a headset."""

from collections.abc import Iterator

import numpy as np

from epfv2_jax.core.findings import Finding
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.plausibility.text import HEADSET_AXES, vector

#: Farthest that a camera is from the headset's origin, metres.
MAX_CAMERA_DISTANCE_M = 0.25
#: Farthest that a principal point is from the middle of its image, in image widths and heights.
MAX_CENTRE_OFFSET = 0.1
#: Least share of forward (in rear views: of backward) and largest share of up in the optical axis.
MIN_FORWARD, MAX_UPWARD = -0.3, 0.6
#: Least share of up, or ahead, in what is up in the upright image.
MIN_UPRIGHT = 0.2
#: How far a left camera may be to the right of its partner, metres.
MAX_EXCHANGED_M = 0.01
#: How far a camera is from the mirror image of its partner, metres, and the least cosine between their axes.
MAX_MIRROR_OFFSET_M, MIN_MIRROR_COSINE = 0.03, 0.9


def cameras(
    T_cam_headset: np.ndarray, center_px: np.ndarray, size_px: np.ndarray, layout: RigLayout
) -> Iterator[Finding]:
    """Yields what the checks of cameras found: each view, then each mirror pair.

    Args:
      T_cam_headset: (V, 4, 4) headset to camera, metres; images upright.
      center_px: (V, 2) principal points, column and row.
      size_px: (V, 2) width and height of the images.
      layout: the views. Those with "rear" or "back" in their names look backward.
    """
    R = np.asarray(T_cam_headset, np.float64)[:, :3, :3]
    position_m = -np.einsum("vji,vj->vi", R, np.asarray(T_cam_headset, np.float64)[:, :3, 3])
    for v, name in enumerate(layout.view_names):
        yield _centre(name, center_px[v], size_px[v])
        yield _distance(name, float(np.linalg.norm(position_m[v])))
        yield _optical_axis(name, R[v, 2])
        yield _upright(name, R[v], layout.upright_turns[v])
    for v, m in enumerate(layout.mirror or ()):
        names, position, axis = (layout.view_names[v], layout.view_names[m]), position_m[[v, m]], R[[v, m], 2]
        if ("left" in names[0] and "right" in names[1]) or axis[0, 0] - axis[1, 0] > 0.3:
            yield _sides_of_pair(*names, position)
        if v < m:
            yield _mirror_pair(*names, position, axis)


def off_centre(center_px: np.ndarray, size_px: np.ndarray) -> str:
    """Returns why a principal point (column, row) cannot be that of an image (width, height); "" where it can."""
    share = (np.asarray(center_px, np.float64) + 0.5) / np.asarray(size_px, np.float64)
    if np.abs(share - 0.5).max() <= MAX_CENTRE_OFFSET:
        return ""
    return (
        f"the principal point lies at {share[0]:.0%} of the image's width and {share[1]:.0%} of its height: the images "
        f"({size_px[0]:.0f}x{size_px[1]:.0f}) have been resized, cropped or turned against calibration and labels"
    )


def _centre(name: str, center_px: np.ndarray, size_px: np.ndarray) -> Finding:
    reason = off_centre(center_px, size_px)
    share = (np.asarray(center_px, np.float64) + 0.5) / np.asarray(size_px, np.float64)
    return Finding(
        check="principal_point",
        value=f"{name}: {share[0]:.0%}, {share[1]:.0%}",
        limit=f"{0.5 - MAX_CENTRE_OFFSET:.0%} to {0.5 + MAX_CENTRE_OFFSET:.0%}",
        problem=reason and f"{name}: {reason}",
    )


def _distance(name: str, distance_m: float) -> Finding:
    problem = (
        f"{name}: the camera is {distance_m:.3g} m from the headset; are its extrinsics (T_cam_headset, T_BS) in cm or "
        "mm, inverted, or those of another body frame?"
    )
    return Finding(
        check="camera_far",
        value=f"{name}: {100 * distance_m:.4g} cm",
        limit=f"at most {100 * MAX_CAMERA_DISTANCE_M:.0f} cm",
        problem=problem if distance_m > MAX_CAMERA_DISTANCE_M else "",
    )


def _optical_axis(name: str, axis: np.ndarray) -> Finding:
    sign = -1.0 if any(word in name.lower() for word in ("rear", "back")) else 1.0
    problem = (
        f"{name}: the camera looks along {vector(axis)} in {HEADSET_AXES}; has it OpenGL axes (y up, z backward; "
        "ours: x right, y down, z forward), or are its extrinsics (T_cam_headset, T_BS) inverted?"
    )
    return Finding(
        check="optical_axis",
        value=f"{name}: {vector(axis)}",
        limit=f"{'forward' if sign > 0 else 'backward'} above {MIN_FORWARD}, up at most {MAX_UPWARD}",
        problem=problem if sign * axis[2] < MIN_FORWARD or axis[1] > MAX_UPWARD else "",
    )


def _upright(name: str, R_cam_headset: np.ndarray, turns: int) -> Finding:
    """Up in the image is up for a camera that looks ahead, and ahead for one that looks down."""
    right, down = R_cam_headset[:2]
    # Up in the image after 0 to 3 more quarter turns in the sense of `np.rot90`.
    score = [float(up[1] + up[2]) for up in (-down, right, down, -right)]
    best = (turns + int(np.argmax(score)) + 1) % 4 - 1
    problem = (
        f"{name}: up in the image is {vector(-down)} in {HEADSET_AXES}; turn images and cameras upright (upright_turns "
        f"should be {best}), or has it OpenGL axes (y up, z backward; ours: x right, y down, z forward)?"
    )
    return Finding(
        check="upright",
        value=f"{name}: {score[0]:.2f}",
        limit=f"at least {MIN_UPRIGHT}",
        problem=problem if score[0] < MIN_UPRIGHT else "",
    )


def _sides_of_pair(name: str, partner: str, position_m: np.ndarray) -> Finding:
    """Returns whether a view that is called left, or looks to the left of its partner, lies to the left of it."""
    right_m = float(position_m[1, 0] - position_m[0, 0])
    problem = (
        f"{name} lies {100 * right_m:.1f} cm to the right of {partner}; are they exchanged, or are the extrinsics "
        "inverted (T_cam_headset maps headset to camera, T_BS camera to body)?"
    )
    return Finding(
        check="pair_sides",
        value=f"{name}: {-100 * right_m:.1f} cm left of {partner}",
        limit=f"at least {-100 * MAX_EXCHANGED_M:.0f} cm",
        problem=problem if right_m > MAX_EXCHANGED_M else "",
    )


def _mirror_pair(name: str, partner: str, position_m: np.ndarray, axis: np.ndarray) -> Finding:
    flip = np.array([-1.0, 1.0, 1.0])
    offset_m = float(np.linalg.norm(position_m[0] - flip * position_m[1]))
    cosine = float(axis[0] @ (flip * axis[1]))
    problem = (
        f"{name} is {100 * offset_m:.1f} cm from the mirror image of {partner}, and the cosine between their axes is "
        f"{cosine:.2f}; is T_headset_body (axes or origin of the headset) wrong? If they are no mirror "
        "images, name no partners"
    )
    return Finding(
        check="mirror_pair",
        value=f"{name}, {partner}: {100 * offset_m:.1f} cm, cosine {cosine:.3f}",
        limit=f"at most {100 * MAX_MIRROR_OFFSET_M:.0f} cm, at least {MIN_MIRROR_COSINE}",
        problem=problem if offset_m > MAX_MIRROR_OFFSET_M or cosine < MIN_MIRROR_COSINE else "",
    )
