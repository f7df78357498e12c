"""A picture of poses below each other: for each a row of the views with the skeletons, and the pose in space."""

from collections.abc import Mapping
from typing import Any

from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import overlays, page, plots, pose3d


def draw(examples: Mapping[str, FrameExample], skeleton: Skeleton, layout: RigLayout, heading: str) -> Any:
    """Returns a matplotlib figure with a row for each example, which is written above it."""
    first = next(iter(examples.values()))
    V, H, W = first.images.shape
    # Inches, from the top: heading and view names, then the rows, each with its words above.
    margin, gap, width, head, label = 0.2, 0.1, 13.0, 0.75, 0.3
    cell = (width - 2 * margin - V * gap) / (V + 1)
    view = cell * H / W
    row = label + max(view, cell)
    height = head + row * len(examples) + margin
    figure = plots.figure(width, height)

    def write(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, y / height, words, va="center", **style)

    def place(column: int, top: float, cell_height: float) -> Any:
        left = margin + column * (cell + gap)
        return figure.add_axes((left / width, (top - cell_height) / height, cell / width, cell_height / height))

    write(margin, height - 0.27, heading, fontsize=13, weight="bold", color=page.INK)
    for v, name in enumerate(layout.view_names):
        middle = margin + v * (cell + gap) + cell / 2
        write(middle, height - 0.62, name.replace("_", " "), fontsize=9, color=page.MUTED, ha="center")
    for i, (words, example) in enumerate(examples.items()):
        top = height - head - i * row - label
        write(margin, top + label / 2, words, fontsize=11, color=page.INK)
        for v, picture in enumerate(overlays.draw_views(example, skeleton, height_px=300)):
            axes = place(v, top, view)
            axes.imshow(picture, aspect="auto")
            axes.axis("off")
        pose3d.draw_pose(place(V, top, cell), example, skeleton, azimuth_deg=25.0)
    return figure
