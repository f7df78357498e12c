"""The parser of the commands, their exit codes, and what they print of errors."""

import argparse
import configparser
import logging
import pathlib
import re

import pytest

from epfv2_jax.core import cli, exits, multihost
from epfv2_jax.training.run import NonFiniteError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def parser(recipe: bool = False) -> cli.Parser:
    flags = cli.parser("sample", "Does something.\n\n  An indented line.")
    flags.add_argument("--checkpoint", help=cli.CHECKPOINT)
    flags.add_argument("--frames", type=int, default=7, help="at most")
    if recipe:
        flags.add_recipe("quickstart")
    return flags


def ends(flags: cli.Parser, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        flags.parse_args(arguments)
    return ended.value.code


def code_of(error: Exception | None, result: int | None = None) -> int:
    def function(args: argparse.Namespace) -> int | None:
        if error is not None:
            raise error
        return result

    return cli.run(parser(), function, [])


def test_help_keeps_lines_and_shows_defaults_that_say_something(capsys):
    assert ends(parser(), "--help") == 0
    printed = capsys.readouterr().out
    assert "\n  An indented line." in printed and "at most (default: 7)" in printed and "None" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--chekpoint", "x"], r"unrecognized arguments: --chekpoint x; did you mean --checkpoint\?"),
        (["--check", "x"], "unrecognized arguments"),  # no abbreviations
        (["--frames", "many"], "argument --frames: invalid int value: 'many'"),
        (["--config.a=1"], "unrecognized arguments: --config.a=1"),  # not a command with a recipe
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    assert ends(parser(), *arguments) == exits.USAGE
    printed = capsys.readouterr().err
    assert re.match(f"error: {message}", printed) and printed.count("\n") == 1
    assert "python -m epfv2_jax.sample --help" in printed


def test_overrides_are_told_from_flags_wherever_they_stand(capsys):
    arguments = ["--config.a.b=c=d", "--frames", "3", "--config", "r.py", "--config.mesh.data", "-1", "--config.e="]
    found = parser(recipe=True).parse_args(arguments)
    assert found.overrides == [("a.b", "c=d"), ("mesh.data", "-1"), ("e", "")]
    assert (found.config, found.frames, found.print_config) == ("r.py", 3, False)
    for missing in (["--config.a"], ["--config.a", "--frames", "3"]):
        assert ends(parser(recipe=True), "--config", "r.py", *missing) == exits.USAGE
        assert "--config.a: give it a value, --config.a=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("message"), exits.ERROR),
        (FileNotFoundError("message"), exits.ERROR),
        (NonFiniteError("message"), exits.ERROR),
        (exits.UsageError("message"), exits.USAGE),
    ],
)
def test_a_foreseen_error_is_one_line_and_a_code(error, code, capsys):
    assert code_of(error) == code
    assert capsys.readouterr().err == "error: message\n"


def test_done_partly_done_and_preempted(capsys):
    assert code_of(None) == exits.DONE
    assert code_of(None, exits.PARTIAL) == exits.PARTIAL
    assert code_of(exits.Preempted("saved")) == exits.PREEMPTED == multihost.EXIT_PREEMPTED
    assert capsys.readouterr() == ("saved\n", "")


def test_a_missing_extra_is_an_error_and_any_other_missing_module_a_bug(capsys):
    assert code_of(ModuleNotFoundError("No module named 'ray'", name="ray.util")) == exits.ERROR
    assert "pip install 'epfv2_jax[ray]'" in capsys.readouterr().err
    for bug in (ModuleNotFoundError("x", name="epfv2_jax.nothing"), ImportError("x"), TypeError("x"), KeyError("x")):
        with pytest.raises(type(bug)):
            code_of(bug)


def test_extras_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = setup["options.extras_require"]
    for library, extra in exits.EXTRAS.items():
        names = {"imageio_ffmpeg": "imageio-ffmpeg", "rerun": "rerun-sdk", "libtpu": "jax[tpu]"}
        assert names.get(library, library) in requirements[extra]


def test_the_absence_of_a_tpu_is_not_reported_and_other_messages_are(caplog):
    code_of(None)
    logger = logging.getLogger("jax._src.xla_bridge")
    with caplog.at_level(logging.INFO, logger=logger.name):
        logger.info("Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so")
        logger.info("something else")
        logger.error("Unable to initialize backend 'cuda': out of memory")
    assert [record.getMessage() for record in caplog.records] == [
        "something else",
        "Unable to initialize backend 'cuda': out of memory",
    ]
