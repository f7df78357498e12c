"""The package as users get it: built without a network, installed in an empty folder and run from another."""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tiny

import epfv2_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("epfv2_jax", "configs", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        int(importlib.metadata.version("setuptools").partition(".")[0]) < 77, reason="needs the extra 'test'"
    ),
]


def run(command: list, cwd: pathlib.Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """A folder with the installed package: a wheel that was built from the source archive alone."""
    folder = tmp_path_factory.mktemp("package")
    checkout = folder / "checkout"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout / name)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run([sys.executable, "-c", build], checkout)
    (archive,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, archive], folder)
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", *offline, "--target", folder / "site", wheel], folder)
    return folder / "site"


@pytest.fixture
def epfv2(site, tmp_path):
    """Calls the installed command from an empty folder."""

    def call(*arguments: str) -> str:
        # Python looks into PYTHONPATH before the places of installed packages, so this checkout is not found.
        environment = {"PYTHONPATH": str(site), "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        return run([site / "bin" / "epfv2", *arguments], tmp_path, **environment)

    return call


def test_every_file_of_the_package_is_installed_and_every_recipe(site):
    def below(folder):
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    recipes = {f"recipes/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert below(site / "epfv2_jax") == below(ROOT / "epfv2_jax") | recipes
    assert "py.typed" in below(site / "epfv2_jax")


def test_recipes_are_found_by_name_and_import_what_lies_beside_them(epfv2, site):
    assert epfv2("--version") == f"epfv2_jax {epfv2_jax.__version__}\n"
    assert json.loads(epfv2("train", "--config", "quickstart", "--print_config"))["output_dir"] == "runs/quickstart"
    student = json.loads(epfv2("train", "--config", "student_egobody3m:mobilenetv4", "--print_config"))
    assert student["model"]["encoder"] == "mobilenetv4_conv_small"
    path = f"{site}/epfv2_jax/recipes/quickstart.py:headset_only"
    assert json.loads(epfv2("train", "--config", path, "--print_config"))["augment"]["view_dropout"] == 1


def test_a_tiny_run_trains_from_an_empty_folder(epfv2, tmp_path):
    epfv2("train", "--config", "quickstart", *tiny.flags())
    scores = json.loads((tmp_path / "runs/quickstart/evaluation/metrics.json").read_text())
    assert scores["step"] == 2 and scores["metrics"]["mpjpe_cm"] > 0
