"""The verbs of the label pass as the command calls them. Each returns what to print and the exit code."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence

from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import progress, summary, worker
from epfv2_jax.autolabel import verify as verify_lib
from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.core import bars, compile_cache, exits, files, tasks
from epfv2_jax.data import labels


def plan(out: str, data: str, checkpoint: str, config: PassConfig) -> tuple[str, int]:
    """Plans a pass over the records `data` by the teacher `checkpoint`, to be published in `out`."""
    return summary.of_plan(plan_lib.write_plan(out, plan_lib.make_plan(data, checkpoint, config))), exits.DONE


def run(out: str, data: str, checkpoint: str, engine: tasks.Engine) -> tuple[str, int]:
    """Labels what is not labelled yet of the engine's share; the exit code tells of the whole share."""
    compile_cache.enable()
    planned = plan_lib.read_plan(out)
    units = engine.share(range(planned.num_units))
    todo = _unlabelled(planned, out, units)
    out, data, checkpoint = map(_absolute, (out, data, checkpoint))
    if engine.on_ray or not todo:  # else the worker looks
        plan_lib.check_inputs(planned, data, checkpoint)
    reports = engine.run(functools.partial(worker.Labeller, out, data, checkpoint), todo, tasks_per_call=2)
    frames = planned.units[:, 2].tolist()
    total, left = (sum(frames[unit] for unit in some) for some in (units, todo))
    with bars.bar(total=total, initial=total - left, unit="frame", smoothing=0.05) as bar:
        bad_rows = 0
        for report in reports:
            bad_rows += sum(report.counts[1:])
            bar.update(report.num_frames)
            bar.set_postfix({"bad rows": bad_rows}, refresh=False)
    counts = progress.counts(out, planned, units)
    return f"labelled {sum(counts)} frames: {summary.of_counts(counts)}", _code(counts)


def status(out: str) -> tuple[str, int]:
    """Looks how far a pass is."""
    return summary.of_status(progress.status(out)), exits.DONE


def verify(out: str, data: str, parquet: str | None) -> tuple[str, int]:
    """Checks all that a pass published; what to print names every error."""
    with bars.bar(unit="unit") as bar:
        found = verify_lib.verify(out, data, parquet, progress=lambda done: bar.update(done - bar.n))
    return summary.of_report(found), exits.ERROR if found.errors else _code(found.counts)


#: By the name that the command line gives.
VERBS: Mapping[str, Callable[..., tuple[str, int]]] = {"plan": plan, "run": run, "status": status, "verify": verify}


def _code(counts: Sequence[int]) -> int:
    return exits.PARTIAL if any(counts[1:]) else exits.DONE


def _unlabelled(planned: plan_lib.Plan, out: str, units: Sequence[int]) -> list[int]:
    done = labels.published_units(out, planned.num_units)
    return [unit for unit in units if unit not in done]


def _absolute(path: str) -> str:
    """Workers on Ray may have another working directory."""
    return path if files.is_remote(path) else os.path.abspath(path)
