"""Draws the flat parts of a video's picture: background, camera views, and tiles with numbers and curves."""

import math

import numpy as np
from PIL import Image, ImageDraw

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig
from epfv2_jax.viz import ellipsoids, overlays, poses
from epfv2_jax.viz.drawing import (
    BACKGROUND,
    BODY_BOX,
    GAP,
    INK,
    LINE,
    MUTED,
    PANEL,
    SIZE_PX,
    SUPERSAMPLING,
    TILE_BOXES,
    VIEWS_BOX,
    Box,
    draw_curves,
    scaled,
    text,
    text_width,
)


def draw_background(example: FrameExample, title: str, runtime: str) -> Image.Image:
    """Returns a canvas with what does not change from frame to frame: panels, headings and legend."""
    canvas = Image.new("RGB", tuple(SUPERSAMPLING * n for n in SIZE_PX), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for box in (BODY_BOX, *TILE_BOXES):
        draw.rounded_rectangle(scaled(box), 8 * SUPERSAMPLING, fill=PANEL)
    left, top, right, bottom = BODY_BOX
    while title and text_width(title, 22) > right - left - 170:
        title = title[:-2].rstrip("…") + "…"
    text(draw, (left + 18, top + 27), title, 22, INK)
    has_truth = bool(example.joint_valid.any())
    x = right - 16
    for name, color in (("truth", poses.TRUTH_COLOR), ("prediction", poses.PREDICTION_COLOR))[not has_truth :]:
        x -= text_width(name, 18)
        text(draw, (x, bottom - 18), name, 18, INK)
        x -= 16
        disc = [SUPERSAMPLING * (c + r) for r in (-5, 5) for c in (x + 4, bottom - 18)]
        draw.ellipse(disc, fill=color)
        x -= 18
    if example.distribution is not None:
        text(draw, (left + 18, bottom - 18), f"{100 * ellipsoids.LEVEL:.0f} % ellipsoids", 18, MUTED)
    for box, heading in zip(TILE_BOXES, ("mean joint error", f"latency, {runtime}"), strict=True):
        text(draw, (box[0] + 18, box[1] + 22), heading, 18, MUTED)
    return canvas


def draw_views(canvas: Image.Image, example: FrameExample, skeleton: Skeleton, layout: RigLayout) -> None:
    """Draws the images of all views with both skeletons, in a grid."""
    V, H, W = example.images.shape
    columns = math.ceil(math.sqrt(V))
    rows = math.ceil(V / columns)
    left, top, right, bottom = VIEWS_BOX
    cell = (right - left - (columns - 1) * GAP) / columns, (bottom - top - (rows - 1) * GAP) / rows
    scale = min(cell[0] / W, cell[1] / H)
    size = round(SUPERSAMPLING * W * scale), round(SUPERSAMPLING * H * scale)
    lines = [
        (*poses.project_bones(example, pose, skeleton), pose.color, width)
        for pose, width in ((poses.truth(example), 5.5), (poses.prediction(example), 3.0))
    ]
    pixel = np.array(size) / (W, H)
    for place, v in enumerate(arrange(example.rig, columns)):
        name = layout.view_names[v].replace("_", " ")
        if example.view_valid[v]:
            image = Image.fromarray(overlays.to_uint8(example.images[v]))
            picture = image.resize(size, Image.Resampling.BICUBIC).convert("RGB")
        else:
            picture, name = Image.new("RGB", size, PANEL), f"{name}: no image"
        draw = ImageDraw.Draw(picture, "RGBA")
        for uv_px, visible, color, width in lines:
            draw_curves(draw, (uv_px[v] + 0.5) * pixel, visible[v], color, width=width * SUPERSAMPLING)
        tag = scaled((6, 6, 22 + text_width(name, 17), 30))
        draw.rounded_rectangle(tag, 5 * SUPERSAMPLING, fill=(12, 15, 18, 190))
        text(draw, (14, 18), name, 17, INK)
        row, column = divmod(place, columns)
        x, y = left + column * (cell[0] + GAP), top + row * (cell[1] + GAP)
        canvas.paste(picture, (round(SUPERSAMPLING * x), round(SUPERSAMPLING * y)))


def arrange(rig: Rig, columns: int) -> list[int]:
    """Returns the views row by row as the wearer has them: front cameras above side cameras, each row from the left."""
    T_headset_cam = np.linalg.inv(rig.T_cam_headset)
    ahead = np.argsort(-T_headset_cam[:, 2, 2], kind="stable")  # by how far the optical axis points to the front
    leftness_m = T_headset_cam[:, 0, 3]
    rows = (ahead[i : i + columns] for i in range(0, len(ahead), columns))
    return [int(v) for row in rows for v in row[np.argsort(-leftness_m[row], kind="stable")]]


def draw_tiles(canvas: Image.Image, frame: int, index: int, err_cm: np.ndarray, latency_ms: np.ndarray) -> None:
    """Draws the number of the frame, its error and its latency, each as a number and as a curve up to this frame.

    Args:
      canvas: to draw on.
      frame: number of the frame in its recording.
      index: of the frame in `err_cm` and `latency_ms`.
      err_cm: (n,) mean joint error of all frames, NaN where the truth is unknown.
      latency_ms: (n,) of all frames.
    """
    draw = ImageDraw.Draw(canvas)
    number = f"frame {frame}"
    text(draw, (BODY_BOX[2] - 18 - text_width(number, 18), BODY_BOX[1] + 27), number, 18, MUTED)
    for box, values, unit, color in zip(
        TILE_BOXES, (err_cm, latency_ms), ("cm", "ms"), (poses.PREDICTION_COLOR, MUTED), strict=True
    ):
        known = math.isfinite(values[index])
        words = f"{values[index]:.1f} {unit}" if known else "truth unknown"
        text(draw, (box[0] + 18, box[3] - 32), words, 34 if known else 20, INK)
        _draw_curve(draw, (box[0] + 152, box[1] + 42, box[2] - 18, box[3] - 16), values, index, color)


def _draw_curve(draw: ImageDraw.ImageDraw, box: Box, values: np.ndarray, index: int, color: str) -> None:
    """Draws the values up to `index` from left to right, zero at the bottom."""
    known = np.isfinite(values)
    if not known.any():
        return
    left, top, right, bottom = scaled(box)
    draw.line([left, bottom, right, bottom], fill=LINE, width=SUPERSAMPLING)
    most = max(np.percentile(values[known], 98), 1e-9)  # one slow frame must not flatten the others
    x = left + (right - left) * np.arange(len(values)) / max(len(values) - 1, 1)
    y = bottom - (bottom - top) * np.clip(np.where(known, values, 0.0) / most, 0.0, 1.0)
    line = [(a, b) for a, b, k in zip(x[: index + 1], y, known, strict=False) if k]
    if len(line) > 1:
        draw.line(line, fill=color, width=2 * SUPERSAMPLING, joint="curve")
    if line:
        r = 4 * SUPERSAMPLING
        draw.ellipse([line[-1][0] - r, line[-1][1] - r, line[-1][0] + r, line[-1][1] + r], fill=color)
