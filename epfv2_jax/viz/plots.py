"""Matplotlib without a screen, whatever the environment asks of it: figures, as pixels or as SVG."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image


def figure(width: float, height: float) -> Any:
    """Returns a white matplotlib figure of this size in inches, drawn by Agg.

    MPLBACKEND, which a notebook passes on to the commands started in it, may name a backend that cannot be loaded here;
    matplotlib would then refuse to be imported.
    """
    inherited = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if inherited is not None:
            os.environ["MPLBACKEND"] = inherited
    made = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(made)
    return made


def plain(axes: Any) -> None:
    """Leaves only the left and the lower border of axes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def to_image(figure: Any) -> Image.Image:
    """Returns the pixels of a figure."""
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def to_svg(figure: Any) -> bytes:
    """Returns a figure as SVG whose texts are texts, the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    # The viewer's fonts: with outlines of every letter the file would be several times as large.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "epfv2"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
