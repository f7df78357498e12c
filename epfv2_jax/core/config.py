"""Strict conversion between nested mappings and frozen dataclasses.

A recipe is written as a plain nested mapping (or a ``ConfigDict``); everything below the command line sees only
frozen, keyword-only dataclasses that validate themselves. The conversion is strict: an unknown key, a missing key
without a default or a value of the wrong type is a ``ValueError`` that names the key.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from epfv2_jax.core import checks

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Marks a field that takes the configuration of one of several classes, told apart by its key `kind`:

        model: Annotated[Any, OneOf(MODELS, default="epfv2")]

    Each class in the table has an annotated field `config`; that annotation is its configuration class. The table is
    read when a configuration is converted, so an entry added to it is known at once.
    """

    table: Mapping[str, type]
    default: str  # the kind of a mapping that names none

    def config_class(self, kind: str, path: str) -> type:
        """Returns the configuration class of a kind.

        Raises:
          ValueError: there is no such kind; the message names the nearest.
        """
        checks.one_of(self.table, **{f"{path}.kind": kind})
        return typing.get_type_hints(self.table[kind])["config"]

    def convert(self, value: Any, path: str) -> Any:
        """Returns the configuration that a mapping stands for."""
        if dataclasses.is_dataclass(value):
            return value
        checks.instance(path, value, Mapping, "a mapping")
        kind = value.get("kind", self.default)
        return from_mapping(self.config_class(kind, path), {**value, "kind": kind}, path)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "config") -> T:
    """Returns an instance of the dataclass `cls` filled from `mapping`, nested dataclasses from nested mappings.

    Raises:
      ValueError: an unknown key (the message lists the nearest known ones), a missing required key, a value of the
        wrong type, or whatever the dataclass itself refuses in `__post_init__`; it starts with the dotted key.
    """
    checks.instance(path, mapping, Mapping, f"a mapping for {cls.__name__}")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(mapping) - set(fields))
    if unknown:
        key = unknown[0]
        near = difflib.get_close_matches(key, fields, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(sorted(fields))}"
        raise ValueError(f"{path}.{key}: unknown key; {hint}")
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [n for n in required if n not in mapping]
    if missing:
        raise ValueError(f"{path}.{missing[0]}: required key is missing")
    values = {key: _convert(hints[key], value, f"{path}.{key}") for key, value in mapping.items()}
    with checks.naming(path):
        return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """Returns the nested plain mapping (JSON-ready: tuples become lists) of which `from_mapping` makes `config`."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return value

    return plain(config)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        (kinds,) = (extra for extra in args[1:] if isinstance(extra, OneOf))
        return kinds.convert(value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = [a for a in args if a is not type(None)]
        return _convert(hint, value, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, path)
    if origin is tuple:
        checks.instance(path, value, (list, tuple), "a sequence")
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(inner) != len(value):
            raise ValueError(f"{path}: expected {len(inner)} values, got {value!r}")
        return tuple(_convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is typing.Literal:
        checks.one_of(args, **{path: value})
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    checks.instance(path, value, hint, hint.__name__)
    return value
