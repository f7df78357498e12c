"""What all commands share: the parser, and a call that ends with the exit code of `core.exits`.

A command has `parser()` with its flags and `run(args)`, which imports JAX and the rooms: until the flags are parsed
nothing heavy is imported, so that `--help` answers at once.
"""

import argparse
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from epfv2_jax.core import checks, exits, fields

#: Help of `--checkpoint`; `checkpoints.load` takes each of them.
CHECKPOINT = "directory of a run, or its folder checkpoints, or a packaged model: a folder or hf://ORG/NAME[@REVISION]"

_RECIPE_HELP = "a recipe by name or file; the variant is the argument of its get_config"
_OVERRIDE_HELP = """Every field of the configuration is a flag, whether the recipe sets it or not:
  --config.optimizer.learning_rate=5e-4   --config.data.pseudo=None   --config.dataset.conversion.levels=0,1
--print_config shows all fields with their values, those that the recipe sets included. Their defaults:"""
_CONFIG_MODULE = "epfv2_jax.experiment.config"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description and shows defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, argparse.SUPPRESS, ()) or "default" in (action.help or "")
        return action.help if silent else f"{action.help or ''} (default: %(default)s)".lstrip()


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and name the nearest flag."""

    def __init__(self, **options):
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **options})
        self._config_class: str | None = None  # of what a recipe fills

    def add_recipe(self, example: str, config_class: str = "ExperimentConfig") -> None:
        """Adds `--config`, `--print_config` and one flag for each field: the (path, text) pairs `args.overrides`.

        Args:
          example: a recipe, for the help.
          config_class: what it fills, a name in `experiment.config`.
        """
        self._config_class, self.epilog = config_class, _OVERRIDE_HELP
        self.add_argument(
            "--config", required=True, metavar="RECIPE[:VARIANT]", help=f"{_RECIPE_HELP}; for example {example}"
        )
        self.add_argument("--print_config", action="store_true", help="print the whole configuration as JSON and exit")

    def add_fields(self) -> None:
        """Adds a flag for each field of the configuration, once: for completion, since parsing needs none of them."""
        for group in fields.groups(_CONFIG_MODULE, self._config_class) if self._config_class else ():
            for field in group.fields:
                flag = f"--config.{group.name(field)}"
                if flag not in self._option_string_actions:
                    self.add_argument(flag, choices=field.choices, help=field.comment.replace("%", "%%"))

    def format_help(self) -> str:
        """Returns what `--help` prints: the flags, then the fields of the configuration."""
        if self._config_class is None:
            return super().format_help()
        width = shutil.get_terminal_size().columns - 2
        return f"{super().format_help()}\n{fields.describe(_CONFIG_MODULE, self._config_class, width)}"

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Returns the parsed flags; ends the program with code 2 where they are wrong."""
        given = list(sys.argv[1:] if args is None else args)
        overrides = self._pop_overrides(given) if self._config_class else []
        found, unknown = super().parse_known_args(given, namespace)
        if unknown:
            near = checks.nearest(unknown[0].partition("=")[0], self._flags())
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        if self._config_class:
            found.overrides = overrides
        return found

    def error(self, message: str) -> None:
        """Ends the program with one line and code 2."""
        self.exit(exits.USAGE, f"error: {message} (see {self.prog} --help)\n")

    def _pop_overrides(self, given: list[str]) -> list[tuple[str, str]]:
        """Takes `--config.a.b=value` and `--config.a.b value` out of `given`; returns them as ("a.b", "value")."""
        overrides, rest = [], iter(given[:])
        given.clear()
        for text in rest:
            if not text.startswith("--config."):
                given.append(text)
                continue
            name, equals, value = text.removeprefix("--config.").partition("=")
            if not equals:
                value = next(rest, None)
                if value is None or value.startswith("--"):
                    self.error(f"--config.{name}: give it a value, --config.{name}=VALUE")
            overrides.append((name, value))
        return overrides

    def _flags(self) -> list[str]:
        actions = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                actions += [inner for sub in action.choices.values() for inner in sub._actions]
        return [flag for action in actions for flag in action.option_strings]


def parser(name: str, doc: str) -> Parser:
    """Returns the parser of the command epfv2_jax.`name`, whose module docstring is its description."""
    start = "epfv2 " if pathlib.PurePath(sys.argv[0]).name == "epfv2" else "python -m epfv2_jax."
    return Parser(prog=f"{start}{name}", description=doc)


def run(parser: Parser, function: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of `function`, called with the parsed flags; None counts as done.

    Args:
      parser: of the command.
      function: of the command; its foreseen exceptions become one line and an exit code (`exits.one_line_errors`).
      argv: the flags; None: those of the process.
    """
    args = parser.parse_args(argv)
    _hide_absent_backends()
    try:
        with exits.one_line_errors():
            return function(args) or exits.DONE
    except SystemExit as end:
        return end.code


def _hide_absent_backends() -> None:
    """Keeps JAX from logging, before anything else, that this machine has no TPU. Real errors stay visible."""
    logging.getLogger("jax._src.xla_bridge").addFilter(
        lambda record: (
            not record.getMessage().startswith("Unable to initialize backend") or record.levelno >= logging.WARNING
        )
    )
