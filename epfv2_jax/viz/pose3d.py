"""The pose in space, drawn orthographically with the ellipsoids of the predicted uncertainty."""

from typing import Any

import numpy as np

from epfv2_jax.evaluation.evaluate import FrameExample
from epfv2_jax.geometry import skeleton
from epfv2_jax.metrics.pose import ellipsoid_radius
from epfv2_jax.viz.overlays import BONES, PREDICTION_COLOR, TRUTH_COLOR

# Joints that coincide with their parent: their ellipsoid would be drawn twice.
_COINCIDENT = tuple(j for j, offset in enumerate(skeleton.REST_OFFSETS_M) if not any(offset))
GRID_M = 0.25


def view_axes(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """Returns (3, 3): rows right, up and towards the viewer, in a frame with y up in which the person faces +z.

    Azimuth 0 looks the person in the face; 90 looks from the person's left.
    """
    a, e = np.deg2rad([azimuth_deg, elevation_deg])
    towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(towards, right), towards])


def facing_frame(T_world_headset: np.ndarray) -> np.ndarray:
    """Returns T_facing_headset (4, 4): the world turned about its vertical so that the headset looks along +z, and
    shifted sideways so that the headset is above the origin. Heights stay those of the world."""
    forward = T_world_headset[:3, 2]
    left = T_world_headset[:3, 0]  # does not degenerate where the wearer looks straight down or up
    yaw = np.arctan2(forward[0] - left[2], forward[2] + left[0])
    c, s = np.cos(yaw), np.sin(yaw)
    T = np.eye(4)
    T[:3, :3] = [[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]]
    moved = T @ T_world_headset
    moved[[0, 2], 3] = 0.0
    return moved


def draw_pose(
    axes: Any,
    example: FrameExample,
    azimuth_deg: float,
    elevation_deg: float = 12.0,
    level: float = 0.5,
    degrees_of_freedom: float = 4.0,
) -> None:
    """Draws on matplotlib `axes` the true and the predicted skeleton over a floor grid of `GRID_M`, y up, equal aspect.

    Each ellipse is the exact silhouette of the ellipsoid that holds the joint with probability `level`, according to
    the predicted Student-t.
    """
    from matplotlib import collections, patches

    basis = view_axes(azimuth_deg, elevation_deg)
    T_facing_headset = facing_frame(example.T_world_headset.astype(np.float64))

    def seen(points_headset_m):
        return (points_headset_m @ T_facing_headset[:3, :3].T + T_facing_headset[:3, 3]) @ basis.T

    truth, joints = seen(example.true_joints_headset_m), seen(example.joints_headset_m)
    present = np.isfinite(joints).all(-1)
    standing = (truth[example.joint_valid] @ basis).mean(0) * [1.0, 0.0, 1.0]  # below the body
    grid = (_grid_lines() + standing[None, None]) @ basis.T
    axes.add_collection(collections.LineCollection(list(grid[..., :2]), colors="#c9ced6", linewidths=0.8, zorder=0))

    if example.cholesky_m is not None:
        radius = ellipsoid_radius(level, degrees_of_freedom)
        projection = (basis @ T_facing_headset[:3, :3])[:2]
        for j in np.flatnonzero(present):
            if j in _COINCIDENT:
                continue
            half = projection @ example.cholesky_m[j] * radius
            axes.add_patch(patches.Ellipse(joints[j, :2], **_ellipse(half), color=PREDICTION_COLOR, alpha=0.16, lw=0))

    for points, color, valid, width, zorder in (
        (truth, TRUTH_COLOR, example.joint_valid, 4.6, 2),
        (joints, PREDICTION_COLOR, present, 2.2, 3),
    ):
        lines = [points[[a, b], :2] for a, b in BONES if valid[a] and valid[b]]
        axes.add_collection(
            collections.LineCollection(lines, colors=color, linewidths=width, capstyle="round", zorder=zorder)
        )
        axes.plot(*points[valid, :2].T, "o", color=color, markersize=1.2 * width + 1.2, zorder=zorder)

    everything = np.concatenate([truth[example.joint_valid], joints[present], grid.reshape(-1, 3)])[:, :2]
    center = (everything.min(0) + everything.max(0)) / 2
    half = 0.54 * (everything.max(0) - everything.min(0)).max()
    axes.set(xlim=(center[0] - half, center[0] + half), ylim=(center[1] - half, center[1] + half), aspect="equal")
    axes.axis("off")


def _grid_lines(half_cells: int = 3) -> np.ndarray:
    """Lines (L, 2, 3) of a square floor grid around the origin."""
    extent = half_cells * GRID_M
    lines = []
    for x in np.linspace(-extent, extent, 2 * half_cells + 1):
        lines += [[(x, 0, -extent), (x, 0, extent)], [(-extent, 0, x), (extent, 0, x)]]
    return np.array(lines, np.float64)


def _ellipse(half: np.ndarray) -> dict[str, float]:
    """Width, height and angle of the image of the unit ball under (2, 3) `half`."""
    U, size, _ = np.linalg.svd(half)
    return {"width": 2 * size[0], "height": 2 * size[1], "angle": float(np.rad2deg(np.arctan2(U[1, 0], U[0, 0])))}
