"""Checks of values that come from outside: flags, recipes, files of others, live streams.

Each raises a ValueError that names the value and says what is allowed. Values are passed by keyword, so that the name
in the message is the name of the field:

    checks.at_least(1, steps=self.steps, accumulation=self.accumulation)
"""

import contextlib
import difflib
import importlib.util
import math
import reprlib
from collections.abc import Collection, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands read their defaults from dataclasses that import this, before anything heavy
    import numpy as np

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 200, 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 20


def at_least(low: float, **values: float) -> None:
    """Raises unless every value is a finite number >= `low`."""
    for name, value in values.items():
        _require(low <= value < math.inf, f"{name}: must be at least {low}, got {value}")


def above(low: float, **values: float) -> None:
    """Raises unless every value is a finite number > `low`."""
    for name, value in values.items():
        _require(low < value < math.inf, f"{name}: must be above {low}, got {value}")


def within(low: float, high: float, **values: float) -> None:
    """Raises unless every value lies in the closed interval [low, high]."""
    for name, value in values.items():
        _require(low <= value <= high, f"{name}: must be in [{low}, {high}], got {value}")


def below_one(**values: float) -> None:
    """Raises unless every value lies in [0, 1)."""
    for name, value in values.items():
        _require(0 <= value < 1, f"{name}: must be in [0, 1), got {value}")


def one_of(allowed: Iterable[Any], **values: Any) -> None:
    """Raises unless every value is one of `allowed`; the message lists them and names the nearest."""
    allowed = tuple(allowed)
    for name, value in values.items():
        if value not in allowed:  # the message takes time
            near = nearest(value, allowed)
            raise ValueError(f"{name}: {short(value)} is not one of {', '.join(map(repr, allowed))}{near}")


def array(name: str, value: Any, shape: tuple[int | None, ...], kind: type | str, meaning: str = "") -> None:
    """Raises unless `value` is an array of this shape (None: any length) and kind of dtype (`np.floating`, "uint8").

    Looks at shape and dtype only, so an array on a device stays there.
    """
    import numpy as np

    told = _then(meaning)
    wanted = kind if isinstance(kind, str) else kind.__name__.rstrip("_")
    expected = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
    _require(
        hasattr(value, "dtype"), f"{name}: expected an array {expected} {wanted}, got {type(value).__name__}{told}"
    )
    fits = len(value.shape) == len(shape) and all(n is None or n == m for n, m in zip(shape, value.shape, strict=True))
    _require(
        fits and np.issubdtype(value.dtype, kind),
        f"{name}: expected {expected} {wanted}, got {tuple(value.shape)} {value.dtype}{told}",
    )


def finite(name: str, value: "np.ndarray", remedy: str) -> None:
    """Raises unless all numbers of a host array are finite; `remedy` says what to do about it."""
    import numpy as np

    _require(bool(np.isfinite(value).all()), f"{name}: holds values that are not finite; {remedy}")


def equal(name: str, value: Any, expected: Any, remedy: str = "") -> None:
    """Raises unless a value (no array) is the one that a manifest, a plan or a model states."""
    if value != expected:
        raise ValueError(f"{name}: expected {short(expected)}, got {short(value)}{_then(remedy)}")


def multiple_of(factor: int, name: str, value: int, remedy: str = "") -> None:
    """Raises unless `value` is a multiple of `factor`."""
    _require(value % factor == 0, f"{name}: must be a multiple of {factor}, got {value}{_then(remedy)}")


def not_empty(name: str, values: Sized, remedy: str) -> None:
    """Raises unless there is at least one value; `name` says of what."""
    _require(len(values) > 0, f"{name}: there are none; {remedy}")


def instance(name: str, value: Any, kind: type | tuple[type, ...], meaning: str) -> None:
    """Raises unless `value` is of this type (True is no int); `meaning` describes the type in words."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}: expected {meaning}, got {short(value)}")


def extra_installed(module: str, extra: str, purpose: str) -> None:
    """Raises unless `module` can be imported; the message names the extra that brings it."""
    found = importlib.util.find_spec(module) is not None
    _require(found, f"{purpose} needs the extra: pip install 'epfv2_jax[{extra}]'")


@contextlib.contextmanager
def naming(
    where: str, errors: type[Exception] | tuple[type[Exception], ...] = ValueError, remedy: str = ""
) -> Iterator[None]:
    """Turns errors of the block into a ValueError that names `where` they arose and ends with the remedy."""
    try:
        yield
    except errors as error:
        raise ValueError(f"{where}: {error}{_then(remedy)}") from error


def nearest(name: Any, known: Collection[Any]) -> str:
    """Returns '; did you mean X?' with the nearest of the known names, or an empty string."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.6) if isinstance(name, str) else []
    return f"; did you mean {' or '.join(near)}?" if near else ""


def short(value: Any) -> str:
    """Returns the `repr` of a value for a message, shortened where it is long or deeply nested."""
    return _SHORT.repr(value)


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
