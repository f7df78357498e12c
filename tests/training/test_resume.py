"""A run that is killed and resumed ends where an undisturbed run ends, to the bit."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 12


def command(folder: pathlib.Path, run: str) -> list[str]:
    return [
        sys.executable,
        *("-m", "epfv2_jax.train", "--config", str(ROOT / "configs" / "quickstart.py")),
        f"--config.output_dir={folder / run}",
        f"--config.dataset.directory={folder / 'records'}",
        f"--config.dataset.source_directory={folder / 'zips'}",
        *("--config.dataset.synthetic.train_sequences=3", "--config.dataset.synthetic.validation_sequences=1"),
        *("--config.dataset.synthetic.test_sequences=1", "--config.dataset.synthetic.frames=64"),
        *("--config.dataset.synthetic.image_width=40", "--config.dataset.conversion.image_size_hw=(16, 16)"),
        *("--config.data.source=records", "--config.data.warmup=None"),
        *("--config.data.clip_frames=4", "--config.data.batch_size=2"),
        *(f"--config.step.steps={STEPS}", "--config.loop.evaluate_every=5", "--config.loop.checkpoint_every=2"),
    ]


def final_state(folder: pathlib.Path, run: str) -> dict[str, np.ndarray]:
    tree = checkpoints.read_item(folder / run / "checkpoints" / checkpoints.LATEST / str(STEPS) / "state")
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
def test_killed_three_times_ends_bitwise_equal(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    def run_whole(run):
        subprocess.run(command(tmp_path, run), env=environment, check=True, capture_output=True, timeout=600, cwd=ROOT)

    run_whole("undisturbed")
    rng = np.random.default_rng(int(time.time()))
    log = tmp_path / "killed" / "metrics.jsonl"
    latest = tmp_path / "killed" / "checkpoints" / checkpoints.LATEST
    for after in sorted(rng.choice(np.arange(2, STEPS - 1), 3, replace=False)):
        process = subprocess.Popen(
            command(tmp_path, "killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            saved = [int(p.name) for p in latest.glob("*") if p.name.isdigit()] if latest.exists() else []
            if max(saved, default=0) >= after - 1:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_whole("killed")

    expected, found = final_state(tmp_path, "undisturbed"), final_state(tmp_path, "killed")
    assert expected.keys() == found.keys() and expected
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
