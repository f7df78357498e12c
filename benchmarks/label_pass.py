"""Measures a label pass: its overhead over the bare teacher, scaling with processes, restarts, memory and planning.

Command:  python benchmarks/label_pass.py [teacher] [scaling] [restart] [memory] [planning] [--repeats 5] [--size 128]

teacher   frames/s of the pass (read, decode, label, write, publish) against the bare compiled teacher on the same
          batches, decoded beforehand; calls alternate, the ratio is the median of the ratios of neighbours.
scaling   frames/s of two processes, each pinned to its own core, against one on one core; each labels its own units,
          and all start labelling at the same moment, compiled and warm. Alternating, median.
restart   seconds from the start of a process until it has published a new unit, with none and with nearly all done.
memory    resident memory of a process after 10 and after 1,000 units of 4 frames.
planning  seconds to cut and write a plan of 100,000 units.

Without a name, runs all of them. Random images in JPEG; a teacher with random weights.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from epfv2_jax import models, structs
from epfv2_jax.autolabel import cutting, worker
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.checkpoints import About, CheckpointWriter
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import files
from epfv2_jax.data import images, labels, records, rig
from epfv2_jax.data.labels import RecordsIdentity, TeacherIdentity
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.base import PoseModel
from epfv2_jax.models.epfv2.model import EPFv2Config

RECORD_FRAMES = 64


def record_spec(size: int) -> records.RecordSpec:
    """Returns what the manifest says of records with square images."""
    return records.RecordSpec(
        image_size_hw=(size, size),
        camera_model="fisheye",
        frame_s=1 / 30,
        skeleton=skeleton.EGOBODY3M,
        layout=layout.EGOBODY3M,
    )


def write_records(folder: pathlib.Path, size: int, num_records: int, record_frames: int) -> None:
    """Writes records of one sequence each, all with the same noise that JPEG can compress."""
    rng = np.random.default_rng(0)
    rig_ = jax.tree.map(np.asarray, rig.upright(rig.default_rig(), layout.EGOBODY3M, (size, size)))
    coarse = rng.integers(0, 255, (8, 16, 16), np.uint8)
    jpegs = [images.encode_grey(images.resize(image, (size, size))) for image in coarse]
    run = records.FrameRun(
        sequence="",
        split="train",
        frame_index=np.arange(record_frames, dtype=np.int32),
        time_s=np.arange(record_frames) / 30,
        jpegs=tuple(tuple(jpegs[(i + v) % 8] for v in range(4)) for i in range(record_frames)),
        T_world_headset=np.tile(np.eye(4, dtype=np.float32), (record_frames, 1, 1)),
        joints_world_m=np.zeros((record_frames, skeleton.EGOBODY3M.num_joints, 3), np.float32),
        joint_valid=np.zeros((record_frames, skeleton.EGOBODY3M.num_joints), bool),
        view_valid=np.ones((record_frames, 4), bool),
        rig=rig_,
    )
    runs = (dataclasses.replace(run, sequence=f"{i:05d}") for i in range(num_records))
    shard = records.write_shard(folder / "a.arrayrecord", runs)
    manifest = records.Manifest(split="train", spec=record_spec(size), shards=(shard,))
    records.write_manifest(folder, manifest)


def build(encoder: str) -> PoseModel:
    """Returns the teacher with an encoder."""
    return models.build(EPFv2Config(encoder=encoder), skeleton.EGOBODY3M, layout.EGOBODY3M)


def write_teacher(folder: pathlib.Path, encoder: str, size: int) -> None:
    """Writes a checkpoint of a model with random weights."""
    model = build(encoder)
    variables = jax.jit(model.init)(jax.random.key(0), structs.blank_frames(1, 1, 4, (size, size)))
    about = About(
        experiment={"model": config_lib.to_mapping(model.config)},
        skeleton=model.skeleton,
        layout=model.layout,
        image_size_hw=(size, size),
    )
    with contextlib.closing(CheckpointWriter(folder, about)) as writer:
        writer.save(1, {"step": np.zeros(())}, variables, {})


def make_pass(folder: pathlib.Path, args: argparse.Namespace, units: int, unit_frames: int, slots: int) -> list[str]:
    """Returns [out, records, teacher] of a planned pass below `folder`."""
    out, source, teacher = folder / "out", folder / "records", folder / "teacher"
    record_frames = min(RECORD_FRAMES, unit_frames)
    source.mkdir(parents=True)
    size, encoder = (16, "small") if unit_frames < RECORD_FRAMES else (args.size, args.encoder)
    write_records(source, size, units * unit_frames // record_frames, record_frames)
    write_teacher(teacher, encoder, size)
    config = plan_lib.PassConfig(unit_frames=unit_frames, slots=slots, chunk_frames=min(16, record_frames))
    plan_lib.write_plan(out, plan_lib.make_plan(source, teacher, config))
    return [str(out), str(source), str(teacher)]


def forget(out: str) -> None:
    """Makes a pass one of which nothing is done."""
    for path in (pathlib.Path(out) / labels.UNIT_FOLDER).iterdir():
        path.unlink()


def measure_teacher(
    folder: pathlib.Path, encoder: str, size: int, *, units: int, unit_frames: int, slots: int, repeats: int
) -> tuple[float, float, float]:
    """Returns frames/s of the pass and of the bare teacher, and the ratio of the two (medians)."""
    sizes = argparse.Namespace(encoder=encoder, size=size)
    out, *inputs = make_pass(folder, sizes, units=units, unit_frames=unit_frames, slots=slots)
    labeller = worker.Labeller(out, *inputs)
    order = range(labeller.plan.num_units)
    batches = list(labeller.batches(order))

    def bare() -> None:
        state = labeller.initial_state()
        for frames, restart in batches:
            rows, state = labeller.step(labeller.variables, labeller.put(frames), state, labeller.put(restart))
        jax.block_until_ready(rows)

    def whole() -> None:
        forget(out)
        assert all(report.published for report in labeller(order))

    times = np.zeros((repeats, 2))
    for i in range(-1, repeats):
        for n, call in enumerate((whole, bare)):
            start = time.perf_counter()
            call()
            if i >= 0:
                times[i, n] = time.perf_counter() - start
    pass_fps, bare_fps = labeller.plan.records.num_frames / np.median(times, axis=0)
    return float(pass_fps), float(bare_fps), float(np.median(times[:, 1] / times[:, 0]))


def bench_teacher(folder: pathlib.Path, args: argparse.Namespace) -> None:
    sizes = {"units": 2, "unit_frames": 256, "slots": 4, "repeats": args.repeats}
    pass_fps, bare_fps, ratio = measure_teacher(folder, args.encoder, args.size, **sizes)
    print(f"teacher: {args.encoder}, {args.size}x{args.size}, 512 frames x 4 views, cores {len(cores())}")
    print(f"  pass {pass_fps:.1f} frames/s, bare {bare_fps:.1f} frames/s")
    print(f"  ratio {ratio:.3f}")


def cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def start_worker(core: int, units: range, inputs: list[str], signals: pathlib.Path) -> subprocess.Popen:
    """Returns a process on one core that labels `units` when told to."""
    argument = json.dumps({"core": core, "units": list(units), "inputs": inputs, "signals": str(signals)})
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(signals.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    command = [sys.executable, __file__, "--worker", argument]
    return subprocess.Popen(command, env={**os.environ, **cache}, stdout=subprocess.PIPE, text=True)


def worker_main(argument: str) -> None:
    """Labels units at the moment when the file `go` appears, and prints the seconds."""
    order = json.loads(argument)
    os.sched_setaffinity(0, {order["core"]})
    labeller = worker.Labeller(*order["inputs"])
    signals = pathlib.Path(order["signals"])
    frames, restart = next(labeller.batches(order["units"]))
    rows, _ = labeller.step(labeller.variables, frames, labeller.initial_state(), restart)
    jax.block_until_ready(rows)
    (signals / f"ready-{os.getpid()}").touch()
    while not (signals / "go").exists():
        time.sleep(0.005)
    start = time.perf_counter()
    frames = sum(report.num_frames for report in labeller(order["units"]))
    print(json.dumps({"seconds": time.perf_counter() - start, "frames": frames}))


def bench_scaling(folder: pathlib.Path, args: argparse.Namespace) -> None:
    per_process, rates = 2, {1: [], 2: []}
    inputs = make_pass(folder, args, units=2 * per_process, unit_frames=128, slots=2)
    for i in range(args.repeats):
        for count in (1, 2):
            if (pathlib.Path(inputs[0]) / labels.UNIT_FOLDER).exists():
                forget(inputs[0])
            signals = folder / f"signals-{i}-{count}"
            signals.mkdir()
            shares = [range(p, 2 * per_process, 2) for p in range(count)]
            pinned = [start_worker(cores()[p], share, inputs, signals) for p, share in enumerate(shares)]
            while len(list(signals.iterdir())) < count and all(p.poll() is None for p in pinned):
                time.sleep(0.01)
            (signals / "go").touch()
            results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in pinned]
            rates[count].append(sum(r["frames"] for r in results) / max(r["seconds"] for r in results))
    print(
        f"scaling: one process on one core {np.median(rates[1]):.1f} frames/s, two {np.median(rates[2]):.1f} frames/s"
    )
    print(f"  ratio {np.median(np.array(rates[2]) / np.array(rates[1])):.2f}")


def bench_restart(folder: pathlib.Path, args: argparse.Namespace) -> None:
    out, *inputs = make_pass(folder, args, units=1000, unit_frames=4, slots=1)
    names = ("--out", "--data", "--checkpoint")
    command = [sys.executable, "-m", "epfv2_jax.pseudo_label", "run"]
    command += [text for pair in zip(names, (out, *inputs), strict=True) for text in pair]
    subprocess.run(command, check=True, capture_output=True)
    finished = shutil.copytree(out, folder / "finished")
    for done in (0, 990) * args.repeats:
        forget(out)
        published = pathlib.Path(out) / labels.UNIT_FOLDER
        for unit in range(done):
            shutil.copy(finished / labels.UNIT_FOLDER / labels.unit_file(unit), published)
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (published / labels.unit_file(done)).exists() and process.poll() is None:
            time.sleep(0.01)
        print(f"restart: {time.perf_counter() - start:.1f} s until unit {done} is published, {done} of 1000 being done")
        process.kill()
        process.wait()


def bench_memory(folder: pathlib.Path, args: argparse.Namespace) -> None:
    inputs = make_pass(folder, args, units=1000, unit_frames=4, slots=1)
    labeller = worker.Labeller(*inputs)
    sizes_mib = {report.unit: resident_mib() for report in labeller(range(1000))}
    print(f"memory: {sizes_mib[9]:.1f} MiB after 10 units, {sizes_mib[999]:.1f} MiB after 1000")


def resident_mib() -> float:
    """Returns the memory of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def bench_planning(folder: pathlib.Path, args: argparse.Namespace) -> None:
    shard = records.Shard(
        file="a.arrayrecord",
        num_bytes=0,
        sha256="",
        records=tuple(
            records.RecordEntry(sequence=f"{s:05d}", first_frame=64 * i, num_frames=64)
            for s in range(5000)
            for i in range(20)
        ),
    )
    manifest = records.Manifest(split="train", spec=record_spec(64), shards=(shard,))
    records.write_manifest(folder, manifest)
    start = time.perf_counter()
    entries = records.read_manifest(folder).shards[0].records
    config = plan_lib.PassConfig(unit_frames=64, slots=1)
    units, streams = cutting.cut(entries, build("small").history, config)
    identity = RecordsIdentity(
        manifest_sha256=files.sha256(folder / records.MANIFEST_NAME),
        split="train",
        num_records=len(entries),
        num_frames=64 * len(entries),
        spec=record_spec(64),
        shards=(),
    )
    teacher = TeacherIdentity(sha256="", step=0, model={}, with_uncertainty=True)
    plan = plan_lib.Plan(
        package_version="", records=identity, teacher=teacher, config=config, units=units, streams=streams
    )
    plan_lib.write_plan(folder / "out", plan)
    seconds = time.perf_counter() - start
    num_bytes = (folder / "out" / labels.PLAN_NAME).stat().st_size
    start = time.perf_counter()
    plan_lib.read_plan(folder / "out")
    print(
        f"planning: {plan.num_units} units in {seconds:.1f} s, {num_bytes / 1e6:.1f} MB, read again in "
        f"{time.perf_counter() - start:.1f} s"
    )


BENCHMARKS = {
    "teacher": bench_teacher,
    "scaling": bench_scaling,
    "restart": bench_restart,
    "memory": bench_memory,
    "planning": bench_planning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], default=[])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker_main(args.worker)
    for name in args.names or BENCHMARKS:
        with tempfile.TemporaryDirectory() as folder:
            BENCHMARKS[name](pathlib.Path(folder), args)


if __name__ == "__main__":
    main()
