import dataclasses
from typing import Literal

import pytest

from epfv2_jax.core import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, got {self.rate}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    steps: int = 3
    flag: bool = False
    size: tuple[int, int] = (1, 2)
    levels: tuple[int, ...] = ()
    inner: Inner = Inner()
    other: Inner | None = None


def test_round_trip():
    original = Outer(name="x", size=(3, 4), levels=(0, 1), inner=Inner(rate=2.0), other=Inner(kind="b"))
    assert config.from_mapping(Outer, config.to_mapping(original)) == original


def test_int_becomes_float_and_list_becomes_tuple():
    built = config.from_mapping(Outer, {"name": "x", "size": [5, 6], "inner": {"rate": 1}})
    assert built.size == (5, 6) and isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "x", "inner": {"rat": 1.0}}, r"config\.inner\.rat: unknown key; did you mean rate"),
        ({"name": "x", "zzz": 1}, r"config\.zzz: unknown key; known keys: .*steps"),
        ({}, r"config\.name: required key is missing"),
        ({"name": "x", "steps": "3"}, r"config\.steps: expected int, got '3'"),
        ({"name": "x", "steps": True}, r"config\.steps: expected int, got True"),
        ({"name": "x", "flag": 1}, r"config\.flag: expected bool"),
        ({"name": "x", "size": [1, 2, 3]}, r"config\.size: expected 2 values"),
        ({"name": "x", "inner": 3}, r"config\.inner: expected a mapping"),
        ({"name": "x", "inner": {"kind": "c"}}, r"config\.inner\.kind: 'c' is not one of 'a', 'b'"),
        ({"name": "x", "inner": {"rate": -1.0}}, r"config\.inner: rate must not be negative, got -1.0"),
        ({"name": None}, r"config\.name: expected str, got None"),
    ],
)
def test_errors_name_the_key(mapping, message):
    with pytest.raises(ValueError, match=message):
        config.from_mapping(Outer, mapping)
