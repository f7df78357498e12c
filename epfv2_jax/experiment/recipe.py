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

import epfv2_jax
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
      recipe: as in `read`.
      changes: dotted keys and the text of their values, as in `core.overrides`.

    Raises:
      ValueError: no such file or variant, an unknown key, a value of the wrong type or an impossible one.
    """
    return config_lib.from_mapping(cls, overrides.apply_overrides(cls, read(recipe), changes))


def read(recipe: str) -> dict[str, Any]:
    """Returns what a recipe sets: a nested plain mapping.

    Args:
      recipe: PATH.py or the NAME of a recipe in configs/ of the working directory, else of one that comes with the
        package; then, where it has variants, :VARIANT.

    Raises:
      ValueError: there is no such file, it has no `get_config`, or no such variant.
    """
    name, _, variant = recipe.partition(":")
    path = _find(name)
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


def shipped() -> pathlib.Path:
    """Returns the folder of the recipes that come with the package: inside it where it is installed, else configs/."""
    package = pathlib.Path(epfv2_jax.__file__).resolve().parent
    inside = package / "recipes"  # setup.py puts them there
    return inside if inside.is_dir() else package.parent / "configs"


def _find(name: str) -> pathlib.Path:
    """Returns the file of a recipe that is given by its path or by its name."""
    path, folders = pathlib.Path(name), (pathlib.Path("configs"), shipped())
    by_name = [folder / f"{name}.py" for folder in folders] if path.stem == name else []
    for candidate in (path, *by_name):
        if candidate.is_file():
            return candidate
    known = [] if by_name else [str(found) for found in _recipes(path.parent) or _recipes(folders[0])]
    near = checks.nearest(name, known)
    if not known:
        known = sorted({found.stem for folder in folders for found in _recipes(folder)})
        near = checks.nearest(path.stem, known)
    raise ValueError(f"--config {name}: no such file or recipe{near or '; there are ' + ', '.join(known)}")


def _recipes(folder: pathlib.Path) -> list[pathlib.Path]:
    """The recipes in a folder."""
    return [path for path in sorted(folder.glob("*.py")) if "def get_config(" in path.read_text()]


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
