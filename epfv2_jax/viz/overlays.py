"""Draws the predicted and the true skeleton over the camera images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import poses

_OUTLINE_COLOR = "#101418"
_SUPERSAMPLING = 3


def draw_views(example: FrameExample, skeleton: Skeleton, height_px: int = 384) -> list[np.ndarray]:
    """Returns one picture (height_px, w, 3) uint8 per view: the upright image with the true and the predicted skeleton.

    Images are enlarged or reduced to `height_px` before anything is drawn, so that skeletons are crisp on small
    images. The truth is the broader line, so that it shows on both sides of a prediction that hits it. Bones that lead
    to a joint without a true position are drawn for the prediction only. A view without an image is left dark.
    """
    lines = [
        (*poses.project_bones(example, pose, skeleton), pose.color, width)
        for pose, width in ((poses.truth(example), 5.0), (poses.prediction(example), 2.6))
    ]
    return [_draw_view(example, v, height_px, lines) for v in range(example.view_valid.shape[0])]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns an image as uint8; floats are in [0, 1]."""
    if image.dtype == np.uint8:
        return image
    return np.round(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)


def _draw_view(
    example: FrameExample, v: int, height_px: int, lines: Sequence[tuple[np.ndarray, np.ndarray, str, float]]
) -> np.ndarray:
    """Draws lines (pixels, visible, colour, width) over view v."""
    H, W = example.images.shape[1:3]
    width_px = max(1, round(W * height_px / H))
    big = (width_px * _SUPERSAMPLING, height_px * _SUPERSAMPLING)
    if example.view_valid[v]:
        canvas = Image.fromarray(to_uint8(example.images[v])).resize(big, Image.Resampling.BICUBIC).convert("RGB")
    else:
        canvas = Image.new("RGB", big, "#20242a")
    draw = ImageDraw.Draw(canvas)
    scale = np.array([big[0] / W, big[1] / H])
    unit = _SUPERSAMPLING * height_px / 384
    for uv_px, visible, color, line_width in lines:
        points, seen = (uv_px[v] + 0.5) * scale[None, None], visible[v]
        runs = [run for b in range(len(seen)) for run in poses.visible_runs(points[b], seen[b])]
        ends = [points[b, i] for b in range(len(seen)) for i in (0, -1) if seen[b, i]]
        for extra, fill in ((2.0, _OUTLINE_COLOR), (0.0, color)):
            width, radius = line_width + extra, 0.6 * line_width + 1.4 + extra / 2
            for run in runs:
                draw.line([tuple(p) for p in run], fill=fill, width=round(width * unit), joint="curve")
            for x, y in ends:
                r = radius * unit
                draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    return np.asarray(canvas.resize((width_px, height_px), Image.Resampling.LANCZOS))
