"""Writes the page of a comparison: its tables, charts with all models, and their predictions on the same frames."""

import html
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from epfv2_jax.core import files
from epfv2_jax.evaluation import comparison as comparison_lib
from epfv2_jax.evaluation.comparison import Comparison
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import charts, overlays, page, plots, pose3d
from epfv2_jax.viz.report import Subject


def write_page(
    directory: str | os.PathLike, comparison: Comparison, skeleton: Skeleton, layout: RigLayout, subject: Subject
) -> epath.Path:
    """Returns the path of `index.html` in `directory`, which is made, after writing the page there.

    Args:
      directory: for the page.
      comparison: what was measured.
      skeleton: of the records.
      layout: of their cameras.
      subject: what the page says of the models; its curves are those of each model, by name, that are compared.
    """
    directory = files.locate(directory)
    directory.mkdir(parents=True, exist_ok=True)
    main, *others = comparison_lib.as_tables(comparison)
    sections = [
        page.heading(subject.title, subject.about),
        _table(main),
        _frames(comparison, skeleton, layout, subject),
        _charts(comparison, subject),
        *map(_table, others),
    ]
    return page.write(directory / "index.html", subject.title, sections)


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


def _frames(comparison: Comparison, skeleton: Skeleton, layout: RigLayout, subject: Subject) -> str:
    """Returns the section with the pictures of frames, of which one is picked."""
    results = {model.name: model.scores.result for model in comparison.models}
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, heading in (("worst", "worst, cm"), ("median", "near the median"), ("best", "best")):
        for examples in zip(*(getattr(result, name) for result in results.values()), strict=True):
            first = examples[0]
            where = f"{subject.describe_clip(first.clip_id)}, frame {first.frame} of the clip"
            figure = draw_frame(dict(zip(results, examples, strict=True)), skeleton, layout, where)
            picture = page.embed(plots.to_image(figure), f"{heading}: {where}")
            groups.setdefault(heading, []).append((f"{first.err_cm:.1f}", picture))
    if not groups:
        return ""
    return f"<h2>Frames</h2><p>Chosen by the mean error of all models. {page.dots()}</p>{page.picker(groups)}"


def _charts(comparison: Comparison, subject: Subject) -> str:
    """Returns the section with the charts of all models."""
    results = {model.name: model.scores.result for model in comparison.models}
    errors = {name: result.errors for name, result in results.items()}
    parts = [page.chart(charts.histogram(errors), "Histograms of the errors of frames")]
    if max(len(found.counts) for found in errors.values()) > 1:
        figure = charts.over_time(errors, {}, subject.frame_s)
        parts.append(page.chart(figure, "Error over the time since the start of a clip"))
    if calibration := {name: result.calibration for name, result in results.items() if result.calibration}:
        parts.append(page.chart(charts.calibration(calibration), "Calibration: measured over nominal share of errors"))
    if subject.curves:
        figure = charts.learning(subject.curves, "validation MPJPE, cm")
        parts.append(page.chart(figure, "Validation error over the steps of the training"))
    return f"<h2>Charts</h2>{page.row(*parts)}"
