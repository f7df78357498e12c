"""Extrapolates what a label pass over tens of millions of frames takes, from measurements of one frame.

Command:  taskset -c 0 python benchmarks/label_arithmetic.py --data DIR [--frames 70e6] [--unit_frames 8192]

Measured, as CPU time so that other load on the machine matters little: what a host does for a frame of the records DIR
(one split), that is read, check, unpack, decode and batch it; write, read back and check a row of labels; and decoding
alone. Counted: bytes of a frame in DIR; frames read and computed for each published frame (warm-up and idle slots), for
sequences of 200 to 2,400 frames; FLOPs of the teachers in convolutions and matrix products, traced at the size of the
images. Cited: peaks of the chips (epfv2_jax/profiling/cost.py). Assumed, because it has not been measured: the share of
the peak that a teacher reaches (--utilisation).
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import dataclasses
import functools
import hashlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import encoders
import jax
import label_pass
import numpy as np

from epfv2_jax import structs
from epfv2_jax.autolabel import cutting, worker
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.data import labels, records
from epfv2_jax.models import base
from epfv2_jax.profiling import cost

TEACHERS = ("dinov3_vitb16", "dinov3_vitl16")
CHIPS = ("v5e", "v5p", "v6e")
SEQUENCE_FRAMES = (200, 2400)  # shortest and longest; assumed


def cpu_seconds(call: Callable[[], None], repeats: int = 15) -> float:
    """Returns the median of the CPU time of calls, the first left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def make_plan(folder: pathlib.Path, data: records.Records, config: plan_lib.PassConfig) -> plan_lib.Plan:
    """Returns the plan to label `data`, written below `folder`. Its teacher is tiny: reading does not depend on it."""
    label_pass.write_teacher(folder / "teacher", "small", data.image_size_hw[0])
    return plan_lib.write_plan(folder / "out", plan_lib.make_plan(data.directory, folder / "teacher", config))


def reading_seconds(folder: pathlib.Path, data: records.Records, plan: plan_lib.Plan) -> float:
    """Returns the CPU time for each frame from the disk to a batch that the teacher takes."""
    labeller = worker.Labeller(folder / "out", data.directory, folder / "teacher")

    def read() -> None:
        for _ in labeller.batches(range(plan.num_units)):
            pass

    def check() -> None:  # a labeller does it once
        for shard in data.manifest.shards:
            with open(data.directory / shard.file, "rb") as file:
                hashlib.file_digest(file, "sha256")

    return (cpu_seconds(read) + cpu_seconds(check)) / data.num_frames


def writing_seconds(folder: pathlib.Path, unit_frames: int, num_joints: int) -> tuple[float, float]:
    """Returns (CPU time, bytes) for each row of labels."""
    n, rng = label_pass.RECORD_FRAMES, np.random.default_rng(0)
    rows = {name: rng.normal(size=shape).astype(np.float32) for name, shape in labels.row_shapes(num_joints, n).items()}
    run = labels.LabelRun(
        plan_sha256="0" * 64,
        teacher_sha256="0" * 64,
        record=0,
        sequence="0",
        split="train",
        frame_index=np.arange(n, dtype=np.int32),
        status=np.zeros(n, np.uint8),
        **rows,
    )
    runs, path = [run] * (unit_frames // n), folder / "a.arrayrecord"
    seconds = cpu_seconds(lambda: labels.write_unit(path, 0, runs, ()))
    return seconds / (n * len(runs)), path.stat().st_size / (n * len(runs))


def overhead(plan: plan_lib.Plan) -> tuple[float, float]:
    """Returns (frames read, frames in the teacher's batches) for each published frame of a plan of long data.

    Warm-up frames are read and computed more than once; idle slots are computed too.
    """
    n, entries = label_pass.RECORD_FRAMES, []
    for i, length in enumerate(np.random.default_rng(0).integers(*SEQUENCE_FRAMES, 500).tolist()):
        entries += [
            records.RecordEntry(sequence=f"{i:05d}", first_frame=first, num_frames=min(n, length - first))
            for first in range(0, length, n)
        ]
    units, streams = cutting.cut(entries, label_pass.build("small").history, plan.config)
    plan = dataclasses.replace(plan, units=units, streams=streams)
    batches = [batch for i in range(plan.num_units) for batch in cutting.schedule(plan.unit(i), entries, plan.config)]
    read = sum(chunk.stop - chunk.start for batch in batches for chunk in batch if chunk is not None)
    return read / units[:, 2].sum(), len(batches) * plan.config.slots * plan.config.chunk_frames / units[:, 2].sum()


def teacher_flops(encoder: str, size_hw: tuple[int, int], chunk_frames: int) -> float:
    """Returns the FLOPs for each frame of all views."""
    model = label_pass.build(encoder)
    frames = structs.blank_frames(1, chunk_frames, model.layout.num_views, size_hw)
    step = functools.partial(model.apply, method="step")
    traced = jax.make_jaxpr(step)(base.abstract_variables(model, frames), frames, model.initial_state(1))
    return encoders.count_flops(traced.jaxpr) / chunk_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory of records, one split")
    parser.add_argument("--frames", type=float, default=70e6)
    parser.add_argument("--unit_frames", type=int, default=plan_lib.PassConfig().unit_frames)
    parser.add_argument("--utilisation", type=float, nargs="+", default=[0.3, 0.5])
    args = parser.parse_args()

    config = plan_lib.PassConfig(unit_frames=args.unit_frames)
    data = records.open_records(args.data)
    run, size_hw, views = data[0], data.image_size_hw, data.num_views
    frame_bytes = sum(shard.num_bytes for shard in data.manifest.shards) / data.num_frames
    decoding = cpu_seconds(lambda: records.decode_images(run)) / run.view_valid.sum()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plan = make_plan(folder, data, config)
        reading = reading_seconds(folder, data, plan)
        writing, row_bytes = writing_seconds(folder, config.unit_frames, data.skeleton.num_joints)
        read, computed = overhead(plan)
    print(f"one frame, {views} views of {size_hw[0]}x{size_hw[1]}:")
    print(f"  {frame_bytes / 1e3:.1f} kB in the records, {row_bytes:.0f} bytes of labels")
    print(f"  {1e3 * reading:.3f} ms of a core to read, of which {1e3 * views * decoding:.3f} ms to decode the images")
    print(f"    ({1 / decoding:.0f} images/s), and {1e3 * writing:.4f} ms to write")
    print(f"  for each published {read:.3f} are read and {computed:.3f} computed")
    host = read * reading + writing
    print(f"{args.frames:.3g} frames:")
    print(f"  records {args.frames * frame_bytes / 1e12:.2f} TB, labels {args.frames * row_bytes / 1e9:.0f} GB")
    print(f"  {args.frames / config.unit_frames:.0f} units of {config.unit_frames} frames")
    hours = [args.frames * seconds / 3600 for seconds in (host, read * views * decoding)]
    print(f"  {hours[0]:.1f} core hours on the hosts, of which {hours[1]:.1f} to decode")
    shares = " to ".join(f"{share:.0%}" for share in args.utilisation)
    print(f"each chip, at {shares} of its peak:")
    print("| teacher | GFLOP a frame | chip | frames/s | chip hours | seconds a unit | host cores | read, MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for teacher in TEACHERS:
        flops = computed * teacher_flops(teacher, size_hw, config.chunk_frames)
        for chip in CHIPS:
            fps = np.array(args.utilisation) * cost.CHIPS[chip].peak_bf16_flops / flops
            columns = (
                (fps, 0),
                (args.frames / fps / 3600, 0),
                (config.unit_frames / fps, 0),
                (fps * host, 2),
                (fps * read * frame_bytes / 1e6, 0),
            )
            cells = [" to ".join(f"{value:.{digits}f}" for value in values) for values, digits in columns]
            print("|", " | ".join([teacher, f"{flops / 1e9:.0f}", chip, *cells]), "|")


if __name__ == "__main__":
    main()
