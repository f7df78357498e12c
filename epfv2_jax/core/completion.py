"""Shell completion of all commands, their flags and the fields of recipes, written by shtab."""

import argparse
from collections.abc import Mapping

from epfv2_jax.core import checks
from epfv2_jax.core.cli import Parser


def script(shell: str, parsers: Mapping[str, Parser], helps: Mapping[str, str]) -> str:
    """Returns a script that a shell reads to complete `epfv2 COMMAND ...`.

    Args:
      shell: bash, zsh, fish or another that shtab knows.
      parsers: of the commands, by name.
      helps: what each command does.

    Raises:
      ValueError: shtab does not know the shell.
    """
    import shtab

    checks.one_of(shtab.SUPPORTED_SHELLS, shell=shell)
    top = Parser(prog="epfv2")
    commands = top.add_subparsers()
    for name, parser in parsers.items():
        parser.add_fields()
        _complete_files(parser, shtab.FILE)
        commands.add_parser(name, parents=[parser], add_help=False, help=helps[name])
    return shtab.complete(top, shell)


def _complete_files(parser: argparse.ArgumentParser, files: Mapping[str, str]) -> None:
    """Lets names of files complete every value that is text: most of those are paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _complete_files(inner, files)
        elif action.type is None and action.choices is None and action.nargs != 0:
            action.complete = files
