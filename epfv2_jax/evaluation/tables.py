"""Writes the results of an evaluation as JSON and as a table in the published order."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from epfv2_jax.checkpoints import Scores
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.evaluation.evaluate import MEAN_POSE, VIEWS_HIDDEN, EvaluationResult

#: Of the errors of frames, in `metrics.json` and the report.
PERCENTILES = (50, 90, 99)


def columns(groups: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Returns (heading, key of `PoseMetrics.summary`) of the published table's columns for metric groups, then ours."""
    published = ("MPJPE", "mpjpe_cm"), ("MPJVE", "mpjve_cm"), *((group, f"{group}_cm") for group in groups)
    return *published, ("PA-MPJPE", "pa_mpjpe_cm"), ("MPJVE m/s", "mpjve_m_s")


def write_json(result: EvaluationResult, path: str | os.PathLike, extra: Mapping[str, Any] | None = None) -> None:
    """Writes the numbers of `result`, after those of `extra`, as strict JSON (null for what could not be measured)."""
    data = {
        **(extra or {}),
        "unscored_joints": list(result.unscored),
        "metrics": result.metrics,
        "baselines": result.baselines,
        "per_joint_cm": result.per_joint_cm,
        "baselines_per_joint_cm": result.baselines_per_joint_cm,
        "frame_percentiles_cm": {str(percent): result.errors.percentile(percent) for percent in PERCENTILES},
        "calibration": [{"nominal": k, "measured": v} for k, v in result.calibration.items()],
        "worst_frames": [{"clip_id": e.clip_id, "frame": e.frame, "err_cm": e.err_cm} for e in result.worst],
    }
    write_strict_json(data, path)


def write_strict_json(data: Any, path: str | os.PathLike) -> None:
    """Writes data as strict JSON (null for numbers that are not finite); makes the directory."""
    path = files.locate(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, _strict(data), indent=2)


def read_scores(path: str | os.PathLike) -> Scores:
    """Returns the scores in a file that `write_json` wrote.

    Raises:
      ValueError: there is no such file, or it is damaged; the message names it.
    """
    remedy = "evaluate the checkpoint again"
    content = files.read_json(path, remedy)
    with checks.naming(os.fspath(path), remedy=remedy):
        checks.instance("content", content, dict, "a mapping")
        names = {field.name for field in dataclasses.fields(Scores)} & content.keys()
        return config_lib.from_mapping(Scores, {name: content[name] for name in names}, "")


def rows(result: EvaluationResult, name: str = "model") -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Returns (label, values in the order of `columns`): the model called `name`, its baselines, and ratios.

    Lengths in cm. The ratio to the mean pose and that of the model without images to itself follow those baselines.
    """

    def values(metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(metrics[key] for _, key in columns(result.groups))

    model = values(result.metrics)
    found = [(name, model)]
    for label, metrics in result.baselines.items():
        baseline = values(metrics)
        found.append((label, baseline))
        if label == MEAN_POSE:
            found.append((f"{name} / {label}", _ratios(model, baseline)))
        elif label == VIEWS_HIDDEN:
            found.append((f"{label} / {name}", _ratios(baseline, model)))
    return tuple(found)


def format_table(result: EvaluationResult, name: str = "model") -> str:
    """Returns the `rows` of a result as a plain-text table under the headings of `columns`.

    Errors are in cm, MPJVE in cm per 1/30 s and at the end in m/s. A last line names joints that were not scored.
    """
    shown = rows(result, name)
    width = max(len(label) for label, _ in shown)
    lines = [" ".join(["cm".ljust(width), *(heading.rjust(9) for heading, _ in columns(result.groups))])]
    lines += [" ".join([label.ljust(width), *(f"{value:9.2f}" for value in values)]) for label, values in shown]
    return "\n".join([*lines, *filter(None, [unscored_joints(result)])])


def unscored_joints(result: EvaluationResult) -> str:
    """Returns a sentence on the joints that the data do not have; an empty string where they have all."""
    if not result.unscored:
        return ""
    scored = result.num_joints - len(result.unscored)
    return f"scored: {scored} of {result.num_joints} joints; the data have no {', '.join(result.unscored)}"


def number(value: float, digits: int = 2) -> str:
    """Returns a number for people; a dash where it could not be measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _ratios(above: tuple[float, ...], below: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a / b if b else math.nan for a, b in zip(above, below, strict=True))


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
