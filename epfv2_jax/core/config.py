"""Strict conversion between nested mappings and frozen dataclasses.

A recipe is written as a plain nested mapping (or a ``ConfigDict``); everything below the command line sees only
frozen, keyword-only dataclasses that validate themselves. The conversion is strict: an unknown key, a missing key
without a default or a value of the wrong type is a ``ValueError`` that names the key.
"""

import collections.abc
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "config") -> T:
    """Returns an instance of the dataclass `cls` filled from `mapping`, nested dataclasses from nested mappings.

    Raises:
      ValueError: an unknown key (the message lists the nearest known ones), a missing required key, a value of the
        wrong type, or whatever the dataclass itself refuses in `__post_init__`; it starts with the dotted key.
    """
    if not isinstance(mapping, collections.abc.Mapping):
        raise ValueError(f"{path}: expected a mapping for {cls.__name__}, got {mapping!r}")
    hints = typing.get_type_hints(cls)
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
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = [a for a in args if a is not type(None)]
        return _convert(hint, value, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path}: expected a sequence, got {value!r}")
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(inner) != len(value):
            raise ValueError(f"{path}: expected {len(inner)} values, got {value!r}")
        return tuple(_convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{path}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value
