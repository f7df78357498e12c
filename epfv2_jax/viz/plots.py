"""Matplotlib without a screen, whatever the environment asks of it."""

import os
from typing import Any


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
