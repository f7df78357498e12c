"""A comparison of models as JSON and as tables."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from epfv2_jax.evaluation import tables
from epfv2_jax.evaluation.compare import Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one streamed frame of a model costs, batch 1."""

    parameters: int
    flops: float  # of matrix products and convolutions
    latency_ms: tuple[float, float, float]  # quartiles; the second is the median


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """A model's row in the tables."""

    name: str
    run: str  # the directory
    note: str  # which checkpoint it is, and whether it sees no images
    scores: Scores
    cost: Cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several models on the same frames of one split."""

    data: str  # the directory of the records
    split: str
    device: str  # that the latencies were measured on
    joints: tuple[str, ...]  # that all models know, in the order of the records
    joints_left_out: tuple[str, ...]  # the others of the records
    models: tuple[ComparedModel, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report: text for people."""

    heading: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns all numbers of a comparison; not JSON's where they are not finite (see `tables.write_strict_json`)."""
    about = {field: getattr(comparison, field) for field in ("data", "split", "device", "joints", "joints_left_out")}
    models = [
        {
            **{field: getattr(model, field) for field in ("name", "run", "note")},
            **dataclasses.asdict(model.cost),
            "metrics": model.scores.result.metrics,
            "in_view": model.scores.in_view,
            "per_joint_cm": model.scores.result.per_joint_cm,
        }
        for model in comparison.models
    ]
    return {**about, "models": models}


def as_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Returns the tables: errors and cost, joints in and out of view, and each joint."""
    return _main_table(comparison), _view_table(comparison), _joint_table(comparison)


def as_markdown(comparison: Comparison) -> str:
    """Returns the tables as Markdown whose columns are aligned, so that it reads as plain text too."""
    sections = [f"# {title(comparison)}"]
    for table in as_tables(comparison):
        lines = [table.head, *table.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
        rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
        cells = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
        text = "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))
        sections += [f"## {table.heading}", text, *([table.note] if table.note else [])]
    return "\n\n".join(sections) + "\n"


def title(comparison: Comparison) -> str:
    """Returns what is compared, in words."""
    return f"{len(comparison.models)} models on the {comparison.split} split of {comparison.data}"


def _main_table(comparison: Comparison) -> Table:
    columns = tables.columns(comparison.models[0].scores.result)
    rows = [
        (
            model.name,
            *(tables.number(model.scores.result.metrics[key]) for _, key in columns),
            tables.number(model.cost.parameters / 1e6),
            tables.number(model.cost.flops / 1e6, 1),
            "{1} ({0} to {2})".format(*(tables.number(ms) for ms in model.cost.latency_ms)),
        )
        for model in comparison.models
    ]
    frames = f"{comparison.models[0].scores.result.metrics['frames']:,.0f} frames"
    left_out = comparison.joints_left_out
    over = f"over the {len(comparison.joints)} joints that all models know" if left_out else "over all joints"
    return Table(
        heading="Errors and cost",
        head=("cm", *(heading for heading, _ in columns), "million parameters", "MFLOPs a frame", "ms a frame"),
        rows=tuple(rows),
        note=(
            f"{frames}, {over}{f' (left out: {_listed(left_out)})' if left_out else ''}. MPJVE in cm per 1/30 s, then "
            f"in m/s. One streamed frame at batch 1 on {comparison.device}: median and quartiles, the models called in "
            "turn; FLOPs of matrix products and convolutions, two per multiply-add. "
            + " ".join(f"{model.name}: {model.note}." for model in comparison.models)
        ),
    )


def _view_table(comparison: Comparison) -> Table:
    groups = comparison.models[0].scores.in_view
    places = (("in_view_cm", "in view"), ("out_of_view_cm", "out of view"))
    rows = [
        (model.name, *(tables.number(model.scores.in_view[group][key]) for group in groups for key, _ in places))
        for model in comparison.models
    ]
    shares = ", ".join(f"{group} {tables.number(100 * found['in_view_share'], 0)} %" for group, found in groups.items())
    return Table(
        heading="In view and out of view",
        head=("cm", *(f"{group} {place}" for group in groups for _, place in places)),
        rows=tuple(rows),
        note=(
            "In view: at least one valid camera's lens sees the joint's true position inside its image; what hides it "
            f"there is not considered. Share in view: {shares}."
        ),
    )


def _joint_table(comparison: Comparison) -> Table:
    errors_cm = [model.scores.result.per_joint_cm for model in comparison.models]
    return Table(
        heading="Each joint",
        head=("cm", *(model.name for model in comparison.models)),
        rows=tuple((joint, *(tables.number(found[joint]) for found in errors_cm)) for joint in comparison.joints),
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
