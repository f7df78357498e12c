"""Recipes: Python files whose `get_config(variant)` returns a ConfigDict, converted once to a frozen configuration."""

import contextlib
import inspect
import json
import pathlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict

from epfv2_jax.core import checks, exits, overrides
from epfv2_jax.core import config as config_lib

T = TypeVar("T")


def from_arguments(cls: type[T], args: Any) -> T:
    """Returns the configuration that parsed flags name: those of `core.cli.Parser.add_recipe`.

    Raises:
      UsageError: as `load`.
    """
    with exits.usage():
        return load(cls, args.config, args.overrides)


def load(cls: type[T], recipe: str, changes: Sequence[tuple[str, str]] = ()) -> T:
    """Returns the configuration of a recipe, an instance of the dataclass `cls`.

    Args:
      cls: of the configuration.
      recipe: PATH.py or PATH.py:VARIANT.
      changes: dotted keys and the text of their values, as in `core.overrides`.

    Raises:
      ValueError: no such file or variant, an unknown key, a value of the wrong type or an impossible one.
    """
    return config_lib.from_mapping(cls, overrides.apply_overrides(cls, read(recipe), changes))


def read(recipe: str) -> dict[str, Any]:
    """Returns what a recipe sets: a nested plain mapping.

    Raises:
      ValueError: there is no such file, it has no `get_config`, or no such variant.
    """
    name, _, variant = recipe.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        known = _recipes(path.parent) or _recipes(pathlib.Path("configs"))
        near = checks.nearest(name, known) or (f"; there are {', '.join(known)}" if known else "")
        raise ValueError(f"--config {name}: no such file{near}")
    with _importing_from(path.resolve().parent):
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise ValueError(f"--config {name}: it is no recipe, for it has no function get_config")
        if variant and not inspect.signature(get_config).parameters:
            raise ValueError(f"--config {recipe}: {name} has no variants; leave out :{variant}")
        with checks.naming(f"--config {recipe}"):
            found = get_config(variant) if variant else get_config()
    return found.to_dict() if isinstance(found, ConfigDict) else dict(found)


def describe(config: Any) -> str:
    """Returns the whole configuration as JSON, defaults included."""
    return json.dumps(config_lib.to_mapping(config), indent=2)


def _recipes(folder: pathlib.Path) -> list[str]:
    """The recipes in a folder."""
    return [str(path) for path in sorted(folder.glob("*.py")) if "def get_config(" in path.read_text()]


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path) -> Iterator[None]:
    """Lets a recipe import the modules beside it, and forgets them afterwards: another folder may have its own."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and pathlib.Path(file).parent == folder:
                del sys.modules[name]
