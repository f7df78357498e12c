"""Draws the pose in space, orthographically, with the ellipsoids of the predicted uncertainty."""

from typing import Any

import numpy as np

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import ellipsoids, poses

#: Width of a cell of the floor's grid.
GRID_M = 0.25


def view_axes(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """Returns (3, 3), whose rows are the directions right, up and towards the viewer, in a frame with y up.

    At azimuth 0 the viewer is in front of a person who faces +z; at 90, on the person's left.
    """
    a, e = np.deg2rad([azimuth_deg, elevation_deg])
    towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(towards, right), towards])


def facing_frame(T_world_headset: np.ndarray) -> np.ndarray:
    """Returns T_facing_headset (4, 4); in the facing frame the headset is above the origin and looks along +z.

    The frame is the world, turned about its vertical and shifted sideways, so heights stay those of the world.
    """
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
    axes: Any, example: FrameExample, skeleton: Skeleton, azimuth_deg: float, elevation_deg: float = 12.0
) -> None:
    """Draws on matplotlib `axes` the true and the predicted skeleton over a floor grid of `GRID_M`, y up, equal aspect.

    Each ellipse is the exact outline of an ellipsoid that holds its joint with probability `ellipsoids.LEVEL`,
    according to the predicted Student-t.
    """
    from matplotlib import collections, patches

    basis = view_axes(azimuth_deg, elevation_deg)
    T_facing_headset = facing_frame(example.T_world_headset.astype(np.float64))

    def seen(points_headset_m):
        return (points_headset_m @ T_facing_headset[:3, :3].T + T_facing_headset[:3, 3]) @ basis.T

    drawn = [(pose, seen(pose.joints_headset_m)) for pose in (poses.truth(example), poses.prediction(example))]
    joints = drawn[1][1]
    shown = next((points[pose.present] for pose, points in drawn if pose.present.any()), np.zeros((1, 3)))
    standing = (shown @ basis).mean(0) * [1.0, 0.0, 1.0]  # below the body
    grid = (_grid_lines() + standing[None, None]) @ basis.T
    axes.add_collection(collections.LineCollection(list(grid[..., :2]), colors="#c9ced6", linewidths=0.8, zorder=0))

    projection = (basis @ T_facing_headset[:3, :3])[:2]
    for j in ellipsoids.with_ellipsoid(example, skeleton):
        half = projection @ example.distribution.cholesky_m[j] * ellipsoids.radius(example.distribution)
        ellipse = ellipsoids.ellipse(half)
        axes.add_patch(patches.Ellipse(joints[j, :2], **ellipse, color=poses.PREDICTION_COLOR, alpha=0.16, lw=0))

    for (pose, points), width, zorder in zip(drawn, (4.6, 2.2), (2, 3), strict=True):
        lines = [points[[a, b], :2] for a, b in skeleton.bones if pose.present[a] and pose.present[b]]
        axes.add_collection(
            collections.LineCollection(lines, colors=pose.color, linewidths=width, capstyle="round", zorder=zorder)
        )
        axes.plot(*points[pose.present, :2].T, "o", color=pose.color, markersize=1.2 * width + 1.2, zorder=zorder)

    everything = np.concatenate([grid.reshape(-1, 3), *(points[pose.present] for pose, points in drawn)])[:, :2]
    center = (everything.min(0) + everything.max(0)) / 2
    half = 0.54 * (everything.max(0) - everything.min(0)).max()
    axes.set(xlim=(center[0] - half, center[0] + half), ylim=(center[1] - half, center[1] + half), aspect="equal")
    axes.axis("off")


def _grid_lines(half_cells: int = 3) -> np.ndarray:
    """Returns the lines (L, 2, 3) of a square floor grid around the origin."""
    extent = half_cells * GRID_M
    lines = []
    for x in np.linspace(-extent, extent, 2 * half_cells + 1):
        lines += [[(x, 0, -extent), (x, 0, extent)], [(-extent, 0, x), (extent, 0, x)]]
    return np.array(lines, np.float64)
