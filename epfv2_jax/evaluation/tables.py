"""Writes the results of an evaluation as JSON and as a table in the published order."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from epfv2_jax.core import files
from epfv2_jax.evaluation.evaluate import EvaluationResult


def columns(result: EvaluationResult) -> tuple[tuple[str, str], ...]:
    """Returns (heading, key of `PoseMetrics.summary`) of the published table's columns, then ours."""
    groups = ((group, f"{group}_cm") for group in result.groups)
    published = ("MPJPE", "mpjpe_cm"), ("MPJVE", "mpjve_cm"), *groups
    return *published, ("PA-MPJPE", "pa_mpjpe_cm"), ("MPJVE m/s", "mpjve_m_s")


def write_json(result: EvaluationResult, path: str | pathlib.Path, extra: Mapping[str, Any] | None = None) -> None:
    """Writes the numbers of `result`, after those of `extra`, as strict JSON (null for what could not be measured)."""
    data = {
        **(extra or {}),
        "metrics": result.metrics,
        "mean_pose_baseline": result.baseline,
        "per_joint_cm": result.per_joint_cm,
        "mean_pose_baseline_per_joint_cm": result.baseline_per_joint_cm,
        "calibration": [{"nominal": k, "measured": v} for k, v in result.calibration.items()],
        "worst_frames": [{"clip_id": e.clip_id, "frame": e.frame, "err_cm": e.err_cm} for e in result.worst],
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, _strict(data), indent=2)


def format_table(result: EvaluationResult, name: str = "model") -> str:
    """Returns a plain-text table in cm, columns in the published order, the mean-pose baseline under the model.

    MPJVE is in cm per 1/30 s, and at the end in m/s.
    """
    rows = [(name, result.metrics)] + ([("mean pose", result.baseline)] if result.baseline else [])
    width = max(len(label) for label, _ in rows)
    shown = columns(result)
    lines = [" ".join(["cm".ljust(width), *(heading.rjust(9) for heading, _ in shown)])]
    for label, values in rows:
        lines.append(" ".join([label.ljust(width), *(f"{values[key]:9.2f}" for _, key in shown)]))
    if result.baseline:
        ratios = (result.metrics[key] / result.baseline[key] if result.baseline[key] else math.nan for _, key in shown)
        lines.append(" ".join(["ratio".ljust(width), *(f"{ratio:9.2f}" for ratio in ratios)]))
    return "\n".join(lines)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
