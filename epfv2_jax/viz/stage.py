"""Draws the body in the world above a floor, seen from a camera that follows it and turns around it."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import ellipsoids, pose3d, poses
from epfv2_jax.viz.drawing import BODY_BOX, LINE, PANEL, SHADOW, SUPERSAMPLING, draw_bones, scaled

_ELEVATION_DEG, _START_DEG = 14.0, 30.0
_DEGREES_PER_SECOND = 18.0
_FLOOR_RADIUS_M = 0.9
_SMOOTHING_S = 0.3  # the camera follows the mean position over this time before and after
_MAX_M = np.array([1.5, 2.5])  # what is farther, such as an ellipsoid of an untrained model, may be cut off
_ON_FLOOR, _DOWN = np.array([1.0, 0.0, 1.0]), np.array([1.0, -1.0])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """One frame as the camera sees it: points (n, 2) right and up of the middle of the body, metres."""

    basis: np.ndarray  # (2, 3) right and up in the world
    center_m: np.ndarray  # (3,) in the world, on the floor
    joints: np.ndarray  # (J, 2)
    present: np.ndarray  # (J,) bool
    shadow: np.ndarray  # (J, 2) of the joints, on the floor
    truth: np.ndarray  # (J, 2)
    truth_present: np.ndarray  # (J,) bool
    rings: np.ndarray  # (ellipsoids, points, 2) their outlines


class Stage:
    """The body of a sequence in a picture. Its camera keeps its distance, so that everything fits in all frames."""

    def __init__(self, examples: Sequence[FrameExample], skeleton: Skeleton, frame_rate: float):
        """Takes the frames of a sequence, in order; `frame_rate`, frames a second, sets how fast the body turns."""
        self._bones = skeleton.bones
        middles = np.stack([_middle(example) for example in examples])
        centers = _smooth(middles * _ON_FLOOR, round(_SMOOTHING_S * frame_rate))
        first = examples[0].T_world_headset
        heading_deg = np.rad2deg(np.arctan2(first[0, 2], first[2, 2]))
        self._shots = [
            shoot(example, skeleton, center, heading_deg + _START_DEG + _DEGREES_PER_SECOND * i / frame_rate)
            for i, (example, center) in enumerate(zip(examples, centers, strict=True))
        ]
        self._scale, self._origin = _fit(self._shots)

    def draw(self, canvas: Image.Image, index: int) -> None:
        """Draws the floor, the shadow, the ellipsoids and both skeletons of frame `index`."""
        shot = self._shots[index]
        draw = ImageDraw.Draw(canvas, "RGBA")  # colours with an alpha blend with what is there
        unit, bones = SUPERSAMPLING, self._bones
        self._draw_floor(draw, shot)
        draw_bones(draw, self._pixels(shot.shadow), shot.present, bones, SHADOW, width=5.0 * unit)
        rgb = ImageColor.getrgb(poses.PREDICTION_COLOR)
        for ring in self._pixels(shot.rings):
            draw.polygon([tuple(p) for p in ring], fill=(*rgb, 30), outline=(*rgb, 90), width=unit)
        for points, present, color, width, outline in (
            (shot.truth, shot.truth_present, poses.TRUTH_COLOR, 5.5, 1.0),
            (shot.joints, shot.present, poses.PREDICTION_COLOR, 3.4, 0.8),
        ):
            draw_bones(draw, self._pixels(points), present, bones, color, width=width * unit, outline=outline * unit)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Returns points (..., 2) of a shot in pixels of the canvas."""
        return self._origin + self._scale * _DOWN * points

    def _draw_floor(self, draw: ImageDraw.ImageDraw, shot: Shot) -> None:
        """Draws a round piece of the world's grid below the body, fading towards its rim."""
        cell, R, center = pose3d.GRID_M, _FLOOR_RADIUS_M, shot.center_m
        line, panel = (np.array(ImageColor.getrgb(color)) for color in (LINE, PANEL))
        for along, across in ((0, 2), (2, 0)):
            first = math.ceil((center[across] - R) / cell)
            for k in range(first, math.floor((center[across] + R) / cell) + 1):
                offset = k * cell - center[across]
                half = math.sqrt(max(R**2 - offset**2, 0.0))
                stops = np.linspace(-half, half, 15)
                points = np.zeros((len(stops), 3))
                points[:, across], points[:, along] = k * cell, center[along] + stops
                uv = self._pixels((points - center) @ shot.basis.T)
                middle = (stops[1:] + stops[:-1]) / 2
                shown = np.clip(1.3 * (1 - (middle**2 + offset**2) / R**2), 0.0, 1.0)
                for a, b, share in zip(uv[:-1], uv[1:], shown, strict=True):
                    color = tuple(int(c) for c in panel + share * (line - panel))
                    draw.line([*a, *b], fill=color, width=SUPERSAMPLING)


def shoot(example: FrameExample, skeleton: Skeleton, center_m: np.ndarray, azimuth_deg: float) -> Shot:
    """Returns the frame as a camera at this azimuth sees it that looks at `center_m` (3,), world, metres."""
    basis = pose3d.view_axes(azimuth_deg, _ELEVATION_DEG)[:2]
    truth, prediction = poses.truth(example), poses.prediction(example)

    def seen(points_world_m):
        return (points_world_m - center_m) @ basis.T

    body = poses.to_world(example, prediction.joints_headset_m)
    joints = seen(body)
    projection = basis @ example.T_world_headset[:3, :3].astype(np.float64)
    rings = [
        joints[j]
        + ellipsoids.radius(example.distribution) * ellipsoids.outline(projection @ example.distribution.cholesky_m[j])
        for j in ellipsoids.with_ellipsoid(example, skeleton)
    ]
    return Shot(
        basis=basis,
        center_m=center_m,
        joints=joints,
        present=prediction.present,
        shadow=seen(body * _ON_FLOOR),
        truth=seen(poses.to_world(example, truth.joints_headset_m)),
        truth_present=truth.present,
        rings=np.stack(rings) if rings else np.zeros((0, 1, 2)),
    )


def _fit(shots: Sequence[Shot]) -> tuple[float, np.ndarray]:
    """Returns scale and origin (2,), pixels, with which everything is inside the picture in all frames."""
    seen = [_FLOOR_RADIUS_M * np.array([[-1.0, -0.25], [1.0, 0.0]])]
    for shot in shots:
        seen += [
            shot.joints[shot.present],
            shot.shadow[shot.present],
            shot.truth[shot.truth_present],
            shot.rings.reshape(-1, 2),
        ]
    points = np.concatenate(seen)
    low, high = np.maximum(points.min(0), -_MAX_M), np.minimum(points.max(0), _MAX_M)
    left, top, right, bottom = scaled(BODY_BOX)
    heading, legend, margin = scaled((54, 46, 16))
    box = np.array([right - left - 2 * margin, bottom - top - heading - legend])
    scale = (box / (high - low)).min()
    middle = np.array([left + right, top + heading + bottom - legend]) / 2
    return scale, middle - scale * _DOWN * (low + high) / 2


def _middle(example: FrameExample) -> np.ndarray:
    """Returns the mean of the predicted joints (3,) in the world; the headset's position without any."""
    prediction = poses.prediction(example)
    if not prediction.present.any():
        return example.T_world_headset[:3, 3]
    return np.mean(poses.to_world(example, prediction.joints_headset_m)[prediction.present], axis=0)


def _smooth(positions: np.ndarray, frames: int) -> np.ndarray:
    """Returns a moving average (n, 3) over at most `frames` to each side, fewer near the ends."""
    n = len(positions)
    reach = [min(i, n - 1 - i, frames) for i in range(n)]
    return np.stack([positions[i - r : i + r + 1].mean(0) for i, r in enumerate(reach)])
