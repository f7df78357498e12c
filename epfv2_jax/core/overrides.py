"""Sets fields of a nested configuration from text: `--config.optimizer.learning_rate=5e-4`.

Works on the plain mapping of a recipe and on the type hints of the configuration's dataclasses, so every field can be
set, whether the recipe sets it or not. `config.from_mapping` then converts the result.
"""

import collections.abc
import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from epfv2_jax.core import checks
from epfv2_jax.core.config import OneOf

_UNIONS = (types.UnionType, typing.Union)


def apply_overrides(
    cls: type, mapping: Mapping[str, Any], overrides: Sequence[tuple[str, str]], path: str = "config"
) -> dict[str, Any]:
    """Returns a copy of `mapping` with the overrides set.

    A `kind` is set before other fields. A new kind keeps those of the mapping's fields that it has too.

    Args:
      cls: the dataclass that the mapping is for.
      mapping: nested plain mapping; it may leave out what has a default.
      overrides: pairs of a dotted key and the text of its value; of two with the same key the last counts.
      path: what the keys begin with in error messages.

    Raises:
      ValueError: there is no such field (the message names the nearest), or the text is no value of its type.
    """
    result = copy.deepcopy(dict(mapping))
    for key, text in sorted(overrides, key=_rank):
        fields = dotted_fields(cls, result, path)
        if key not in fields:
            raise ValueError(f"{path}.{key}: unknown key; {_advice(key, fields, path)}")
        value = parse(fields[key], text, f"{path}.{key}")
        *parents, last = key.split(".")
        holder = result
        for parent in parents:
            inner = {} if holder.get(parent) is None else holder[parent]
            checks.instance(f"{path}.{parent}", inner, Mapping, "a group of fields")
            holder[parent] = dict(inner)
            holder = holder[parent]
        kinds = _one_of(fields[".".join(parents)]) if parents and last == "kind" else None
        if kinds is not None and holder.get("kind", kinds.default) != value:
            known = {
                field.name for field in dataclasses.fields(kinds.config_class(value, f"{path}.{'.'.join(parents)}"))
            }
            for name in set(holder) - known:
                del holder[name]
        holder[last] = value
    return result


def dotted_fields(cls: type, mapping: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
    """Returns the type hint of every field by dotted key, groups of fields too; kinds are those of the mapping."""
    hints, found = typing.get_type_hints(cls, include_extras=True), {}
    for field in dataclasses.fields(cls):
        found[field.name] = hint = hints[field.name]
        value = mapping.get(field.name)
        value = value if isinstance(value, collections.abc.Mapping) else {}
        inner = _class_of(hint, value, f"{path}.{field.name}")
        if inner is not None:
            nested = dotted_fields(inner, value, f"{path}.{field.name}")
            found.update({f"{field.name}.{name}": nested_hint for name, nested_hint in nested.items()})
    return found


def parse(hint: Any, text: str, path: str) -> Any:
    """Returns the value that `text` stands for in a field of this type hint.

    Tuples are written 1,2 or (1,2), the absence of an optional value None, truth true or false.

    Raises:
      ValueError: it stands for none; the message names `path`, the text and what is expected.
    """
    bare, args = _without_none(hint), typing.get_args(hint)
    if text == "None" and type(None) in args:
        return None
    if _one_of(bare) or dataclasses.is_dataclass(bare):
        raise ValueError(f"{path}: is a group of fields, got {text!r}; set its fields, {path}.FIELD=VALUE")
    origin, args = typing.get_origin(bare), typing.get_args(bare)
    if origin is tuple:
        texts = [part.strip().strip("'\"") for part in text.strip("()[] ").split(",") if part.strip()]
        inner = [args[0]] * len(texts) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(texts):
            raise ValueError(f"{path}: expected {len(inner)} values such as 1,2, got {text!r}")
        return tuple(parse(h, part, f"{path}[{i}]") for i, (h, part) in enumerate(zip(inner, texts, strict=True)))
    if origin is typing.Literal:
        values = {str(value): value for value in args}
        checks.one_of(values, **{path: text})
        return values[text]
    if bare is str:
        return text
    try:
        return {"true": True, "false": False}[text.lower()] if bare is bool else bare(text)
    except (KeyError, ValueError, TypeError):
        meaning = "true or false" if bare is bool else getattr(bare, "__name__", str(bare))
        optional = "" if bare is hint else " or None"
        raise ValueError(f"{path}: expected {meaning}{optional}, got {text!r}") from None


def _rank(override: tuple[str, str]) -> int:
    """Kinds first, outer before inner."""
    depth, _, last = override[0].rpartition(".")
    return depth.count(".") if last == "kind" else 1000


def _advice(key: str, fields: Mapping[str, Any], path: str) -> str:
    """Names the fields that an unknown key may stand for: of this name elsewhere, else of nearly this name."""
    parent, _, last = key.rpartition(".")
    parent = parent if parent in fields else ""
    beside = [name for name in fields if name.rpartition(".")[0] == parent]
    near = [name for name in fields if name.rpartition(".")[2] == last]
    if not near and parent:
        names = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in beside], n=2, cutoff=0.6)
        near = [f"{parent}.{name}" for name in names]
    elif not near:
        near = difflib.get_close_matches(key, fields, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(f'{path}.{name}' for name in near[:3])}?"
    return f"known keys: {', '.join(f'{path}.{name}' for name in beside)}"


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in _UNIONS:
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _one_of(hint: Any) -> OneOf | None:
    hint = _without_none(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return next((extra for extra in typing.get_args(hint)[1:] if isinstance(extra, OneOf)), None)
    return None


def _class_of(hint: Any, value: Mapping[str, Any], path: str) -> type | None:
    """The dataclass of a field's fields; None for a plain value."""
    hint, kinds = _without_none(hint), _one_of(hint)
    if kinds is not None:
        return kinds.config_class(value.get("kind", kinds.default), path)
    return hint if dataclasses.is_dataclass(hint) else None
