"""Writes the report of an evaluation: a picture of each interesting frame, and one HTML page that stands alone."""

import html
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from epfv2_jax.core import files
from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.evaluate import VIEWS_HIDDEN, EvaluationResult
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.viz import ellipsoids, overlays, page, plots, pose3d, poses


def write_report(
    directory: str | os.PathLike,
    result: EvaluationResult,
    skeleton: Skeleton,
    layout: RigLayout,
    title: str = "Evaluation",
    note: str = "",
    describe_clip: Callable[[int], str] = "clip {}".format,
) -> epath.Path:
    """Returns the path of `index.html` in `directory`, after writing it and PNGs of the frames and the calibration.

    The page embeds its pictures. Worst frames come first, then the typical ones, then the tables.

    Args:
      directory: is made; PNGs of an earlier report in it are removed.
      result: of the evaluation.
      skeleton: of the joints; says which are connected and names them.
      layout: of the cameras; names the views.
      title: of the page.
      note: below the title.
      describe_clip: names a clip by its id, for the headings of the pictures.
    """
    directory = files.locate(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*_clip*.png"):
        old.unlink()
    sections = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(note)}</p>" if note else ""]
    sections.append(_summary_table(result))
    for name, heading, examples in (
        ("worst", "Worst frames", result.worst),
        ("typical", "Typical frames", result.typical),
    ):
        if not examples:
            continue
        sections.append(f"<h2>{heading}</h2>{_legend(result)}")
        for i, example in enumerate(examples):
            path = directory / f"{name}{i:02d}_clip{example.clip_id}_frame{example.frame}.png"
            picture = page.write_png(draw_frame(example, skeleton, layout, describe_clip), path)
            where = f"{describe_clip(example.clip_id)}, frame {example.frame} of the clip"
            alt = f"{heading}, number {i + 1}: {where}, {example.err_cm:.1f} cm"
            sections.append(page.embed(picture, alt))
    if result.calibration:
        sections.append(_uncertainty(result, directory))
    sections.append(f"<h2>Error of each joint</h2>{_joint_table(result)}")
    return page.write(directory / "index.html", title, sections)


def draw_frame(
    example: FrameExample,
    skeleton: Skeleton,
    layout: RigLayout,
    describe_clip: Callable[[int], str] = "clip {}".format,
) -> Any:
    """Returns a matplotlib figure of a frame: the views with both skeletons, the pose from two sides, joint errors."""
    V, H, W = example.images.shape
    # Inches, from the top: heading, view names, views, pose and errors.
    margin, gap, width = 0.2, 0.1, 13.0
    view_width = (width - 2 * margin - (V - 1) * gap) / V
    view_height = view_width * H / W
    pose_height = 4.4
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
        axes = place(margin + i * pose_height, margin, pose_height, pose_height)
        pose3d.draw_pose(axes, example, skeleton, azimuth)
        axes.set_title(name, fontsize=10, color=page.MUTED, pad=2)
    left = margin + 2 * pose_height + 1.35
    _draw_joint_errors(place(left, margin + 0.4, width - margin - left, pose_height - 0.4), example, skeleton)

    line = 1 - 0.33 / height
    heading = f"mean error {example.err_cm:.1f} cm"
    figure.text(margin / width, line, heading, fontsize=14, weight="bold", color=page.INK, va="center")
    where = f"{describe_clip(example.clip_id)}, frame {example.frame} of the clip"
    figure.text(0.2, line, where, fontsize=11, color=page.MUTED, va="center")
    for x, color, text in ((0.82, poses.PREDICTION_COLOR, "prediction"), (0.925, poses.TRUTH_COLOR, "truth")):
        figure.text(x, line, "●", fontsize=14, color=color, va="center")
        figure.text(x + 0.016, line, text, fontsize=11, color=page.INK, va="center")
    return figure


def draw_calibration(result: EvaluationResult) -> Any:
    """Returns a matplotlib figure: measured over nominal share of errors inside the predicted ellipsoids."""
    figure = plots.figure(5.2, 5.0)
    axes = figure.add_axes((0.14, 0.13, 0.82, 0.82))
    axes.plot([0, 1], [0, 1], "--", color=page.MUTED, linewidth=1.2)
    axes.text(0.60, 0.555, "ideal", color=page.MUTED, rotation=45, rotation_mode="anchor")
    nominal, measured = [0.0, *result.calibration], [0.0, *result.calibration.values()]
    axes.plot(nominal, measured, "-o", color=poses.PREDICTION_COLOR, linewidth=2.2, markersize=5)
    axes.text(0.03, 0.95, "above the line: too cautious", color=page.MUTED, fontsize=9)
    axes.text(0.97, 0.03, "below: too sure", color=page.MUTED, fontsize=9, ha="right")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.set_xlabel("probability of the predicted ellipsoid")
    axes.set_ylabel("share of errors inside it")
    _plain(axes)
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
    _plain(axes)


def _plain(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _uncertainty(result: EvaluationResult, directory: epath.Path) -> str:
    """Returns the section on the predicted uncertainty, after writing the PNG of its curve."""
    picture = page.write_png(draw_calibration(result), directory / "calibration.png")
    text = (
        f"Predicted standard deviation of one axis {result.metrics['predicted_sigma_cm']:.2f} cm, root mean square "
        f"error of one axis {result.metrics['error_sigma_cm']:.2f} cm."
    )
    return f"<h2>Uncertainty</h2><p>{text}</p>{page.embed(picture, 'Calibration curve', 'half')}"


def _legend(result: EvaluationResult) -> str:
    def dot(color):
        return f'<span style="color:{color}">&#9679;</span>'

    text = f"{dot(poses.PREDICTION_COLOR)} prediction &nbsp; {dot(poses.TRUTH_COLOR)} truth."
    text += f" Floor grid {pose3d.GRID_M} m."
    if result.calibration:
        text += f" Each ellipsoid holds its joint with {ellipsoids.LEVEL:.0%} probability, according to the model."
    return f"<p>{text} Skeletons are drawn wherever the lens sees them, hidden body parts included.</p>"


def _summary_table(result: EvaluationResult) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading, _ in tables.columns(result))
    body = "".join(
        f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{tables.number(value)}</td>' for value in values)}</tr>"
        for label, values in tables.rows(result)
    )
    m = result.metrics
    text = (
        f"{m['frames']:,.0f} frames. Errors in cm (MPJVE in cm per 1/30 s, and in m/s). "
        f"Jitter {tables.number(m['jitter_m_s3'], 0)} m/s³, of the true motion "
        f"{tables.number(m['true_jitter_m_s3'], 0)} m/s³. "
        f"MPJPE before refinement {tables.number(m['proposal_mpjpe_cm'])} cm."
    )
    if VIEWS_HIDDEN in result.baselines:
        text += (
            " Views hidden is this model without any image, so from the headset's pose alone, and a view alone is with "
            "all others hidden: the nearer views hidden / model is to 1, the less the images tell the model."
        )
    return f"<table><tr><th>cm</th>{head}</tr>{body}</table><p>{text}</p>"


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
    return f"<table><tr><th>joint</th>{heads}<th></th></tr>{''.join(rows)}</table>"
