import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest

from epfv2_jax.core import config, files


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
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows: np.ndarray | None = None


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
        ({"name": "x", "inner": {"rate": float("nan")}}, r"config\.inner\.rate: must be a finite number, got nan"),
        ({"name": "x", "inner": {"rate": float("inf")}}, r"config\.inner\.rate: must be a finite number, got inf"),
        ({"name": "x", "inner": {"rate": True}}, r"config\.inner\.rate: expected float, got True"),
        (
            {"name": "x", "inner": {"rate": 10**400}},
            r"config\.inner\.rate: must fit in 64 bits, got an integer of 1329",
        ),
        ({"name": "x", "steps": 10**5000}, r"config\.steps: must fit in 64 bits, got an integer of 16610 bits"),
        ({"name": "x", "levels": [2**63]}, r"config\.levels\[0\]: must fit in 64 bits"),
        ({"name": "x", "inner": {"kind": ["a"]}}, r"config\.inner\.kind: expected one of 'a', 'b'"),
        ({"name": "x", "counts": {"a": 1.5}}, r"config\.counts\.a: expected int, got 1\.5"),
        ({"name": "x", "counts": [1]}, r"config\.counts: expected a mapping"),
        ({"name": "x", "rows": [1.0]}, r"config\.rows: expected ndarray"),
        ({"name": "x", 3: 1, b"y": 2}, r"config\.3: unknown key"),
        ([("name", "x")], r"config: expected a mapping for Outer"),
    ],
)
def test_errors_name_the_key(mapping, message):
    with pytest.raises(ValueError, match=message):
        config.from_mapping(Outer, mapping)


def test_a_file_comes_back_and_any_change_to_it_is_refused_by_file_and_field(tmp_path):
    path, original = tmp_path / "a.json", Outer(name="x", inner=Inner(rate=2.0), counts={"a": 1}, free={"b": [1.5]})
    config.write(path, original)
    assert config.read(Outer, path, "make it again") == original
    content = json.loads(path.read_text())
    for change, message in (
        ({"steps": 4}, "sha256 of the rest of the content: expected '.*', got '.*'; it was changed or damaged"),
        ({"free": {"b": [1.25]}}, "sha256 of the rest"),
        ({"sha256": 3}, "sha256 of the rest"),
        ({"steps": "4"}, "steps: expected int, got '4'"),
        ({"inner": {"rate": -1}}, "inner: rate must not be negative"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=rf"^{path}: {message}.*; make it again$"):
            config.read(Outer, path, "make it again")
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=rf"^{path}: not valid JSON.*; make it again$"):
        config.read(Outer, path, "make it again")
    for depth in (10, 100, 900, *range(960, 1000, 3), 5000):  # those that are parsed and then meet the stack's end too
        for field in ("steps", "levels", "free", "sha256"):
            path.write_text(json.dumps({"name": "x", field: 0}).replace("0", "[" * depth + "]" * depth))
            with pytest.raises(ValueError, match=rf"^{path}: "):
                config.read(Outer, path, "make it again")
    path.write_text("3")
    with pytest.raises(ValueError, match=rf"^{path}: content: expected a mapping"):
        config.read(Outer, path, "make it again")


def test_a_file_of_a_version_that_wrote_no_checksum_is_read(tmp_path):
    files.write_json(tmp_path / "a.json", config.to_mapping(Outer(name="x")))
    assert config.read(Outer, tmp_path / "a.json", "") == Outer(name="x")
