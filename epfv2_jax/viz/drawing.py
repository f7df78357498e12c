"""Colours, boxes and strokes of the pictures of a video.

Drawn with Pillow alone, at twice the size and then reduced: a matplotlib figure takes several times as long.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import ImageDraw, ImageFont

from epfv2_jax.viz import poses

#: Width and height of the pictures; both even, as the usual MP4 encoding needs it.
SIZE_PX = (1280, 720)
#: Pixels of the canvas for one of the picture.
SUPERSAMPLING = 2
BACKGROUND, PANEL, LINE = "#12161b", "#1a2027", "#333d48"
INK, MUTED, OUTLINE, SHADOW = "#e9eef3", "#93a0ae", "#0c0f12", "#0b0e11"

Box = tuple[float, float, float, float]

# Boxes (left, top, right, bottom) in the units of `SIZE_PX`.
VIEWS_BOX: Box = (24, 24, 696, 696)
BODY_BOX: Box = (712, 24, 1256, 590)
TILE_BOXES: tuple[Box, Box] = ((712, 602, 978, 696), (990, 602, 1256, 696))
#: Distance between two views.
GAP = 8


def scaled(values: Iterable[float]) -> list[float]:
    """Returns values in the units of `SIZE_PX` in pixels of the canvas."""
    return [SUPERSAMPLING * x for x in values]


def text(draw: ImageDraw.ImageDraw, position: tuple[float, float], words: str, size: int, color: str) -> None:
    """Writes text with its left edge and its vertical middle at `position`; position and size in units of `SIZE_PX`."""
    draw.text(scaled(position), words, font=_font(size), fill=color, anchor="lm")


def text_width(words: str, size: int) -> float:
    """Returns the width of a text in the units of `SIZE_PX`."""
    return _font(size).getlength(words) / SUPERSAMPLING


def draw_bones(
    draw: ImageDraw.ImageDraw,
    points: np.ndarray,
    present: np.ndarray,
    bones: Sequence[tuple[int, int]],
    color: str,
    *,
    width: float,
    outline: float = 0.0,
) -> None:
    """Draws straight bones between the present joints, and a disc at each of these: points (J, 2), pixels."""
    lines = [(points[a], points[b]) for a, b in bones if present[a] and present[b]]
    for extra, fill in ((outline, OUTLINE), (0.0, color))[not outline :]:
        for a, b in lines:
            draw.line([*a, *b], fill=fill, width=max(1, round(width + 2 * extra)))
        _draw_discs(draw, points[present], 0.75 * width + extra, fill)


def draw_curves(
    draw: ImageDraw.ImageDraw, points: np.ndarray, visible: np.ndarray, color: str, *, width: float
) -> None:
    """Draws bones as a camera sees them, bent by its lens: points (bones, n, 2), visible (bones, n)."""
    runs, ends = [], []
    for line, seen in zip(points, visible, strict=True):
        runs += [run.ravel().tolist() for run in poses.visible_runs(line, seen)]
        ends += [line[i] for i in (0, -1) if seen[i]]
    for extra, fill in ((SUPERSAMPLING, OUTLINE), (0, color)):
        for run in runs:
            draw.line(run, fill=fill, width=round(width + 2 * extra))
        _draw_discs(draw, ends, 0.75 * width + extra, fill)


def _draw_discs(draw: ImageDraw.ImageDraw, centers: Iterable[np.ndarray], radius: float, fill: str) -> None:
    for x, y in centers:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * SUPERSAMPLING)
