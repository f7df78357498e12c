"""What `--help` says of the fields, read from source code, is what the dataclasses hold."""

import dataclasses
import typing

import pytest

from epfv2_jax.core import fields, overrides
from epfv2_jax.experiment.config import AutoLabelConfig, ExperimentConfig

MODULE = "epfv2_jax.experiment.config"


def dataclasses_of(cls: type, path: str = "", kind: str | None = None):
    """Yields (path, kind, class) of each group of fields."""
    yield path, kind, cls
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        inner = f"{path}.{name}".lstrip(".")
        if (kinds := overrides._one_of(hint)) is not None:
            for inner_kind in kinds.table:
                yield from dataclasses_of(kinds.config_class(inner_kind, inner), inner, inner_kind)
        elif (nested := overrides._class_of(hint, {}, inner)) is not None:
            yield from dataclasses_of(nested, inner)


@pytest.mark.parametrize("cls", [ExperimentConfig, AutoLabelConfig])
def test_every_field_is_listed_and_its_default_given_as_a_flag_is_its_default(cls):
    found = fields.groups(MODULE, cls.__name__)
    by_path = {(group.path, group.kind): group for group in found}
    for path, kind, config in dataclasses_of(cls):
        inside_a_copy = any(g.same_as is not None and path.startswith(f"{g.path}.") for g in found)
        if inside_a_copy:
            continue
        group = by_path.pop((path, kind))
        if group.same_as is not None:
            group = next(g for g in found if g.path == group.same_as)
        hints = typing.get_type_hints(config, include_extras=True)
        plain = {
            f.name: f.default
            for f in dataclasses.fields(config)
            if not overrides._one_of(hints[f.name]) and overrides._class_of(hints[f.name], {}, path) is None
        }
        listed = {
            f.name: dataclasses.MISSING if f.default is None else overrides.parse(hints[f.name], f.default, f.name)
            for f in group.fields
        }
        assert listed == plain, (path, kind)
        assert not [f.name for f in group.fields if not f.comment and f.name != "kind"], (path, kind)
    assert not by_path


def test_a_line_shows_flag_default_choices_and_comment():
    text = fields.describe(MODULE, "ExperimentConfig", 90)
    assert max(map(len, text.splitlines())) <= 90
    lines = set(text.splitlines())
    assert "  --config.optimizer.learning_rate=0.001  peak" in lines
    assert "  --config.loop.log_every=20  a line of metrics.jsonl" in lines
    assert any(line.startswith("  --config.step.steps=N  required; length of the run") for line in lines)
    assert any(line.startswith("  --config.data.source=records  records|synthetic; ") for line in lines)
    assert any(line.startswith("model, with --config.model.kind=lstm: ") for line in lines)
    assert "data.pseudo: Clips without truth that a teacher labels" in text
    assert "absent unless a field of it is set" in text.replace("\n", " ")
    assert "  --config.student.FIELD=VALUE  the fields of teacher" in fields.describe(MODULE, "AutoLabelConfig", 90)
