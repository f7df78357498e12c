"""Writes the report of an evaluation: one HTML page that stands alone."""

import dataclasses
import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from epfv2_jax.core import files
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.evaluate import VIEWS_HIDDEN, EvaluationResult
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.training.log import Curve
from epfv2_jax.viz import charts, ellipsoids, overlays, page, plots, pose3d, poses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a report is about, in words."""

    title: str = "Evaluation"
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)  # below the title; `code` in backquotes
    describe_clip: Callable[[int], str] = "clip {}".format  # names a clip by its id
    frame_s: float | None = None  # nominal time from one frame to the next; None: not known
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)  # of the training, by name
    configuration: str = ""  # of the run


def write_report(
    directory: str | os.PathLike, result: EvaluationResult, skeleton: Skeleton, layout: RigLayout, subject: Subject
) -> epath.Path:
    """Returns the path of `index.html` in `directory`, which is made, after writing the page there.

    Args:
      directory: for the page.
      result: of the evaluation.
      skeleton: of the joints; says which are connected and names them.
      layout: of the cameras; names the views.
      subject: what the page says of the run.
    """
    directory = files.locate(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sections = [
        page.heading(subject.title, subject.about),
        _key_figures(result),
        _summary_table(result),
        _frames(result, skeleton, layout, subject),
        _errors(result, subject),
        f"<h2>Error of each joint</h2>{_joint_table(result)}",
        _uncertainty(result),
        _training(subject),
        page.details("Configuration of the run", subject.configuration) if subject.configuration else "",
    ]
    return page.write(directory / "index.html", subject.title, sections)


def draw_frame(
    example: FrameExample,
    skeleton: Skeleton,
    layout: RigLayout,
    describe_clip: Callable[[int], str] = "clip {}".format,
) -> Any:
    """Returns a matplotlib figure of a frame: the views with both skeletons, the pose from two sides, and errors.

    The errors are those of the joints, and those of the frames of the clip over time.
    """
    V, H, W = example.images.shape
    # Inches, from the top: heading, view names, views, pose and errors.
    margin, gap, width = 0.2, 0.1, 13.0
    view_width = (width - 2 * margin - (V - 1) * gap) / V
    view_height = view_width * H / W
    pose_width, pose_height = 4.4, 4.9
    height = 0.85 + view_height + 0.45 + pose_height + margin
    figure = plots.figure(width, height)

    def place(left, bottom, w, h):
        return figure.add_axes((left / width, bottom / height, w / width, h / height))

    names = [name.replace("_", " ") for name in layout.view_names]
    views_bottom = height - 0.85 - view_height
    for v, picture in enumerate(overlays.draw_views(example, skeleton, height_px=420)):
        axes = place(margin + v * (view_width + gap), views_bottom, view_width, view_height)
        axes.imshow(picture, aspect="auto")
        axes.axis("off")
        seen = names[v] if example.view_valid[v] else f"{names[v]}: no image"
        axes.set_title(seen, fontsize=10, color=page.MUTED, pad=4)
    for i, (azimuth, name) in enumerate(((25.0, "from the front"), (90.0, "from the wearer's left"))):
        axes = place(margin + i * pose_width, margin, pose_width, pose_height)
        pose3d.draw_pose(axes, example, skeleton, azimuth)
        axes.set_title(name, fontsize=10, color=page.MUTED, pad=2)
    left = margin + 2 * pose_width + 1.35
    over_time = 0.9 if example.clip_err_cm is not None and len(example.clip_err_cm) > 1 else 0.0
    bottom = margin + 0.4 + (over_time and over_time + 0.5)
    _draw_joint_errors(place(left, bottom, width - margin - left, margin + pose_height - bottom), example, skeleton)
    if over_time:
        _draw_clip_errors(place(left, margin + 0.4, width - margin - left, over_time), example)

    line = 1 - 0.33 / height
    heading = f"mean error {example.err_cm:.1f} cm"
    figure.text(margin / width, line, heading, fontsize=14, weight="bold", color=page.INK, va="center")
    where = f"{describe_clip(example.clip_id)}, frame {example.frame} of the clip"
    figure.text(0.2, line, where, fontsize=11, color=page.MUTED, va="center")
    for x, color, text in ((0.82, poses.PREDICTION_COLOR, "prediction"), (0.925, poses.TRUTH_COLOR, "truth")):
        figure.text(x, line, "●", fontsize=14, color=color, va="center")
        figure.text(x + 0.016, line, text, fontsize=11, color=page.INK, va="center")
    return figure


def _draw_joint_errors(axes: Any, example: FrameExample, skeleton: Skeleton) -> None:
    """Draws a bar for each joint with a known error."""
    err_cm = 100 * np.linalg.norm(example.joints_headset_m - example.true_joints_headset_m, axis=-1)
    shown = [j for j in range(skeleton.num_joints) if example.joint_valid[j] and np.isfinite(err_cm[j])]
    rows = np.arange(len(shown))[::-1]
    axes.barh(rows, err_cm[shown], color=poses.PREDICTION_COLOR, height=0.72)
    axes.set_yticks(rows, [page.joint_label(skeleton.joint_names[j]) for j in shown], fontsize=7)
    axes.set_ylim(-0.8, len(shown) - 0.2)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("error, cm", fontsize=9)
    plots.plain(axes)


def _draw_clip_errors(axes: Any, example: FrameExample) -> None:
    """Draws the error of each frame of the clip, and marks that of the picture."""
    t, err_cm = example.frame, example.clip_err_cm
    axes.plot(err_cm, color=page.MUTED, linewidth=1.2)
    axes.plot([t], [err_cm[t]], "o", color=page.INK, markersize=5, clip_on=False)
    axes.set(xlim=(0, len(err_cm) - 1), ylim=(0, None))
    axes.tick_params(labelsize=8)
    axes.set_xlabel("frame of the clip", fontsize=9)
    axes.set_ylabel("cm", fontsize=9)
    plots.plain(axes)


def _key_figures(result: EvaluationResult) -> str:
    m, errors = result.metrics, result.errors
    figures = {"MPJPE, cm": tables.number(m["mpjpe_cm"])}
    for percent in tables.PERCENTILES:
        name = "median of the frames" if percent == 50 else f"{percent}th percentile"
        figures[f"{name}, cm"] = tables.number(errors.percentile(percent), 1)
    figures["MPJVE, cm per 1/30 s"] = tables.number(m["mpjve_cm"])
    if "inside_90" in m:
        figures["of the errors in 90 % ellipsoids"] = f"{100 * m['inside_90']:.0f} %"
    figures["frames"] = f"{m['frames']:,.0f}"
    return page.key_figures(figures)


def _frames(result: EvaluationResult, skeleton: Skeleton, layout: RigLayout, subject: Subject) -> str:
    """Returns the section with the pictures of frames, of which one is picked."""

    def shown(examples: Sequence[FrameExample], group: str) -> list[tuple[str, str]]:
        found = []
        for example in examples:
            figure = draw_frame(example, skeleton, layout, subject.describe_clip)
            where = f"{subject.describe_clip(example.clip_id)}, frame {example.frame} of the clip"
            alt = f"{group}: {where}, {example.err_cm:.1f} cm"
            found.append((f"{example.err_cm:.1f}", page.embed(plots.to_image(figure), alt)))
        return found

    names = {"worst, cm": result.worst, "near the median": result.median, "best": result.best}
    groups = {name: shown(examples, name) for name, examples in names.items() if examples}
    return f"<h2>Frames</h2>{_legend(result)}{page.picker(groups)}" if groups else ""


def _errors(result: EvaluationResult, subject: Subject) -> str:
    own = {"model": result.errors}
    histogram = page.chart(charts.histogram(own), "Histogram of the errors of frames")
    over_time = ""
    if len(result.errors.counts) > 1:
        figure = charts.over_time(own, result.groups, subject.frame_s)
        over_time = page.chart(figure, "Error over the time since the start of a clip")
    text = "A frame's error is the mean over its joints. At the start of a clip the model knows no past."
    return f"<h2>How errors are distributed</h2><p>{text}</p>{page.row(histogram, over_time)}"


def _uncertainty(result: EvaluationResult) -> str:
    if not result.calibration:
        return ""
    curves = {"all joints": result.calibration, **result.group_calibration}
    chart = page.chart(charts.calibration(curves), "Calibration: measured over nominal share of errors", "half")
    text = (
        f"Predicted standard deviation of one axis {result.metrics['predicted_sigma_cm']:.2f} cm, root mean square "
        f"error of one axis {result.metrics['error_sigma_cm']:.2f} cm."
    )
    levels = [level for level in (0.5, 0.9, 0.99) if level in result.calibration]
    rows = [(name, *(f"{100 * curve[level]:.0f} %" for level in levels)) for name, curve in curves.items()]
    table = page.table(("errors inside", *(f"{level:.0%}" for level in levels)), rows)
    return f"<h2>Uncertainty</h2><p>{text}</p>{page.row(chart, table)}"


def _training(subject: Subject) -> str:
    figure = charts.training(subject.curves)
    if figure is None:
        return ""
    chart = page.chart(figure, "Figures of the training over its steps")
    text = (
        "By step: means over the steps between two lines of metrics.jsonl. The largest 3 % of the values are cut off."
    )
    return f"<h2>Training</h2><p>{text}</p>{chart}"


def _legend(result: EvaluationResult) -> str:
    text = f"{page.dots()}. Floor grid {pose3d.GRID_M} m."
    if result.calibration:
        text += f" Each ellipsoid holds its joint with {ellipsoids.LEVEL:.0%} probability, according to the model."
    text += " Skeletons are drawn wherever the lens sees them, hidden body parts included."
    return f"<p>{text} The arrow keys go through the frames.</p>"


def _summary_table(result: EvaluationResult) -> str:
    head = ("cm", *(heading for heading, _ in tables.columns(result.groups)))
    table = page.table(head, ((label, *map(tables.number, values)) for label, values in tables.rows(result)))
    m = result.metrics
    text = (
        f"Errors in cm (MPJVE in cm per 1/30 s, and in m/s). "
        f"Jitter {tables.number(m['jitter_m_s3'], 0)} m/s³, of the true motion "
        f"{tables.number(m['true_jitter_m_s3'], 0)} m/s³. "
        f"MPJPE before refinement {tables.number(m['proposal_mpjpe_cm'])} cm."
    )
    if VIEWS_HIDDEN in result.baselines:
        text += (
            " Views hidden is this model without any image, so from the headset's pose alone, and a view alone is with "
            "all others hidden: the nearer views hidden / model is to 1, the less the images tell the model."
        )
    return f"{table}<p>{text}</p>"


def _joint_table(result: EvaluationResult) -> str:
    columns = {"model": result.per_joint_cm, **result.baselines_per_joint_cm}
    longest = max((v for v in result.per_joint_cm.values() if math.isfinite(v)), default=1.0) or 1.0
    rows = []
    for name, err_cm in result.per_joint_cm.items():
        width = 220 * err_cm / longest if math.isfinite(err_cm) else 0
        cells = "".join(f"<td>{tables.number(column[name])}</td>" for column in columns.values())
        bar = f'<span class="bar" style="width:{width:.0f}px;background:{poses.PREDICTION_COLOR}"></span>'
        rows.append(f'<tr><td>{html.escape(page.joint_label(name))}</td>{cells}<td class="left">{bar}</td></tr>')
    heads = "".join(f"<th>{html.escape(name)}, cm</th>" for name in columns)
    return f'<div class="scroll"><table><tr><th>joint</th>{heads}<th></th></tr>{"".join(rows)}</table></div>'
