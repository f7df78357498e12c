"""docs/extending.md, followed to the letter in a copy of the package: the fork trains, and with it a toy model.

The toy model's whole life: training, a kill, resuming, evaluation, labelling and streaming, with nothing else touched.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from epfv2_jax.checkpoints import storage

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
NEW_FILE = re.compile(r"[Ww]rite(?:\s+a\s+recipe,)?\s+`([\w/.]+)`:\s+```python\n(.*?)```", re.DOTALL)
NEW_LINE = re.compile(r"Add to `([\w/.]+)`:\s+```python\n(.*?)\n\n    (.*?)\n```", re.DOTALL)
FLAGS = re.compile(r"train with `(--[^`]+)`")

# One device, as on a machine of which nothing is said.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}
# A minute of training would be long for a test: few people, small images.
DATA = {
    "dataset": {
        "directory": "data/records",
        "source_directory": "data/zips",
        "synthetic": {
            "train_sequences": 6,
            "validation_sequences": 2,
            "test_sequences": 2,
            "frames": 8,
            "frame_step": 4,
            "image_width": 40,
        },
        "conversion": {"image_size_hw": (32, 32), "record_frames": 8, "doubtful": "keep"},
    },
    "data": {"source": "records", "clip_frames": 4, "batch_size": 4},
    "step": {"steps": 40},
    "loop": {"log_every": 2, "evaluate_every": 20, "checkpoint_every": 4},
    "evaluation": {"clip_frames": 8, "pictures": 1},
}


@pytest.fixture(scope="session")
def fork(tmp_path_factory) -> pathlib.Path:
    """A copy of package and recipes, with the files and lines of the page."""
    folder = tmp_path_factory.mktemp("fork")
    for name in ("epfv2_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, content in NEW_FILE.findall(PAGE):
        assert not (folder / path).exists(), f"{path} is there already"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    for path, statement, entry in NEW_LINE.findall(PAGE):
        text = (folder / path).read_text()
        first_import = re.search(r"^from epfv2_jax", text, re.MULTILINE).start()
        table = re.search(r"^[A-Z]+: dict\[.*\] = \{\n", text, re.MULTILINE).end()
        (folder / path).write_text(
            text[:first_import] + f"{statement}\n" + text[first_import:table] + f"    {entry}\n" + text[table:]
        )
    recipe = (folder / "configs" / "pooled.py").read_text()
    changed = f"    config.data.warmup = None\n    config.update({DATA!r})\n    return config"
    shortened = recipe.replace("    return config", changed)
    assert shortened != recipe
    (folder / "configs" / "pooled.py").write_text(shortened)
    return folder


def run(fork: pathlib.Path, *command: str, **kwargs) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=fork,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        **kwargs,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_page_holds_what_it_promises():
    assert len(NEW_FILE.findall(PAGE)) == 6 and len(NEW_LINE.findall(PAGE)) == 5
    for _, content in NEW_FILE.findall(PAGE):
        compile(content, "page", "exec")


@pytest.mark.slow
def test_a_toy_model_lives_a_whole_life(fork):
    train = ("epfv2_jax.train", "--config", "configs/pooled.py")
    latest, limit = fork / "runs/pooled/checkpoints/latest", time.monotonic() + 300
    log = fork / "killed.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", *train]
        killed = subprocess.Popen(command, cwd=fork, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
        while not storage.sealed_steps(epath.Path(latest)):  # not Orbax's folder of a step that it still writes
            assert killed.poll() is None and time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    done = run(fork, *train)
    assert "MPJPE" in done.stdout
    logged = [json.loads(line) for line in (fork / "runs/pooled/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == list(range(2, 41, 2))
    starts = [json.loads(line) for line in (fork / "runs/pooled/goodput.jsonl").read_text().splitlines()]
    assert [line["step"] > 0 for line in starts if line["event"] == "start"] == [False, True], "it did not resume"

    run(fork, "epfv2_jax.evaluate", "--checkpoint", "runs/pooled", "--data", "data/records", "--out", "scores")
    assert json.loads((fork / "scores/metrics.json").read_text())["metrics"]["mpjpe_cm"] > 0

    labels = ("--data", "data/records/test", "--out", "labels")
    for verb in (("plan", "--checkpoint", "runs/pooled"), ("run", "--checkpoint", "runs/pooled"), ("verify",)):
        run(fork, "epfv2_jax.pseudo_label", verb[0], *labels, *verb[1:])

    code = """
import numpy as np
from epfv2_jax.data import pipeline, records
from epfv2_jax.inference.predictor import Predictor
predictor = Predictor.from_checkpoint("runs/pooled")
batch = next(pipeline.eval_batches(records.open_records("data/records/test"), 8, batch_size=1))
frames, clip = batch.frames, predictor.clip(batch.frames)
state = predictor.start(frames.rig)
for t in range(8):
    pose, state = predictor.step(state, frames.images[:, t], frames.T_world_headset[:, t], frames.view_valid[:, t])
    np.testing.assert_allclose(pose.joints_headset_m, clip.joints_headset_m[:, t], atol=1e-5)
assert type(predictor.model).__name__ == "Pooled"
"""
    subprocess.run([sys.executable, "-c", code], cwd=fork, env=ENVIRONMENT, check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.extras
def test_the_toy_model_is_exported_without_a_line_for_it(fork):
    pytest.importorskip("jax2onnx", reason="needs the extra 'export'")
    write = """
import numpy as np
from epfv2_jax import checkpoints, models, structs
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.pooled import Pooled, PooledConfig
from epfv2_jax.testing import fakes
model = Pooled(PooledConfig(width=8), skeleton.EGOBODY3M, layout.EGOBODY3M)
variables = fakes.random_variables(model, structs.blank_frames(1, 1, 4, (32, 32)))
mapping = {"model": {"kind": "pooled", "width": 8}}
about = checkpoints.About(experiment=mapping, skeleton=model.skeleton, layout=model.layout, image_size_hw=(32, 32))
checkpoints.save_model("runs/written", about, variables, {})
"""
    subprocess.run([sys.executable, "-c", write], cwd=fork, env=ENVIRONMENT, check=True, timeout=300)
    run(fork, "epfv2_jax.export", "--checkpoint", "runs/written", "--out", "pooled.onnx")
    assert run(fork, "epfv2_jax.verify_onnx", "pooled.onnx").stdout.endswith("ok\n")


@pytest.mark.slow
def test_the_reader_of_the_page_converts_and_its_records_train(fork):
    """Two views, five joints: no metric group and no mirrored EgoBody3M anywhere."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, 1, 3] = 1.6
    for split, takes in {"train": 6, "validation": 2, "test": 2}.items():
        (fork / "takes" / split).mkdir(parents=True)
        for i in range(takes):
            np.savez(
                fork / "takes" / split / f"take{i}.npz",
                images=rng.integers(0, 255, (8, 2, 48, 48), dtype=np.uint8),
                T_world_headset=poses,
                joints_world_m=rng.normal((0, 1.2, 0), 0.3, (8, 5, 3)),
                T_cam_headset=np.tile(np.diag([-1.0, -1.0, 1.0, 1.0]), (2, 1, 1)),
                focal_px=30.0,
            )
    (convert,) = re.findall(r"`python -m (epfv2_jax.convert [^`]+)`", PAGE)
    run(fork, *convert.split(), "--image_size", "32", "--doubtful", "keep")  # random joints are no body
    run(
        fork,
        *("epfv2_jax.train", "--config", "configs/pooled.py", "--config.output_dir=runs/pair"),
        *("--config.dataset.directory=data/pair", "--config.dataset.synthetic=None"),
        *("--config.dataset.source_directory=None", "--config.model.kind=epfv2", "--config.model.width=32"),
        *("--config.step.steps=4", "--config.evaluation.clip_frames=8"),
    )
    scores = json.loads((fork / "runs/pair/evaluation/metrics.json").read_text())
    assert set(scores["per_joint_cm"]) == {"chest", "left_elbow", "left_hand", "right_elbow", "right_hand"}


@pytest.mark.slow
def test_flags_of_the_page_train(fork):
    """Each of the other additions takes a few steps in one run."""
    flags = [flag for group in FLAGS.findall(PAGE) for flag in group.split()]
    assert len(flags) == 4
    run(
        fork,
        *("epfv2_jax.train", "--config", "configs/pooled.py", "--config.output_dir=runs/others"),
        *("--config.model.kind=epfv2", "--config.model.width=32", "--config.step.steps=3"),
        *flags,
    )
    logged = [json.loads(line) for line in (fork / "runs/others/metrics.jsonl").read_text().splitlines()]
    assert "stretch" in logged[0]
