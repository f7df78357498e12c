"""All commands are listed and explain themselves at once, and the texts name only commands and flags that exist."""

import argparse
import importlib
import pathlib
import re
import resource
import shlex
import subprocess
import sys

import pytest

import epfv2_jax
from epfv2_jax import __main__ as listing
from epfv2_jax.core import exits, overrides
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import AutoLabelConfig, ExperimentConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = sorted(listing.COMMANDS)
HEAVY = ("jax", "numpy", "flax", "scipy", "orbax", "matplotlib", "grain", "absl", "ml_collections")
# Its commands and flags belong to the models that the page adds; tests/test_extending.py runs them.
NOT_SHIPPED = {"docs/extending.md"}
TEXTS = [
    path
    for pattern in ("README.md", "docs/**/*.md", "examples/*/README.md", "launch/*", "configs/*.py", "epfv2_jax/*.py")
    for path in sorted(ROOT.glob(pattern))
    if str(path.relative_to(ROOT)) not in NOT_SHIPPED
]


def module(name: str):
    return importlib.import_module(f"epfv2_jax.{name}")


def test_all_commands_are_listed_in_the_words_of_their_modules():
    modules = {path.stem for path in (ROOT / "epfv2_jax").glob("*.py") if not path.stem.startswith("__")}
    assert set(listing.COMMANDS) == modules
    for name, what in listing.COMMANDS.items():
        assert module(name).__doc__.startswith(f"{what}: "), name
        assert f"python -m epfv2_jax.{name}" in module(name).__doc__, name


def processor_s() -> float:
    """Returns the time that child processes have computed: other load on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_comes_at_once_and_imports_nothing_heavy(name):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('epfv2_jax{name and f'.{name}'}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    )
    start = processor_s()
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    seconds = processor_s() - start
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "heavy: []"
    assert f"epfv2_jax.{name or 'train'}" in found.stdout
    assert seconds < 1.5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained_and_so_is_every_field_of_a_recipe(name):
    parsers = [module(name).parser()]
    for parser in parsers:
        text = parser.format_help()
        for action in parser._actions:
            assert action.help, action.dest
            parsers += action.choices.values() if isinstance(action, argparse._SubParsersAction) else []
        assert ("optimizer.learning_rate=0.001  peak" in text) == ("--print_config" in text)


def test_a_command_runs_by_its_name_and_a_wrong_name_is_one_line(capsys):
    assert listing.main(["--version"]) == exits.DONE
    assert capsys.readouterr().out == f"epfv2_jax {epfv2_jax.__version__}\n"
    with pytest.raises(SystemExit) as ended:
        listing.main(["train", "--help"])
    assert not ended.value.code and "--print_config shows all fields" in capsys.readouterr().out
    assert listing.main(["train", "--config", "no_such_recipe"]) == exits.USAGE
    assert capsys.readouterr().err.startswith("error: --config no_such_recipe: no such file or recipe; there are ")
    assert listing.main(["trian"]) == exits.USAGE
    assert capsys.readouterr().err == "error: trian: no such command; did you mean train? (see python -m epfv2_jax)\n"


@pytest.mark.parametrize("start, shown", [("/usr/bin/epfv2", "epfv2 train"), ("x.py", "python -m epfv2_jax.train")])
def test_errors_name_the_command_as_it_was_called(start, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [start])
    with pytest.raises(SystemExit):
        listing.main(["train"])
    assert f"(see {shown} --help)" in capsys.readouterr().err


def command_lines(text: str) -> list[tuple[str, list[str]]]:
    """Returns (command, arguments) of each `python -m epfv2_jax.X ...` or `epfv2 X ...` of a text.

    What it says in brackets is left out. Shell variables are filled in. Spans of code may go over the end of a line.
    """
    text = re.sub(r"\\\n *", " ", text)
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda span: span[0].replace("\n", " "), text)
    text = re.sub(r"\$\([^()]*\)", "1", text)
    variables = dict(re.findall(r"^ *([A-Z]+)=[\"'](.*)[\"']$", text, re.MULTILINE))
    text = re.sub(r"^ *[A-Z]+=[\"'].*[\"']$", "", text, flags=re.MULTILINE)
    variables |= dict(re.findall(r"^([A-Z_]+)=\$\{\1:[-?](.*?)\} *(?:#.*)?$", text, re.MULTILINE))
    for _ in range(3):
        text = re.sub(r"\$([A-Za-z]+)", lambda used: variables.get(used[1], "1"), text)
    text = re.sub(r"\[[^\[\]\n]*\]", "", text)
    start = rf"(?:python -m epfv2_jax\.|`epfv2 (?=(?:{'|'.join(COMMANDS)})\b))"
    found = re.findall(start + r"([a-z_]+)((?: [^`|#;&\n\"'})]*)?)", text)
    return [(name, shlex.split(arguments.rstrip(".,: "))) for name, arguments in found]


LINES = [(path, name, arguments) for path in TEXTS for name, arguments in command_lines(path.read_text())]


def test_the_texts_hold_commands():
    assert {name for _, name, _ in LINES} >= set(COMMANDS)
    assert len(LINES) > 50


def fields_of(name: str, arguments: list[str], monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    args = module(name).parser().parse_args(arguments)
    cls = AutoLabelConfig if name == "auto_label" else ExperimentConfig
    return overrides.dotted_fields(cls, overrides.apply_overrides(cls, recipe.read(args.config), args.overrides))


@pytest.mark.parametrize(
    "path, name, arguments",
    [pytest.param(*line, id=f"{line[0].name}-{line[1]}-{i}") for i, line in enumerate(LINES)],
)
def test_every_command_in_the_texts_is_accepted(path, name, arguments, monkeypatch):
    assert name in listing.COMMANDS
    if "..." in arguments or not any(text.startswith("--") for text in arguments):
        return  # named, not spelled out
    recipes = {"auto_label": "configs/als_quickstart.py"}
    arguments = [re.sub(r"^(R|configs/NAME)\.py$", recipes.get(name, "configs/quickstart.py"), a) for a in arguments]
    args = module(name).parser().parse_args(arguments)
    if hasattr(args, "overrides"):
        fields_of(name, arguments, monkeypatch)


def test_every_field_that_the_texts_name_as_a_flag_exists(monkeypatch):
    known = set(fields_of("train", ["--config", "configs/student_egobody3m.py"], monkeypatch))
    known |= set(fields_of("auto_label", ["--config", "configs/als_quickstart.py"], monkeypatch))
    for path in TEXTS:
        for field in re.findall(r"--config\.([a-z_][a-z_.0-9]*[a-z_0-9])", path.read_text()):
            assert field in known or field == "a.b", f"{path}: --config.{field}"


def test_every_flag_that_the_texts_name_exists():
    flags = {flag for name in COMMANDS for flag in module(name).parser()._flags()}
    own = re.compile(r"`(--[a-z_]+)[ =`]")
    elsewhere = {"--requeue", "--ntasks-per-node", "--count", "--nodes"}  # of SLURM
    for path in TEXTS:
        if path.suffix == ".md":
            unknown = set(own.findall(path.read_text())) - flags - elsewhere
            assert not unknown, (path, unknown)


@pytest.mark.parametrize(
    "flags",
    [
        ("convert", "--source", "zips", "--out", "gs://b/x"),
        ("convert", "--source", "s3://b/x", "--out", "records"),
        ("synthesize", "--out", "s3://b/x"),
        ("calibrate", "--source", "gs://b/x"),
        ("import_weights", "--encoder", "resnet18", "--file", "gs://b/x.safetensors", "--out", "weights"),
        ("verify_onnx", "gs://b/x.onnx"),
    ],
    ids=" ".join,
)
def test_what_needs_a_disk_refuses_a_bucket_and_makes_no_folder(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert module(flags[0]).main(list(flags[1:])) == exits.ERROR
    told = capsys.readouterr().err
    assert re.search(r"error: (gs|s3)://b/x\S*: this must be on a disk; ", told), told
    assert not list(tmp_path.iterdir())


def test_every_test_that_the_texts_name_exists():
    named = [
        match for path in TEXTS for match in re.findall(r"(tests/[a-z_/0-9]+\.py)::(test_[a-z_0-9]+)", path.read_text())
    ]
    assert len(named) > 30
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
