"""A label pass that is killed, cut off by a full disk, spread over a Ray cluster, or long."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import progress
from epfv2_jax.autolabel import verify as verify_lib
from epfv2_jax.data import labels

pytestmark = pytest.mark.slow
KILLS = 20


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of a process with one device, which compiles once for the whole module."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("jax_cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **cache}


@pytest.fixture(scope="module")
def small_units(records_dir, teacher_dir):
    """small_units(folder): the plan of a pass of many small units, written there."""

    def write(folder):
        config = plan_lib.PassConfig(unit_frames=6, slots=2, chunk_frames=4)
        return plan_lib.write_plan(folder, plan_lib.make_plan(records_dir, teacher_dir, config))

    return write


@pytest.fixture(scope="module")
def start(records_dir, teacher_dir, environment):
    """start(out_dir, preamble): a process that runs the pass in out_dir."""

    def popen(out_dir, preamble=""):
        arguments = ["run", "--data", records_dir, "--checkpoint", teacher_dir, "--out", out_dir]
        code = f"import sys; {preamble}\nfrom epfv2_jax import pseudo_label\nsys.exit(pseudo_label.main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    return popen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start, small_units):
    """Name and content of what an undisturbed pass publishes."""
    out_dir = tmp_path_factory.mktemp("undisturbed")
    small_units(out_dir)
    process = start(out_dir)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    return files(out_dir)


def files(out_dir):
    folder = pathlib.Path(out_dir) / labels.UNIT_FOLDER
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def kill_at(process, out_dir, moment):
    """Kills a pass: at start, when a temporary file appears, or soon after some more units are there."""
    kind, value = moment
    before, deadline = len(files(out_dir)), time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        temporary = out_dir / "tmp"
        names = list(temporary.iterdir()) if temporary.exists() else []
        if kind == "start":
            time.sleep(5 * value)
            break
        if kind == "writing" and names and len(files(out_dir)) >= before + int(2 * value):
            break
        if kind == "between" and len(files(out_dir)) > before:
            time.sleep(0.05 * value)
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, start, small_units, undisturbed, records_dir):
    draw = random.Random(0)
    out_dir, half_done, mid_write = None, 0, 0
    for i in range(KILLS):
        if out_dir is None or len(files(out_dir)) > len(undisturbed) - 4:  # nearly done: another pass to kill
            out_dir = tmp_path / str(i)
            small_units(out_dir)
        kind = ("start", "writing", "writing", "between")[i % 4]
        kill_at(start(out_dir), out_dir, (kind, draw.random()))
        assert files(out_dir).items() <= undisturbed.items()
        mid_write += len(list((out_dir / "tmp").iterdir())) if (out_dir / "tmp").exists() else 0
        half_done += 0 < len(files(out_dir)) < len(undisturbed)
    assert half_done, "no kill left a pass half done"
    assert mid_write, "no kill came while a file was being written"
    process = start(out_dir)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    assert files(out_dir) == undisturbed
    assert not list((out_dir / "tmp").iterdir()), "what dead processes left is removed"
    assert verify_lib.verify(out_dir, records_dir).errors == ()


def test_a_file_size_limit_in_mid_write_publishes_nothing(tmp_path, start, small_units, undisturbed):
    small_units(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    process = start(tmp_path, limit)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert b"File too large" in error and b"is the disk full?" in error
    assert files(tmp_path) == {} and not list((tmp_path / "tmp").iterdir())
    process = start(tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert files(tmp_path) == undisturbed


@pytest.mark.extras
def test_ray_on_two_nodes_survives_killed_workers(
    tmp_path, small_units, undisturbed, records_dir, teacher_dir, environment
):
    pytest.importorskip("ray")
    out_dir, orders = tmp_path / "out", tmp_path / "orders"
    orders.mkdir()
    plan = small_units(out_dir)
    for unit in (2, 5):
        (orders / str(unit)).touch()
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    command = [sys.executable, here / "ray_driver.py", orders, out_dir, records_dir, teacher_dir]
    result = subprocess.run(
        list(map(str, command)), env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "the Ray cluster has 0 of 'TPU', an actor needs 4" in result.stdout
    assert " ".join(["units", *map(str, range(plan.num_units))]) in result.stdout
    assert not list(orders.iterdir()), "not every order to die was carried out"
    assert files(out_dir) == undisturbed
    assert verify_lib.verify(out_dir, records_dir).errors == ()
    assert len(progress.status(out_dir).workers) >= 3, "two nodes, and another process for one that was killed"


MEMORY = """
import pathlib, sys, tempfile
sys.path.insert(0, {here!r})
import conftest
from epfv2_jax.autolabel import plan, worker
from epfv2_jax.data import records

def resident_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

folder = pathlib.Path(sys.argv[1])
run = conftest.make_run("s", 0, 4, 0)
runs = (conftest.dataclasses.replace(run, sequence=str(i)) for i in range(1000))
shard = records.write_shard(folder / "a.arrayrecord", runs)
records.write_manifest(folder, records.Manifest(split="train", spec=conftest.SPEC, shards=(shard,)))
config = plan.PassConfig(unit_frames=4, slots=1, chunk_frames=4)
planned = plan.write_plan(folder / "out", plan.make_plan(folder, sys.argv[2], config))
assert planned.num_units == 1000
labeller = worker.Labeller(folder / "out", folder, sys.argv[2])
sizes = {{report.unit: resident_kib() for report in labeller(range(1000))}}
assert len(sizes) == 1000
print(sizes[9], sizes[999])
"""


def test_memory_does_not_grow_with_the_number_of_units(tmp_path, environment, teacher_dir):
    code = MEMORY.format(here=str(pathlib.Path(__file__).parent))
    command = [sys.executable, "-c", code, str(tmp_path), str(teacher_dir)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    after_10, after_1000 = map(int, result.stdout.split()[-2:])
    assert after_1000 < after_10 + 20 * 1024, f"{after_10} and {after_1000} KiB"
