"""A run and a label pass in a bucket (an emulator), killed and resumed, give what they give on disk."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import emulators
import jax
import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import publish, verify, worker
from epfv2_jax.core import files, stores
from epfv2_jax.data import labels, records

pytestmark = [*emulators.MARKS, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 50
UNITS = 20


def command(folder: str, records_dir: str, made_from: str | None = None) -> list[str]:
    return [
        sys.executable,
        *("-m", "epfv2_jax.train", "--config", str(ROOT / "configs" / "quickstart.py")),
        f"--config.output_dir={folder}/run",
        f"--config.dataset.directory={records_dir}",
        f"--config.dataset.source_directory={made_from}",
        *("--config.dataset.synthetic.train_sequences=20", "--config.dataset.synthetic.validation_sequences=1"),
        *("--config.dataset.synthetic.test_sequences=1", "--config.dataset.synthetic.frames=32"),
        *("--config.dataset.synthetic.image_width=40", "--config.dataset.conversion.image_size_hw=(16, 16)"),
        *(("--config.dataset.synthetic=None",) if made_from is None else ()),
        *("--config.data.source=records", "--config.data.warmup=None", "--config.evaluation.pictures=1"),
        *("--config.data.clip_frames=4", "--config.data.batch_size=2", "--config.loop.log_every=5"),
        *(f"--config.step.steps={STEPS}", "--config.loop.evaluate_every=20", "--config.loop.checkpoint_every=10"),
    ]


def environment(folder: pathlib.Path) -> dict[str, str]:
    own = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "XDG_CACHE_HOME": str(folder / "xdg")}
    return {**os.environ, **own, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def run_whole(command: list[str], folder: pathlib.Path) -> None:
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


def final_state(folder: str) -> dict[str, np.ndarray]:
    tree = checkpoints.read_item(f"{folder}/run/checkpoints/{checkpoints.LATEST}/{STEPS}/state")
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def label(folder: str, records_dir: str) -> None:
    """Plans, labels in two workers' turns and checks."""
    out, teacher = f"{folder}/labels", f"{folder}/run"
    config = plan_lib.PassConfig(unit_frames=32, slots=8, chunk_frames=4)
    plan = plan_lib.write_plan(out, plan_lib.make_plan(records_dir, teacher, config))
    assert plan.num_units == UNITS
    first, second = (worker.Labeller(out, records_dir, teacher) for _ in range(2))
    assert all(report.published for report in first(range(10)))
    published = [report.published for report in second(range(5, UNITS))]
    assert published == [False] * 5 + [True] * 10
    assert verify.verify(out, records_dir).errors == ()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """The folder of an undisturbed run and label pass on disk."""
    folder = tmp_path_factory.mktemp("disk")
    run_whole(command(str(folder), str(folder / "records"), str(folder / "zips")), folder)
    label(str(folder), str(folder / "records" / "train"))
    return folder


def test_killed_and_resumed_in_a_bucket_equals_the_run_on_disk(bucket, on_disk):
    stores.upload(on_disk / "records", f"{bucket}/records")
    train = command(bucket, f"{bucket}/records")
    process = subprocess.Popen(
        train, env=environment(on_disk), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    latest, deadline = files.locate(f"{bucket}/run/checkpoints/{checkpoints.LATEST}"), time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None and not (latest / "20" / "checksums.json").exists():
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (latest / str(STEPS)).exists()  # it was killed before its end
    run_whole(train, on_disk)

    expected, found = final_state(str(on_disk)), final_state(bucket)
    assert expected.keys() == found.keys() and expected
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    run = files.locate(f"{bucket}/run")
    assert (run / "evaluation" / "metrics.json").read_bytes() == (on_disk / "run/evaluation/metrics.json").read_bytes()
    pictures = {path.name for path in (on_disk / "run" / "evaluation").iterdir()}
    assert {path.name for path in (run / "evaluation").iterdir()} == pictures
    evaluate = ["-m", "epfv2_jax.evaluate", "--checkpoint", f"{bucket}/run", "--data", f"{bucket}/records"]
    run_whole([sys.executable, *evaluate, "--out", f"{bucket}/again"], on_disk)
    again = files.locate(f"{bucket}/again/metrics.json")
    assert again.read_bytes() == (run / "evaluation" / "metrics.json").read_bytes()
    losses = [
        [(line["step"], line["loss"]) for line in map(json.loads, path.read_text().splitlines()) if "loss" in line]
        for path in (run / "metrics.jsonl", on_disk / "run" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]
    starts = [line for line in map(json.loads, (run / "goodput.jsonl").read_text().splitlines()) if "lost_s" in line]
    assert len(starts) == 2
    assert not pathlib.Path("gs:").exists() and not pathlib.Path("s3:").exists()


def test_of_two_workers_that_publish_a_unit_at_once_one_is_told_so(bucket, tmp_path):
    target, start = files.locate(f"{bucket}/unit"), threading.Barrier(2)

    def work(name):
        (tmp_path / name).write_bytes(name.encode())
        start.wait()
        return publish.publish(tmp_path / name, target)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        won = dict(zip("ab", pool.map(work, "ab"), strict=True))
    (winner,) = (name for name, first in won.items() if first)
    assert target.read_bytes() == winner.encode() and not list(tmp_path.iterdir())


def test_a_label_pass_in_a_bucket_equals_the_one_on_disk(bucket, on_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(on_disk / "xdg"))
    if not stores.sizes(f"{bucket}/records/train"):  # the run in the bucket went to another worker of the tests
        stores.upload(on_disk / "records", f"{bucket}/records")
        stores.upload(on_disk / "run" / "checkpoints", f"{bucket}/run/checkpoints")
    label(bucket, f"{bucket}/records/train")
    paths = ["plan.json", *(f"labels/{labels.unit_file(unit)}" for unit in range(UNITS))]
    for path in paths:
        expected, found = on_disk / "labels" / path, files.locate(f"{bucket}/labels/{path}")
        assert found.read_bytes() == expected.read_bytes(), path
    source = records.open_records(f"{bucket}/records/train")
    opened = labels.open_labels(f"{bucket}/labels", source)
    disk = labels.open_labels(on_disk / "labels", records.open_records(on_disk / "records" / "train"))
    for i in range(len(source)):
        np.testing.assert_array_equal(opened[i].joints_headset_m, disk[i].joints_headset_m)
