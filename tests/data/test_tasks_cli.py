"""`synthesize` and `convert` by several processes at once, by killed ones and on a Ray cluster: the same bytes."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from epfv2_jax.data import records

pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).resolve().parent
SYNTHESIZE = ("synthesize", "--sequences", "4", "1", "1", "--frames", "24", "--image_width", "40")
CONVERT = ("convert", "--image_size", "32", "--record_frames", "8", "--doubtful", "keep")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes that compile once for the whole module."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("jax_cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": path, **cache}


@pytest.fixture(scope="module")
def start(environment):
    """start(command, *flags): a process of one of the commands."""

    def popen(command, *flags):
        verb, *options = command
        line = [sys.executable, "-m", f"epfv2_jax.{verb}", *options, *map(str, flags)]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return popen


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """What one process makes of it: folders `zips` and `records`. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(SYNTHESIZE, "--out", folder / "zips"))
    finish(start(CONVERT, "--source", folder / "zips", "--out", folder / "records"))
    return folder


def finish(*processes):
    """Returns what they printed, after all of them have ended well."""
    printed = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        printed.append(out)
    return printed


def digests(folder):
    """Of all files but those in the hidden folders that a killed process may leave."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.parent.name.startswith(".")
    }


def share(index):
    return ("--engine", "index", "--index", index, "--count", 2)


def test_two_processes_at_once_give_the_bytes_of_one(start, whole, tmp_path):
    zips, out = tmp_path / "zips", tmp_path / "records"
    finish(*(start(SYNTHESIZE, "--out", zips, *share(i)) for i in (0, 1)))
    assert digests(zips) == digests(whole / "zips")
    printed = finish(*(start(CONVERT, "--source", zips, "--out", out, *share(i)) for i in (0, 1)))
    assert digests(out) == digests(whole / "records")
    assert any('"sequences_kept": 4' in text for text in printed)


def test_a_killed_process_is_started_again(start, whole, tmp_path):
    zips, out = tmp_path / "zips", tmp_path / "records"
    for command, folder, suffix, reference in (
        ((SYNTHESIZE, "--out", zips), zips, ".zip", "zips"),
        ((CONVERT, "--source", whole / "zips", "--out", out), out, records.SHARD_SUFFIX, "records"),
    ):
        victim, other = start(*command, *share(0)), start(*command, *share(1))
        while victim.poll() is None and not list(folder.rglob(f"*{suffix}*")):
            time.sleep(0.002)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        finish(other)
        assert digests(folder) != digests(whole / reference), "it was not killed before the end"
        assert not list(folder.rglob(records.MANIFEST_NAME))
        finish(start(*command, *share(0)))
        assert digests(folder) == digests(whole / reference)


@pytest.mark.extras
def test_ray_on_two_nodes_survives_killed_workers(environment, whole, tmp_path):
    pytest.importorskip("ray")
    zips, out, orders = tmp_path / "zips", tmp_path / "records", tmp_path / "orders"
    orders.mkdir()
    for order in ("synthesize", "convert"):
        (orders / order).touch()
    command = [sys.executable, HERE / "ray_data_driver.py", orders, zips, out]
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert not list(orders.iterdir()), "not every order to die was carried out"
    assert digests(zips) == digests(whole / "zips")
    assert digests(out) == digests(whole / "records")
