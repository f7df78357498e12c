"""Damaged versions of a file's bytes, the same for a seed: what disks, copies and editors do to files."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMBERS = (b"nan", b"Infinity", b"1e308", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 5000, b"0.5", b"true")
_VALUES = (None, True, -1, 0.5, 10**30, 1e308, "", "text", [], {}, [[]], {"a": 1}, [1, "a", None])


def mutations(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yields `count` damaged versions of `data`: bits, spans and lines of any file, numbers of text, values of JSON."""
    rng = np.random.default_rng(seed)
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    kinds = [_flip, _truncate, _delete, _double, _overwrite, _lines, _repeat]
    if _NUMBER.search(data) and not set(data[:1000]) - set(range(9, 127)):
        kinds += [_number] * 3
    if isinstance(document, dict | list) and document:
        kinds += [lambda _, rng: _value(json.loads(data), rng)] * 6
    for i in range(count):
        kind: Callable[[bytes, np.random.Generator], bytes] = kinds[i % len(kinds)]
        yield kind(data, rng)


def _span(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, len(data) + 1))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 10)))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for i in rng.integers(0, 8 * len(data), rng.integers(1, 4)) if data else ():
        out[i // 8] ^= 1 << (i % 8)
    return bytes(out)


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _span(data, rng)[0]]


def _delete(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _double(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:]


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + (b"\x00" * (stop - start) if rng.random() < 0.5 else rng.bytes(stop - start)) + data[stop:]


def _lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Removes, doubles or moves a line."""
    lines = data.splitlines(keepends=True) or [b""]
    i, j = rng.integers(0, len(lines), 2)
    if (action := rng.integers(3)) == 0:
        del lines[i]
    elif action == 1:
        lines.insert(i, lines[i])
    else:
        lines.insert(j, lines.pop(i))
    return b"".join(lines)


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeats a stretch of a few lines very often, so that what it opens is opened very deeply."""
    lines = data.split(b"\n")
    start = int(len(lines) ** rng.random()) - 1
    stop = start + int(rng.integers(1, 8))
    return b"\n".join([*lines[:start], *lines[start:stop] * int(rng.choice([10, 100, 1000])), *lines[stop:]])


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    found = list(_NUMBER.finditer(data))
    place = found[rng.integers(len(found))]
    return data[: place.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + data[place.end() :]


def _value(document: Any, rng: np.random.Generator) -> bytes:
    """Removes a key, adds one, deepens a value or gives it another type."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(document)
    holder, key = places[rng.integers(len(places))]
    action = rng.integers(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder["unknown"] = 1
    elif action == 2:
        depth = int(rng.choice([1, 50, 20_000]))
        text = json.dumps(document).encode()
        inner = json.dumps(holder[key]).encode()
        return text.replace(inner, b"[" * depth + inner + b"]" * depth, 1)
    else:
        holder[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(document).encode()
