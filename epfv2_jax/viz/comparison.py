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
from epfv2_jax.viz import charts, grid, page, plots
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
    """Returns a matplotlib figure of one frame: a row for each model by name, with its own error."""
    rows = {f"{name}: {_error_cm(example):.1f} cm": example for name, example in examples.items()}
    return grid.draw(rows, skeleton, layout, where)


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
