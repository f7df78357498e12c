"""Writes the page of a comparison: its tables, and the models' predictions side by side on the same frames."""

import html
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from epfv2_jax.core import files
from epfv2_jax.evaluation import comparison as comparison_lib
from epfv2_jax.evaluation.comparison import Comparison
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import overlays, page, plots, pose3d, poses


def write_page(
    directory: str | os.PathLike,
    comparison: Comparison,
    skeleton: Skeleton,
    layout: RigLayout,
    describe_clip: Callable[[int], str] = "clip {}".format,
) -> epath.Path:
    """Returns the path of `index.html` in `directory`, after writing it and a PNG of each frame that is drawn.

    Args:
      directory: is made; PNGs of an earlier comparison in it are removed.
      comparison: what was measured.
      skeleton: of the records.
      layout: of their cameras.
      describe_clip: names a clip by its id.
    """
    directory = files.locate(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*_clip*.png"):
        old.unlink()
    title = comparison_lib.title(comparison)
    sections = [f"<h1>{html.escape(title)}</h1>"]
    main, *others = comparison_lib.as_tables(comparison)
    sections.append(_table(main))
    results = {model.name: model.scores.result for model in comparison.models}
    for name, heading in (("worst", "Worst frames"), ("typical", "Typical frames")):
        frames = list(zip(*(getattr(result, name) for result in results.values()), strict=True))
        if frames:
            sections.append(f"<h2>{heading}</h2><p>Chosen by the mean error of all models. {_legend()}</p>")
        for i, examples in enumerate(frames):
            first = examples[0]
            where = f"{describe_clip(first.clip_id)}, frame {first.frame} of the clip"
            figure = draw_frame(dict(zip(results, examples, strict=True)), skeleton, layout, where)
            path = directory / f"{name}{i:02d}_clip{first.clip_id}_frame{first.frame}.png"
            sections.append(page.embed(page.write_png(figure, path), f"{heading}, number {i + 1}: {where}"))
    return page.write(directory / "index.html", title, [*sections, *map(_table, others)])


def draw_frame(examples: Mapping[str, FrameExample], skeleton: Skeleton, layout: RigLayout, where: str) -> Any:
    """Returns a matplotlib figure of one frame: for each model by name a row of the views, and the pose in space."""
    first = next(iter(examples.values()))
    V, H, W = first.images.shape
    # Inches, from the top: heading and view names, then the rows, each with the model's name above.
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

    write(margin, height - 0.27, where, fontsize=13, weight="bold", color=page.INK)
    for v, name in enumerate(layout.view_names):
        middle = margin + v * (cell + gap) + cell / 2
        write(middle, height - 0.62, name.replace("_", " "), fontsize=9, color=page.MUTED, ha="center")
    for i, (name, example) in enumerate(examples.items()):
        top = height - head - i * row - label
        write(margin, top + label / 2, f"{name}: {_error_cm(example):.1f} cm", fontsize=11, color=page.INK)
        for v, picture in enumerate(overlays.draw_views(example, skeleton, height_px=300)):
            axes = place(v, top, view)
            axes.imshow(picture, aspect="auto")
            axes.axis("off")
        pose3d.draw_pose(place(V, top, cell), example, skeleton, azimuth_deg=25.0)
    return figure


def _error_cm(example: FrameExample) -> float:
    """Returns the mean error of the valid joints of one model's own example."""
    distance_m = np.linalg.norm(example.joints_headset_m - example.true_joints_headset_m, axis=-1)
    return float(100 * distance_m[example.joint_valid].mean())


def _table(table: comparison_lib.Table) -> str:
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return f"<h2>{html.escape(table.heading)}</h2>{page.table(table.head, table.rows)}{note}"


def _legend() -> str:
    dots = ((poses.PREDICTION_COLOR, "prediction"), (poses.TRUTH_COLOR, "truth"))
    return " &nbsp; ".join(f'<span style="color:{color}">&#9679;</span> {words}' for color, words in dots)
