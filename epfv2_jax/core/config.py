"""Strict conversion between nested mappings and frozen dataclasses.

A recipe is written as a plain nested mapping (or a ``ConfigDict``); everything below the command line sees only
frozen, keyword-only dataclasses that validate themselves. The conversion is strict: an unknown key, a missing key
without a default, a value of the wrong type, a number that is not finite or an integer beyond 64 bits is a
``ValueError`` that names the key. The project's own files and messages are read by the same conversion.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from epfv2_jax.core import checks, files

T = TypeVar("T")

_INT64 = 2**63


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
    checks.instance(path or "content", mapping, Mapping, f"a mapping for {cls.__name__}")
    hints, required = _fields(cls)
    if unknown := set(mapping) - set(hints):
        key = min(unknown, key=str)
        near = difflib.get_close_matches(str(key), hints, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known keys: {', '.join(sorted(hints))}"
        raise ValueError(f"{_at(path, key)}: unknown key; {hint}")
    if missing := [name for name in required if name not in mapping]:
        raise ValueError(f"{_at(path, missing[0])}: required key is missing")
    values = {key: _convert(hints[key], value, _at(path, key)) for key, value in mapping.items()}
    with checks.naming(path) if path else contextlib.nullcontext():
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


def write(path: str | os.PathLike, value: Any) -> None:
    """Writes a dataclass as a JSON file with its checksum, whole or not at all."""
    files.write_json(path, files.signed(to_mapping(value)))


def read(cls: type[T], path: str | os.PathLike, remedy: str) -> T:
    """Returns the instance of `cls` in a JSON file that `write` wrote.

    Raises:
      ValueError: as `from_signed`, or the file is absent or not JSON.
    """
    return from_signed(cls, files.read_json(path, remedy), os.fspath(path), remedy)


def from_signed(cls: type[T], content: Any, where: str, remedy: str) -> T:
    """Returns the instance of `cls` in content that `files.signed` has signed.

    Raises:
      ValueError: as `from_mapping`, or the content is not what was signed; names `where` it is from and ends with
        `remedy`.
    """
    with checks.naming(where, remedy=remedy):
        value = from_mapping(cls, files.without_checksum(content), "")
        files.check_signature(content)
    return value


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the type hint of each field by name, and the names of those without a default."""
    hints, fields = typing.get_type_hints(cls, include_extras=True), dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: hints[f.name] for f in fields}, required


def _at(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return _convert_plain(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        (kinds,) = (extra for extra in args[1:] if isinstance(extra, OneOf))
        return kinds.convert(value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        (hint,) = [a for a in args if a is not type(None)]
        return _convert(hint, value, path)
    if origin is tuple:
        checks.instance(path, value, (list, tuple), "a sequence")
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(inner) != len(value):
            raise ValueError(f"{path}: expected {len(inner)} values, got {checks.short(value)}")
        if all(map(_is_plain, inner, value)):  # the common case: a plan has a million numbers
            return tuple(value)
        return tuple(_convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        checks.instance(path, value, dict, "a mapping")
        return {key: _convert(args[1], v, _at(path, _convert(args[0], key, path))) for key, v in value.items()}
    checks.instance(path, value, tuple({type(a) for a in args}), f"one of {', '.join(map(repr, args))}")
    checks.one_of(args, **{path: value})
    return value


def _is_plain(hint: Any, value: Any) -> bool:
    """Returns whether `_convert` leaves a value as it is."""
    return type(value) is hint and (hint in (bytes, str) or (hint is int and -_INT64 <= value < _INT64))


def _convert_plain(hint: type, value: Any, path: str) -> Any:
    """Converts to a type without parameters."""
    if hint is Any or (dataclasses.is_dataclass(hint) and isinstance(value, hint)):
        return value
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, path)
    if hint in (int, float) and isinstance(value, int) and not isinstance(value, bool):
        if not -_INT64 <= value < _INT64:
            raise ValueError(f"{path}: must fit in 64 bits, got an integer of {value.bit_length()} bits")
        return float(value) if hint is float else value
    checks.instance(path, value, hint, hint.__name__)
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{path}: must be a finite number, got {value}")
    return value
