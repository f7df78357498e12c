"""Runs of several processes: the same numbers as one, stopped, killed, moved to other devices and gone on with."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import cluster_recipe
import numpy as np
import pytest

from epfv2_jax import checkpoints
from epfv2_jax.core import multihost
from epfv2_jax.data import records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.synthetic import writer
from epfv2_jax.profiling import goodput

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with records of 3 + 1 tiny sequences: 48 clips, 6 batches an epoch."""
    folder = tmp_path_factory.mktemp("cluster")
    synthetic = writer.SyntheticConfig(
        train_sequences=3, validation_sequences=1, test_sequences=0, frames=64, image_width=20
    )
    writer.write_dataset(synthetic, folder / "zips", progress=False)
    conversion.convert(
        folder / "zips", folder / "records", conversion.ConversionConfig(image_size_hw=(16, 16), record_frames=64)
    )
    return folder


def free_port(ports: range = range(1)) -> int:
    """Returns one of `ports` that is free; of those that the system gives out if there are none."""
    for port in ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return listener.getsockname()[1]
    raise OSError(f"no port of {ports} is free")


def told_where(processes: int, i: int, port: int) -> list[str]:
    return f"--coordinator_address 127.0.0.1:{port} --num_processes {processes} --process_id {i}".split()


def as_slurm_tells(processes: int, i: int, port: int) -> dict[str, str]:
    """The environment of a SLURM step; JAX makes the coordinator's port from the number of the job."""
    return {
        "SLURM_JOB_ID": str(port - SLURM_PORTS.start),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": str(i),
    }


SLURM_PORTS = range(65535 - 2**12 + 1, 65535)


@dataclasses.dataclass
class Run:
    """A run in `folder`/`name`, in any number of processes one start after the other."""

    folder: pathlib.Path
    name: str
    starts: int = 0
    processes: list[subprocess.Popen] = dataclasses.field(default_factory=list)

    @property
    def directory(self) -> pathlib.Path:
        return self.folder / self.name

    def start(self, processes: int, devices: int, *flags: str, slurm: bool = False) -> None:
        """Starts `processes` processes of `devices` CPU devices each."""
        self.starts += 1
        self.processes = []
        port = free_port(SLURM_PORTS) if slurm else free_port()
        for i in range(processes):
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                **(as_slurm_tells(processes, i, port) if slurm else {}),
            }
            cluster = ["--distributed"] if slurm else told_where(processes, i, port) if processes > 1 else []
            log = self.folder / f"{self.name}_{self.starts}_{i}.log"
            command = [sys.executable, str(HERE / "cluster_process.py"), str(log.with_suffix(".seen"))]
            command += ["--config", f"{HERE / 'cluster_recipe.py'}:{self.folder}"]
            command += [f"--config.output_dir={self.directory}", *cluster, *flags]
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=HERE)
                )

    def wait(self, timeout_s: float = 240) -> list[int]:
        """Returns the exit codes of this start's processes."""
        deadline = time.monotonic() + timeout_s
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def wait_until(self, happened: Callable[[], bool], timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not happened():
            assert all(process.poll() is None for process in self.processes), self.log()
            time.sleep(0.01)

    def losses(self) -> dict[int, float]:
        path = self.directory / "metrics.jsonl"
        lines = (
            [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if path.exists()
            else []
        )
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    def log(self, process: int = 0) -> str:
        return (self.folder / f"{self.name}_{self.starts}_{process}.log").read_text()

    def seen(self, start: int, processes: int) -> list[list[int]]:
        """Returns the clips of each step that a start tried, of all its processes."""
        per_process = [
            [json.loads(line) for line in (self.folder / f"{self.name}_{start}_{i}.seen").read_text().splitlines()]
            for i in range(processes)
        ]
        return [list(itertools.chain(*step)) for step in zip(*per_process, strict=False)]

    def saved_steps(self) -> list[int]:
        latest = self.directory / "checkpoints" / checkpoints.LATEST
        return sorted(int(p.name) for p in latest.glob("*") if p.name.isdigit()) if latest.exists() else []


@pytest.fixture(scope="module")
def undisturbed(folder) -> Run:
    """A run of one process with one device."""
    run = Run(folder, "undisturbed")
    run.start(1, 1)
    assert run.wait() == [0], run.log()
    assert len(run.losses()) == cluster_recipe.STEPS
    return run


@pytest.mark.parametrize("processes, devices, fsdp", [(2, 2, 1), (2, 2, 4), (1, 4, 1), (1, 4, 4)])
def test_all_layouts_give_the_same_losses(folder, undisturbed, processes, devices, fsdp):
    run = Run(folder, f"layout_{processes}_{devices}_{fsdp}")
    slurm = (processes, fsdp) == (2, 4)
    run.start(processes, devices, f"--config.mesh.fsdp={fsdp}", "--profile=2", slurm=slurm)
    assert run.wait() == [0] * processes, run.log()
    steps = range(1, cluster_recipe.STEPS + 1)
    np.testing.assert_allclose([run.losses()[s] for s in steps], [undisturbed.losses()[s] for s in steps], rtol=1e-5)
    assert list((run.directory / "profile").rglob("*.xplane.pb"))
    (start, *_) = goodput.read(run.directory / "goodput.jsonl")
    assert (start["processes"], start["devices"]) == (processes, processes * devices)


def test_a_run_moved_about_sees_every_clip_once_an_epoch_and_learns_the_same(folder, undisturbed):
    run, seen = Run(folder, "moved"), []
    for processes, devices, told, until in ((1, 1, 0, 4), (2, 2, 1, 9), (1, 8, 0, 14), (2, 4, None, None)):
        run.start(processes, devices)
        if until is not None:
            run.wait_until(lambda until=until: len(run.losses()) >= until)
            run.processes[told].send_signal(signal.SIGTERM)
        expected = 0 if until is None else multihost.EXIT_PREEMPTED
        assert run.wait() == [expected] * processes, run.log()
        steps = run.seen(run.starts, processes)
        assert len(seen) + len(steps) == run.saved_steps()[-1]  # all stopped at one step, and it is saved
        seen += steps
    assert len(seen) == cluster_recipe.STEPS
    clips = len(records.open_records(folder / "records/train").entries) * 64 // 4
    epochs = np.concatenate(seen)[: len(seen) * cluster_recipe.BATCH_SIZE // clips * clips].reshape(-1, clips)
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(clips))
    steps = range(1, cluster_recipe.STEPS + 1)
    np.testing.assert_allclose([run.losses()[s] for s in steps], [undisturbed.losses()[s] for s in steps], rtol=1e-4)
    starts = [line for line in goodput.read(run.directory / "goodput.jsonl") if line["event"] == "start"]
    assert [line["lost_steps"] for line in starts] == [0, 0, 0, 0] and starts[1]["down_s"] > 0


def test_a_lost_process_ends_the_others_and_the_run_goes_on_from_the_last_whole_checkpoint(folder, undisturbed):
    run = Run(folder, "lost")
    run.start(2, 2)
    run.wait_until(lambda: len(run.saved_steps()) >= 2)
    run.processes[1].kill()
    clock = time.monotonic()
    codes = run.wait(90)
    assert codes[0] not in (0, multihost.EXIT_PREEMPTED) and time.monotonic() - clock < 60
    assert any(told in run.log() for told in ("another task died", "unhealthy", "Connection reset by peer"))

    newest = run.saved_steps()[-1]
    largest = max(
        (run.directory / "checkpoints" / checkpoints.LATEST / str(newest) / "state").rglob("*"),
        key=lambda path: path.stat().st_size if path.is_file() else 0,
    )
    with largest.open("r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    run.start(2, 2)
    assert run.wait() == [0, 0], run.log()
    assert f"{checkpoints.LATEST}/{newest} cannot be read" in run.log() and "going back to step" in run.log()
    steps = range(1, cluster_recipe.STEPS + 1)
    np.testing.assert_allclose([run.losses()[s] for s in steps], [undisturbed.losses()[s] for s in steps], rtol=1e-5)
