"""Labels a directory of records (one split) by a trained model: plan, run, status, verify.

  python -m epfv2_jax.pseudo_label plan   --records DIR --teacher CHECKPOINTS --out DIR
  python -m epfv2_jax.pseudo_label run    --records DIR --teacher CHECKPOINTS --out DIR [--engine local|index|ray]
  python -m epfv2_jax.pseudo_label status --out DIR
  python -m epfv2_jax.pseudo_label verify --records DIR --out DIR [--parquet DIR]

`run` labels what is not labelled yet; kill it when you like and run it again. Each frame is labelled, or quarantined
with a reason. Exit codes of run (for its share, whoever labelled it) and verify (for the whole pass): 0 all rows ok,
3 complete but some rows are quarantined, 1 an error, 2 wrong arguments.

Engines: `local` is this process. `index` is unit i, i + n, ... of process i of n: --index and --count, or from the
environment of a SLURM array, or of an indexed Kubernetes Job or JobSet (JOB_COMPLETION_INDEX; its completions are
--count). `ray` is one actor for each --actor of the cluster at --address, say --actor GPU=1 or --actor TPU=4.

A process uses all devices that it sees and talks to no other. On a slice of a TPU pod the runtime by default joins the
hosts and waits for all of them. With these variables, set before start, each host of four chips is on its own:
  TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_CHIPS=0,1,2,3 CLOUD_TPU_TASK_ID=0
and for one process a chip: TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=1,1,1 TPU_VISIBLE_CHIPS=i. Older
runtimes call the third TPU_VISIBLE_DEVICES. For one process a GPU: CUDA_VISIBLE_DEVICES=i. (Not yet run by us on TPUs.)
"""

import argparse
import functools
import os
import sys
from collections.abc import Sequence

import numpy as np
import tqdm

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import verify as verify_lib
from epfv2_jax.autolabel import worker
from epfv2_jax.core import compile_cache, tasks
from epfv2_jax.data.labels import labels
from epfv2_jax.geometry import skeleton

EXIT_OK, EXIT_ERROR, EXIT_BAD_ROWS = 0, 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:  # the last: Ray, pyarrow, or what a gs:// path needs
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR


def _plan(args: argparse.Namespace) -> int:
    config = plan_lib.PassConfig(unit_frames=args.unit_frames, slots=args.slots, chunk_frames=args.chunk_frames)
    plan = plan_lib.write_plan(args.out, plan_lib.make_plan(args.records, args.teacher, config))
    print(
        f"{plan.records.num_frames} frames in {plan.num_units} units and {len(plan.streams)} streams; teacher "
        f"{plan.teacher.sha256[:12]}, plan {plan.sha256[:12]}"
    )
    return EXIT_OK


def _run(args: argparse.Namespace) -> int:
    compile_cache.enable()
    plan = plan_lib.read_plan(args.out)
    engine = tasks.from_arguments(args)
    units = engine.share(range(plan.num_units))
    done = labels.published_units(args.out, plan.num_units)
    todo = [unit for unit in units if unit not in done]
    # Workers on Ray may have another working directory.
    paths = [path if plan_lib.is_remote(path) else os.path.abspath(path) for path in (args.records, args.teacher)]
    out = args.out if plan_lib.is_remote(args.out) else os.path.abspath(args.out)
    if engine.on_ray or not todo:  # else the worker looks
        worker.check_records(plan, paths[0])
        worker.load_teacher(plan, paths[1])
    reports = engine.run(functools.partial(worker.Labeller, out, *paths), todo, tasks_per_call=2)
    frames = plan.units[:, 2].tolist()
    total = sum(frames[unit] for unit in units)
    with tqdm.tqdm(
        total=total, initial=total - sum(frames[unit] for unit in todo), unit="frame", smoothing=0.05
    ) as bar:
        bad_rows = 0
        for report in reports:
            bad_rows += sum(report.counts[1:])
            bar.update(report.num_frames)
            bar.set_postfix({"bad rows": bad_rows})
    counts = verify_lib.counts(out, units)
    print(f"labelled {sum(counts)} frames: {_counts(counts)}")
    return EXIT_BAD_ROWS if any(counts[1:]) else EXIT_OK


def _status(args: argparse.Namespace) -> int:
    found = verify_lib.status(args.out)
    print(f"{found.frames_done} of {found.frames} frames, {found.units_done} of {found.units} units")
    if found.units_done:
        print(_counts(found.counts))
    for w in found.workers:
        print(f"{w.worker}: {w.frames} frames, {w.frames_per_s:.1f} frames/s, published {w.idle_s:.0f} s ago")
    if found.frames_done < found.frames:
        print(
            "no worker has published lately"
            if found.seconds_left is None
            else f"time left: {found.seconds_left / 60:.1f} min"
        )
    return EXIT_OK


def _verify(args: argparse.Namespace) -> int:
    with tqdm.tqdm(unit="unit") as bar:
        found = verify_lib.verify(args.out, args.records, args.parquet, progress=lambda done: bar.update(done - bar.n))
    print(f"{found.frames} frames in {found.units} units: {_counts(found.counts)}")
    if np.ndim(found.mean_m) == 2:
        print("joint (headset frame, cm)    mean x      y      z   std x      y      z   sigma")
        names = skeleton.JOINT_NAMES if len(found.mean_m) == skeleton.NUM_JOINTS else range(len(found.mean_m))
        for name, mean, std, sigma in zip(names, found.mean_m, found.std_m, found.sigma_m, strict=True):
            values = " ".join(f"{100 * x:6.1f}" for x in (*mean, *std, sigma))
            print(f"{name!s:28s} {values}")
    for error in found.errors:
        print(f"error: {error}", file=sys.stderr)
    if found.errors:
        return EXIT_ERROR
    return EXIT_BAD_ROWS if any(found.counts[1:]) else EXIT_OK


def _counts(counts: Sequence[int]) -> str:
    return ", ".join(f"{status.name.lower()} {count}" for status, count in zip(labels.Status, counts, strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m epfv2_jax.pseudo_label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(required=True, metavar="plan|run|status|verify")

    def add(name: str, run, *inputs: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, allow_abbrev=False)
        verb.set_defaults(run=run)
        verb.add_argument("--out", required=True, help="directory of the pass; for run also gs:// or s3://")
        if "records" in inputs:
            verb.add_argument("--records", required=True, help="directory of records, one split")
        if "teacher" in inputs:
            verb.add_argument("--teacher", required=True, help="directory that training wrote its checkpoints to")
        return verb

    config = plan_lib.PassConfig()
    verb = add("plan", _plan, "records", "teacher")
    verb.add_argument("--unit_frames", type=int, default=config.unit_frames, help="frames published in one piece")
    verb.add_argument("--slots", type=int, default=config.slots, help="streams side by side, a multiple of the devices")
    verb.add_argument("--chunk_frames", type=int, default=config.chunk_frames, help="frames of a stream in a batch")
    verb = add("run", _run, "records", "teacher")
    tasks.add_arguments(verb)
    add("status", _status)
    verb = add("verify", _verify, "records")
    verb.add_argument("--parquet", help="directory to which the labels are written as Parquet as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
