"""Fields of a configuration from text: values by type, nested and absent groups, kinds, errors of one line."""

import dataclasses
import typing
from typing import Annotated, Any, Literal

import pytest

from epfv2_jax.core import config, overrides


@dataclasses.dataclass(frozen=True, kw_only=True)
class LstmConfig:
    kind: str = "lstm"
    width: int = 8
    layers: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    kind: str = "transformer"
    width: int = 16
    window: int = 4


@dataclasses.dataclass(frozen=True)
class Lstm:
    config: LstmConfig


@dataclasses.dataclass(frozen=True)
class Transformer:
    config: TransformerConfig


KINDS = {"transformer": Transformer, "lstm": Lstm}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pseudo:
    directory: str
    batch_size: int = 8
    max_sigma_m: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    name: str = "x"
    tensorboard: bool = False
    rate: float = 0.1
    levels: tuple[int, ...] | None = None
    size: tuple[int, int] = (1, 2)
    files: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    pseudo: Pseudo | None = None
    model: Annotated[Any, config.OneOf(KINDS, default="transformer")] = TransformerConfig()


def applied(mapping: dict, *changes: str) -> Config:
    pairs = [tuple(change.split("=", 1)) for change in changes]
    return config.from_mapping(Config, overrides.apply_overrides(Config, mapping, pairs))


@pytest.mark.parametrize(
    "change, value",
    [
        ("name=None", "None"),  # a string that is not optional
        ("tensorboard=True", True),
        ("tensorboard=false", False),
        ("rate=5e-4", 5e-4),
        ("rate=1", 1.0),
        ("levels=0,1", (0, 1)),
        ("levels=(3,)", (3,)),
        ("levels=None", None),
        ("levels=()", ()),
        ("size=[3, 4]", (3, 4)),
        ("files=a.bvh, 'b.bvh'", ("a.bvh", "b.bvh")),
        ("dtype=bfloat16", "bfloat16"),
    ],
)
def test_values_are_read_by_the_type_of_the_field(change, value):
    for start in ({}, {"levels": (7,), "tensorboard": True}):
        found = getattr(applied(start, change), change.partition("=")[0])
        assert found == value and type(found) is type(value)


def test_a_group_that_the_mapping_sets_to_something_else_is_refused_by_name():
    for wrong in ("abc", 3, [1]):
        with pytest.raises(ValueError, match=r"config\.pseudo: expected a group of fields"):
            applied({"pseudo": wrong}, "pseudo.directory=d")


def test_fields_that_the_mapping_leaves_out_can_be_set_and_the_mapping_stays_as_it_was():
    mapping = {"model": {"width": 32}}
    found = applied(mapping, "pseudo.directory=d", "pseudo.max_sigma_m=0.05", "model.window=9")
    assert found.pseudo == Pseudo(directory="d", max_sigma_m=0.05)
    assert found.model == TransformerConfig(width=32, window=9)
    assert mapping == {"model": {"width": 32}}
    assert applied({"pseudo": {"directory": "d"}}, "pseudo=None").pseudo is None
    assert applied({}, "rate=1", "rate=2").rate == 2, "the last one counts"


def test_a_kind_changes_which_fields_exist_wherever_it_stands():
    for order in (("model.kind=lstm", "model.layers=3"), ("model.layers=3", "model.kind=lstm")):
        found = applied({"model": {"width": 32, "window": 9}}, *order)
        assert found.model == LstmConfig(width=32, layers=3)  # `window`, which it does not have, is dropped
    with pytest.raises(ValueError, match=r"config\.model\.window: unknown key"):
        applied({}, "model.kind=lstm", "model.window=3")


@pytest.mark.parametrize(
    "change, message",
    [
        ("rat=1", r"config\.rat: unknown key; did you mean config\.rate\?"),
        ("max_sigma_m=1", r"config\.max_sigma_m: unknown key; did you mean config\.pseudo\.max_sigma_m\?"),
        ("modell.width=1", r"config\.modell\.width: .*did you mean config\.model\.width"),
        ("model.zzz=1", r"config\.model\.zzz: unknown key; known keys: config\.model\.kind, .*width"),
        ("rate.x=1", r"config\.rate\.x: unknown key"),
        ("model.kind=lsm", r"config\.model\.kind: 'lsm' is not one of 'transformer', 'lstm'; did you mean lstm\?"),
        ("model=lstm", r"config\.model: is a group of fields, got 'lstm'; set its fields, config\.model\.FIELD=VALUE"),
        ("pseudo=1", r"config\.pseudo: is a group of fields"),
        ("rate=nan", r"config\.rate: must be a finite number, got nan"),
        ("rate=1e999", r"config\.rate: must be a finite number, got inf"),
        ("model.width=" + 30 * "9", r"config\.model\.width: must fit in 64 bits"),
        ("rate=fast", r"config\.rate: expected float, got 'fast'"),
        ("model.width=1.5", r"config\.model\.width: expected int, got '1\.5'"),
        ("tensorboard=1", r"config\.tensorboard: expected true or false, got '1'"),
        ("pseudo.max_sigma_m=no", r"config\.pseudo\.max_sigma_m: expected float or None, got 'no'"),
        ("size=1,2,3", r"config\.size: expected 2 values such as 1,2, got '1,2,3'"),
        ("levels=0,one", r"config\.levels\[1\]: expected int, got 'one'"),
        ("dtype=float16", r"config\.dtype: 'float16' is not one of 'float32', 'bfloat16'; did you mean"),
        ("pseudo.batch_size=3", r"config\.pseudo\.directory: required key is missing"),
    ],
)
def test_errors_are_one_line_that_names_field_value_and_remedy(change, message):
    with pytest.raises(ValueError, match=message) as raised:
        applied({}, change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        {"pseudo": {"directory": "p", "labels": "l"}},
        {"warmup": {"steps": 2, "clip_frames": 1, "batch_size": 4}},
    ],
    ids=lambda data: next(iter(data)),
)
def test_every_field_of_the_experiment_can_be_set_to_its_own_value(data):
    """Whatever a field holds, its text gives it back."""
    from epfv2_jax.experiment.config import ExperimentConfig

    whole = {"output_dir": "o", "dataset": {"directory": "d"}, "data": data}
    whole["step"], whole["dataset"]["synthetic"] = {"steps": 3}, {}
    expected = config.from_mapping(ExperimentConfig, whole)
    fields = overrides.dotted_fields(ExperimentConfig, whole)
    assert {"model.kind", "objective.kind", "data.pseudo.max_sigma_m", "dataset.conversion.levels"} <= set(fields)
    changes = []
    for name, hint in fields.items():
        value = expected
        *groups, field = name.split(".")
        for group in groups:
            value = value and getattr(value, group)
        if value is None:
            continue  # a field of a group that is absent
        value = getattr(value, field)
        if not dataclasses.is_dataclass(value):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            changes.append((name, text))
            assert overrides.parse(hint, text, name) == value, (name, typing.get_type_hints)
    found = overrides.apply_overrides(ExperimentConfig, {}, changes)
    assert config.from_mapping(ExperimentConfig, found) == expected
