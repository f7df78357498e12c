"""The charts of the reports, each for one model or for several: errors, calibration, and how training went."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from epfv2_jax.evaluation.distribution import BIN_CM, FrameErrors
from epfv2_jax.training.log import Curve
from epfv2_jax.viz import page, plots, poses

#: Of several models or joint groups, told apart with every common colour vision (Okabe and Ito, darkened for lines).
COLORS = (poses.PREDICTION_COLOR, "#0072B2", "#009E73", "#B0509A", "#7A5C00", "#3A8FC2", "#8C2D04", "#555555")
_MAX_POINTS = 300  # of a curve; a long one is drawn by means
_COLUMNS = 4  # of small charts
_VALIDATION = "validation/"
# The figures of a training that come first, and last; the terms of the objective are between them.
_FIRST, _LAST = ("loss", "mpjpe_cm", "learning_rate", "grad_norm"), ("step_s", "data_wait_share", "skipped")


def histogram(errors: Mapping[str, FrameErrors]) -> Any:
    """Returns a matplotlib figure: shares of the frames by their error, up to the 99.5th percentile, for each model."""
    figure, axes = _chart(6.4, 3.6)
    known = [found.percentile(99.5) for found in errors.values()]
    top = max([x for x in known if np.isfinite(x)], default=10.0)
    width = max(1, round(top / 40 / BIN_CM)) * BIN_CM
    edges_cm = np.arange(0.0, top + 2 * width, width)
    for (name, found), color in zip(errors.items(), itertools.cycle(COLORS)):
        shares = 100 * found.histogram(edges_cm)
        axes.stairs(shares, edges_cm, color=color, fill=len(errors) == 1, alpha=0.85, linewidth=1.6, label=name)
        median = found.percentile(50)
        if np.isfinite(median):
            axes.axvline(median, color=page.INK if len(errors) == 1 else color, linewidth=1.1, linestyle="--")
    axes.set(xlim=(0, edges_cm[-1]), ylim=(0, None))
    axes.set_xlabel("mean error of a frame, cm (dashed: median)")
    axes.set_ylabel("% of the frames")
    _name(axes, errors)
    return figure


def over_time(
    errors: Mapping[str, FrameErrors], groups: Mapping[str, Sequence[int]], frame_s: float | None = None
) -> Any:
    """Returns a matplotlib figure: the error by the time since the start of a clip, where the model knows no past.

    For one model the mean, the middle 80 % of the frames, and the mean of each joint group; for several their means.
    """
    figure, axes = _chart(6.4, 3.6)
    unit = 1.0 if frame_s is None else frame_s
    (first, *others), top = errors.items(), 0.0
    for (name, found), color in zip(errors.items(), itertools.cycle(COLORS)):
        mean = found.mean_over_time(range(found.joint_sum_cm.shape[1]))
        axes.plot(unit * np.arange(len(mean)), mean, color=color, linewidth=2.2, label=name if others else "all joints")
        top = max(top, _top(mean))
    if not others:
        t = unit * np.arange(len(first[1].counts))
        low, high = (first[1].over_time(percent) for percent in (10, 90))
        axes.fill_between(t, low, high, color=COLORS[0], alpha=0.15, linewidth=0, label="80 % of the frames")
        top = max(top, _top(high))
        for (name, joints), color in zip(groups.items(), COLORS[1:], strict=False):
            mean = first[1].mean_over_time(joints)
            axes.plot(t, mean, color=color, linewidth=1.3, label=name)
            top = max(top, _top(mean))
    axes.set(xlim=(0, None), ylim=(0, 1.08 * top or None))
    axes.set_xlabel(f"time since the start of the clip, {'frames' if frame_s is None else 's'}")
    axes.set_ylabel("error, cm")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def calibration(curves: Mapping[str, Mapping[float, float]]) -> Any:
    """Returns a matplotlib figure: measured over nominal share of errors inside the predicted ellipsoids.

    The first curve is drawn thick; the others are those of joint groups or of other models.
    """
    figure, axes = _chart(5.2, 4.8)
    axes.plot([0, 1], [0, 1], "--", color=page.MUTED, linewidth=1.2, label="ideal")
    for i, ((name, curve), color) in enumerate(zip(curves.items(), itertools.cycle(COLORS))):
        nominal, measured = [0.0, *curve], [0.0, *curve.values()]
        style = {"linewidth": 1.2, "markersize": 3} if i else {"linewidth": 2.4, "markersize": 5}
        axes.plot(nominal, measured, "-o", color=color, label=name, zorder=3 - 0.1 * i, **style)
    axes.text(0.03, 0.95, "above the line: too cautious", color=page.MUTED, fontsize=9)
    axes.text(0.97, 0.03, "below: too sure", color=page.MUTED, fontsize=9, ha="right")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.set_xlabel("probability of the predicted ellipsoid")
    axes.set_ylabel("share of errors inside it")
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.08))
    return figure


def training(curves: Mapping[str, Curve]) -> Any:
    """Returns a matplotlib figure with a small chart for each figure of a run that changes; validation beside training.

    None where nothing changes.
    """
    changing = {name: curve for name, curve in curves.items() if len(set(curve.values)) > 1}
    own = sorted((name for name in changing if "/" not in name), key=_rank)
    others = [name for name in changing if "/" in name and name.removeprefix(_VALIDATION) not in own]
    if not changing:
        return None
    rows = -(-len(own + others) // _COLUMNS)
    figure = plots.figure(13.0, 1.9 * rows)
    for i, name in enumerate(own + others):
        axes = figure.add_subplot(rows, _COLUMNS, i + 1)
        _curve(axes, changing[name], COLORS["/" in name], "training")
        if (second := changing.get(f"{_VALIDATION}{name}")) is not None:
            _curve(axes, second, COLORS[1], "validation")
            axes.legend(fontsize=7, frameon=False)
        axes.set_title(name.replace("_", " ").replace("/", ": "), fontsize=9, color=page.INK, loc="left", pad=3)
        _small(axes)
    figure.tight_layout(pad=0.4, w_pad=1.2, h_pad=0.8)
    return figure


def learning(curves: Mapping[str, Curve], ylabel: str) -> Any:
    """Returns a matplotlib figure: one curve over the steps for each run."""
    figure, axes = _chart(6.4, 3.6)
    for (name, curve), color in zip(curves.items(), itertools.cycle(COLORS)):
        _curve(axes, curve, color, name)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    _name(axes, curves)
    return figure


def _curve(axes: Any, curve: Curve, color: str, label: str) -> None:
    """Draws a curve, by means where it is long; few points are marked."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    if len(steps) > _MAX_POINTS:
        parts = np.array_split(np.arange(len(steps)), _MAX_POINTS)
        steps, values = (np.array([x[part].mean() for part in parts]) for x in (steps, values))
    axes.plot(steps, values, "-o" if len(steps) < 20 else "-", color=color, linewidth=1.4, markersize=3, label=label)
    axes.margins(x=0.01)


def _small(axes: Any) -> None:
    """Shows the bulk of a small chart's values: the first ones of a run may be far larger than all others."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values)]
    if len(values) > 20:
        low, high = values.min(), np.percentile(values, 97)
        if high > low:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes.tick_params(labelsize=7)
    axes.xaxis.get_major_formatter().set_scientific(False)
    plots.plain(axes)


def _chart(width: float, height: float) -> tuple[Any, Any]:
    figure = plots.figure(width, height)
    axes = figure.add_axes((0.75 / width, 0.55 / height, 1 - 0.95 / width, 1 - 0.95 / height))
    plots.plain(axes)
    return figure, axes


def _name(axes: Any, several: Mapping[str, Any]) -> None:
    if len(several) > 1:
        axes.legend(fontsize=8, frameon=False)


def _top(values: np.ndarray) -> float:
    return float(np.max(values[np.isfinite(values)], initial=0.0))


def _rank(name: str) -> int:
    """Returns the place of a figure among the small charts."""
    order = (*_FIRST, "", *_LAST)
    return order.index(name if name in order else "")
