"""The recipe for own cameras: two calibration files, labels and graphs. tests/test_own_data.py follows the page."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import own_rigs
import pytest

from epfv2_jax.core import config as config_lib
from epfv2_jax.experiment import recipe
from epfv2_jax.experiment.config import ExperimentConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "own_headset.py"
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def rigs(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Calibration files, `six` and `two`."""
    return own_rigs.write(tmp_path_factory.mktemp("rigs"))


@pytest.mark.parametrize("size", ["cpu", "tiny"])
def test_the_recipe_is_valid(size):
    config = recipe.load(ExperimentConfig, f"{RECIPE}:{size}")
    assert config.dataset.conversion.reader == "recording" and config.data.source == "synthetic"


def test_people_of_an_own_rig_need_the_reader_of_recordings():
    mapping = config_lib.to_mapping(recipe.load(ExperimentConfig, str(RECIPE)))
    mapping["dataset"]["conversion"]["reader"] = "egobody3m"
    with pytest.raises(ValueError, match=r"conversion\.reader: expected 'recording', got 'egobody3m'"):
        config_lib.from_mapping(ExperimentConfig, mapping)
    mapping["dataset"]["synthetic"] |= {"rig": None, "image_width": 60}
    config_lib.from_mapping(ExperimentConfig, mapping)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["six", "two"])
def test_a_headset_trains_labels_streams_and_exports(name, rigs, tmp_path):
    """Six fisheye lenses of Kalibr, and two rational ones of Basalt."""

    def run(line: str) -> str:
        command, *flags = line.split()
        process = [sys.executable, "-m", f"epfv2_jax.{command}", *flags]
        done = subprocess.run(process, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run(f"train --config {RECIPE}:tiny --config.dataset.synthetic.rig={rigs[name]}")
    logged = [json.loads(line) for line in (tmp_path / "runs/own_headset/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    scores = json.loads((tmp_path / "runs/own_headset/evaluation/metrics.json").read_text())
    assert scores["metrics"]["mpjpe_cm"] < 40

    # More people as files, and labels for them.
    run(f"synthesize --out people --rig {rigs[name].parent} --sequences 0 0 1 --frames 9")
    run("convert --source people --out records --reader recording --image_size 32")
    for verb in ("plan --checkpoint runs/own_headset", "run --checkpoint runs/own_headset", "verify"):
        run(f"pseudo_label {verb} --data records/test --out labels")
    run("demo --checkpoint runs/own_headset --sequence records/test --out stream.gif --frames 6")
    assert (tmp_path / "stream.gif").stat().st_size > 10_000
    if importlib.util.find_spec("jax2onnx") is None or importlib.util.find_spec("onnxruntime") is None:
        return
    run("export --checkpoint runs/own_headset --out step.onnx --data records --split test")
    run("verify_onnx step.onnx")
    printed = run("demo --onnx step.onnx --sequence records/test --out onnx.gif --frames 6")
    assert "ONNX Runtime" in printed
