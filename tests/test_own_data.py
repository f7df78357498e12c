"""docs/own_data.md, followed to the letter in an empty folder: from a calibration to a graph that streams."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import calibration_files
import numpy as np
import own_rigs
import pytest
import yaml
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own_data.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", "").strip().splitlines()
]
(HEADSET, *_) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
#: Kalibr's `radtan` lens, of a wide camera.
LENS = {"distortion_model": "radtan", "distortion_coeffs": [-0.05, 0.005, 2e-4, -1e-4]}
# One device, as on a machine of which nothing is said.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def run(folder: pathlib.Path, line: str) -> str:
    python, *words = shlex.split(line)
    assert python == "python"
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=2400)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def needs_export(line: str) -> bool:
    return "onnx" in line


@pytest.fixture(scope="session")
def walked(tmp_path_factory) -> tuple[pathlib.Path, dict[str, str]]:
    """The folder after all commands that need no extra, and what each printed."""
    folder = tmp_path_factory.mktemp("walk")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    rig = folder / "data" / "own_headset"
    rig.mkdir(parents=True)
    turns = [view["upright_turns"] for view in yaml.safe_load(HEADSET)["views"]]
    chain = {
        f"cam{i}": {
            **{"camera_model": "pinhole", "intrinsics": [280.0 + i, 281.0, 318.0, 241.0 - i], **LENS},
            **{"resolution": list(own_rigs.SIZE), "T_cam_imu": np.linalg.inv(own_rigs.T_body_cam(*pose, k)).tolist()},
        }
        for i, ((*pose, _, _), k) in enumerate(zip(own_rigs.TWO.values(), turns, strict=True))
    }
    (rig / "camchain.yaml").write_text(calibration_files.yaml_of(chain))
    (rig / "headset.yaml").write_text(HEADSET)
    return folder, {line: run(folder, line) for line in COMMANDS if not needs_export(line)}


def test_the_page_goes_from_a_calibration_to_a_graph():
    names = [shlex.split(line)[2].removeprefix("epfv2_jax.") for line in COMMANDS]
    walk = "synthesize validate train demo predict convert evaluate train export verify_onnx demo"
    assert names == walk.split()
    assert np.array_equal(yaml.safe_load(HEADSET)["T_headset_body"], own_rigs.T_HEADSET_BODY)


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(walked):
    folder, printed = walked
    told = " ".join(printed.values())
    assert "0 sequences have errors" in told and "synthetic_test_00000: 24 frames" in told
    assert len(list((folder / "pictures").glob("*.png"))) == 6  # two views of three people
    with Image.open(folder / "person.gif") as gif:
        assert gif.n_frames == 24
    with np.load(folder / "predictions/test/synthetic_test_00000.npz") as motion:
        assert motion["frame_valid"].all() and motion["view_names"].tolist() == ["left", "right"]
    assert (folder / "predictions/test/synthetic_test_00000.bvh").stat().st_size > 1000
    assert json.loads((folder / "scores/metrics.json").read_text())["metrics"]["mpjpe_cm"] < 40
    logs = [(folder / run / "metrics.jsonl").read_text() for run in ("runs/own_headset", "runs/own_joints")]
    losses = [[line["loss"] for line in map(json.loads, log.splitlines()) if "loss" in line] for log in logs]
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert losses[1][0] < 0.7 * losses[0][0], "it does not start from the first run's weights"


@pytest.mark.slow
@pytest.mark.extras
def test_the_graph_of_the_page_streams(walked):
    pytest.importorskip("jax2onnx", reason="needs the extra 'export'")
    folder, _ = walked
    exported, verified, streamed = (run(folder, line) for line in COMMANDS if needs_export(line))
    assert "own_headset.onnx" in exported and verified.endswith("ok\n") and "24 frames" in streamed
    assert "ONNX Runtime" in streamed and (folder / "graph.gif").stat().st_size > 10_000
