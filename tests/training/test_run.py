"""A run: what it saves, scores and logs and when, what it skips, and when it stops."""

import contextlib
import dataclasses
import json
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tqdm
from flax import struct

from epfv2_jax.core import multihost, sharding
from epfv2_jax.profiling import goodput
from epfv2_jax.training import hooks, run
from epfv2_jax.training.hooks import LoopConfig, Moment
from epfv2_jax.training.log import RunLog


class CountingState(struct.PyTreeNode):
    """The fields of a training state that the loop reads."""

    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    ema_params: jax.Array
    batch_stats: jax.Array


class FakeBatch(struct.PyTreeNode):
    clip_id: np.ndarray


class RecordingCheckpoints:
    """Stands for `CheckpointWriter`: remembers what the loop asked to save."""

    def __init__(self):
        self.saved, self.best = [], []

    def save(self, step, state, variables, position):
        self.saved.append((step, position))

    def wait(self):
        pass

    def save_if_best(self, step, variables, value, metrics):
        self.best.append((step, value))


class Uncompiled:
    """Stands for a jitted function: lowers and compiles to a Python one."""

    def __init__(self, function):
        self.function = function

    def lower(self, *args):
        return self

    def compile(self, compiler_options=None):
        return self.function


def run_loop(
    tmp_path,
    bad_steps=(),
    steps=10,
    start=0,
    stop_after=lambda step: False,
    counts=2.0,
    more_hooks=(),
    label=lambda batch: batch,
    **config,
):
    def step_fn(state, batch, key):
        step = int(state.step) + 1
        finite = step not in bad_steps
        state = state.replace(
            step=jnp.asarray(step),
            skipped=state.skipped + (not finite),
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        return state, {
            "loss": jnp.asarray(1.0 if finite else jnp.nan),
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
            "x": (jnp.asarray(2.0 * step), jnp.asarray(counts)),
        }

    seen = []

    def batches():
        for step in range(start, 10**6):
            seen.append(step)
            yield FakeBatch(np.full(8, step))

    zero = jnp.zeros((), jnp.int32)
    checkpoints, cadences = RecordingCheckpoints(), LoopConfig(**config)
    book = goodput.Goodput(tmp_path, start, time.perf_counter())
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(RunLog(tmp_path, start)))
        bar = stack.enter_context(tqdm.tqdm(total=steps, disable=True))
        for hook in more_hooks:
            if hasattr(hook, "close"):
                stack.enter_context(contextlib.closing(hook))

        def score(variables):
            return {"mpjpe_cm": 3.0, "mpjve_cm": 1.0}

        ready = run.Run(
            steps=steps,
            state=CountingState(jnp.asarray(start), zero, zero, zero, zero),
            step_fn=Uncompiled(step_fn),
            key=jax.random.key(0),
            mesh=sharding.make_mesh(sharding.MeshConfig()),
            stream=run.Stream(batches=batches(), label=label, describe_clip="clip {}".format),
            hooks=(
                hooks.Log(cadences.log_every, log, bar, lambda update: 0.5**update),
                hooks.Evaluate(cadences.evaluate_every, score, checkpoints, log, bar, book),
                hooks.Save(cadences.checkpoint_every, checkpoints, book),
                *more_hooks,
            ),
            log=log,
            bar=bar,
            goodput=book,
            stop_after=stop_after,
            loop=cadences,
            resources=stack.pop_all(),
        )
    with ready:
        state = run.fit(ready)
    return types.SimpleNamespace(state=state, checkpoints=checkpoints, batches=seen)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_cadences_and_the_last_step(tmp_path):
    result = run_loop(tmp_path, log_every=4, evaluate_every=5, checkpoint_every=3)
    assert [s for s, _ in result.checkpoints.saved] == [3, 6, 9, 10]
    assert all(position == {"next_step": s} for s, position in result.checkpoints.saved)
    assert [s for s, _ in result.checkpoints.best] == [5, 10]
    assert [m["step"] for m in lines(tmp_path / "metrics.jsonl") if "loss" in m] == [4, 8, 10]


def test_each_step_takes_one_batch_and_a_resumed_run_takes_the_next(tmp_path):
    assert run_loop(tmp_path, steps=6).batches == [0, 1, 2, 3, 4, 5]
    assert run_loop(tmp_path, start=4, steps=6).batches == [4, 5]


def test_batches_are_labelled_in_turn_in_another_thread(tmp_path):
    """What one thread dispatches to a CPU runs in turn: from the loop's, a batch would be rendered after the step."""
    labelled = []

    def label(batch):
        labelled.append((int(batch.clip_id[0]), threading.get_ident()))
        return batch

    run_loop(tmp_path, steps=5, label=label)
    steps, threads = zip(*labelled, strict=True)
    assert steps == (0, 1, 2, 3, 4)
    assert len(set(threads)) == 1 and threading.get_ident() not in threads


def test_an_error_in_a_label_ends_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_loop(tmp_path, label=lambda batch: 1 // 0)


def test_terms_are_averaged_by_their_counts(tmp_path):
    run_loop(tmp_path, steps=4, log_every=4)
    (line,) = (m for m in lines(tmp_path / "metrics.jsonl") if "loss" in m)
    assert line["x"] == pytest.approx((2 + 4 + 6 + 8) / 8)


def test_skipped_steps_are_counted_and_their_clips_written_down(tmp_path):
    result = run_loop(tmp_path, bad_steps=(3, 7), log_every=10)
    assert int(result.state.skipped) == 2
    written = lines(tmp_path / "skipped.jsonl")
    assert [m["step"] for m in written] == [3, 7]
    assert written[0]["clips"] == ["clip 2"] * 8
    (line,) = (m for m in lines(tmp_path / "metrics.jsonl") if "loss" in m)
    assert line["loss"] == 1.0 and line["skipped"] == 2  # the mean is over the finite steps
    assert line["learning_rate"] == 0.5**7, "the rate of the last of 8 updates: skipped steps are none"


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(run.NonFiniteError, match=r"step 5: 3 steps in a row .*max_skipped_in_a_row = 2.*skipped.jsonl"):
        run_loop(tmp_path, bad_steps=(3, 4, 5, 6), max_skipped_in_a_row=2)
    run_loop(tmp_path, bad_steps=(2, 3, 5, 6), max_skipped_in_a_row=2)  # not in a row


def test_told_to_stop_it_saves_that_step_and_stops(tmp_path):
    with pytest.raises(multihost.Preempted, match="after step 7 of 10 is saved"):
        run_loop(tmp_path, stop_after=lambda step: step == 7, log_every=4, evaluate_every=7)
    assert goodput.read(tmp_path / "goodput.jsonl")[-1]["step"] == 7
    assert [m["step"] for m in lines(tmp_path / "metrics.jsonl")] == [4]  # time is short: no evaluation


def test_told_to_stop_after_the_last_step_it_just_ends(tmp_path):
    result = run_loop(tmp_path, stop_after=lambda step: step == 10)
    assert int(result.state.step) == 10 and result.checkpoints.saved[-1][0] == 10


BAD_OPTIONS = ({"compiler_options": ("fast",)}, {"compiler_options": ("--xla_cpu_use_onednn=true",)})


@pytest.mark.parametrize("bad", [{"log_every": 0}, {"checkpoint_every": -1}, {"max_skipped_in_a_row": 0}, *BAD_OPTIONS])
def test_bad_cadences_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LoopConfig(**bad)


def test_batches_in_which_no_joint_is_valid_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"no joint of the 5 batches before step 5 .*check joint_valid"):
        run_loop(tmp_path, counts=0.0, log_every=5)
    assert not (tmp_path / "metrics.jsonl").exists(), "what was not counted has no mean"


class Noting:
    """A hook that notes the steps after which it is called, and what it was given."""

    def __init__(self, due):
        self.due, self.calls = due, []

    def __call__(self, moment, state, metrics):
        self.calls.append((moment, int(state.step), len(metrics._values)))


def test_a_hook_is_called_when_it_is_due_with_all_that_was_measured(tmp_path):
    even, never = Noting(lambda moment: moment.step % 2 == 0), Noting(lambda moment: False)
    run_loop(tmp_path, start=3, steps=9, log_every=100, more_hooks=(even, never))
    assert [moment.step for moment, _, _ in even.calls] == [4, 6, 8]
    assert [step for _, step, _ in even.calls] == [4, 6, 8], "the state is that after the step"
    assert [n for _, _, n in even.calls] == [1, 3, 5], "all steps since the last log line have been fetched"
    assert all((m.start, m.last, m.stopping) == (3, 9, False) for m, _, _ in even.calls)
    assert never.calls == []


def moment(step, stopping=False):
    return Moment(step=step, start=4, last=20, stopping=stopping)


@pytest.mark.parametrize(
    ("hook", "due"),
    [
        (hooks.Log(6, None, None, None), [6, 12, 18, 20]),
        (hooks.Evaluate(8, None, None, None, None, None), [8, 16, 20]),
        (hooks.Evaluate(0, None, None, None, None, None), [20]),
        (hooks.Save(5, None, None), [5, 10, 15, 20]),
        (hooks.Save(0, None, None), [20]),
        (hooks.Profile(3, None), [6, 9]),
        (hooks.Profile(0, None), []),
    ],
)
def test_hooks_are_due_at_their_cadence_and_after_the_last_step(hook, due):
    assert [step for step in range(5, 21) if hook.due(moment(step))] == due


def test_a_run_that_is_told_to_stop_saves_and_does_not_evaluate():
    assert hooks.Save(0, None, None).due(moment(7, stopping=True))
    assert not hooks.Evaluate(7, None, None, None, None, None).due(moment(7, stopping=True))
    assert not hooks.Log(3, None, None, None).due(moment(7, stopping=True))


def test_a_trace_holds_the_steps_it_was_asked_for(tmp_path, monkeypatch):
    traced = []

    @contextlib.contextmanager
    def trace(directory):
        traced.append(("begin", directory))
        yield
        traced.append(("end", directory))

    monkeypatch.setattr(hooks.jax.profiler, "trace", trace)
    run_loop(tmp_path, steps=7, more_hooks=(hooks.Profile(3, tmp_path / "profile"),))
    whole = [("begin", str(tmp_path / "profile")), ("end", str(tmp_path / "profile"))]
    assert traced == whole
    run_loop(tmp_path, steps=4, more_hooks=(hooks.Profile(3, tmp_path / "profile"),))
    assert traced == 2 * whole, "a run that ends within its trace leaves a whole one"


def test_a_run_closes_what_it_opened_also_when_it_fails(tmp_path):
    closed = []
    ready = dict.fromkeys(f.name for f in dataclasses.fields(run.Run))
    with contextlib.ExitStack() as stack:
        stack.callback(closed.append, "files")
        ready = run.Run(**{**ready, "resources": stack.pop_all()})
    assert closed == []
    with pytest.raises(RuntimeError, match="boom"), ready:
        raise RuntimeError("boom")
    assert closed == ["files"]


def test_a_run_at_its_end_takes_no_batch(tmp_path):
    result = run_loop(tmp_path, start=10, steps=10)
    assert int(result.state.step) == 10 and result.batches == [] and result.checkpoints.saved == []
