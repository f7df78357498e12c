import json
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from epfv2_jax.core import multihost
from epfv2_jax.profiling import goodput as ledger
from epfv2_jax.training import loop, sharding


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

    def compile(self):
        return self.function


def run_loop(tmp_path, bad_steps=(), steps=10, start=0, stop_after=lambda step: False, **config):
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
            "x": (jnp.asarray(2.0 * step), jnp.asarray(2.0)),
        }

    seen = []

    def batches():
        for step in range(start, 10**6):
            seen.append(step)
            yield FakeBatch(np.full(8, step))

    zero = jnp.zeros((), jnp.int32)
    checkpoints = RecordingCheckpoints()
    state = loop.run(
        state=CountingState(jnp.asarray(start), zero, zero, zero, zero),
        step_fn=Uncompiled(step_fn),
        batches=batches(),
        label=lambda batch: batch,
        key=jax.random.key(0),
        mesh=sharding.make_mesh(sharding.MeshConfig()),
        steps=steps,
        config=loop.LoopConfig(**config),
        checkpoints=checkpoints,
        evaluate=lambda variables: {"mpjpe_cm": 3.0, "mpjve_cm": 1.0},
        describe_clip=lambda clip_id: f"clip {clip_id}",
        directory=tmp_path,
        ledger=ledger.Ledger(tmp_path, start, time.perf_counter()),
        stop_after=stop_after,
    )
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


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(
        loop.NonFiniteError, match=r"step 5: 3 steps in a row .*max_skipped_in_a_row = 2.*skipped.jsonl"
    ):
        run_loop(tmp_path, bad_steps=(3, 4, 5, 6), max_skipped_in_a_row=2)
    run_loop(tmp_path, bad_steps=(2, 3, 5, 6), max_skipped_in_a_row=2)  # not in a row


def test_told_to_stop_it_saves_that_step_and_stops(tmp_path):
    with pytest.raises(multihost.Preempted, match="after step 7 of 10 is saved"):
        run_loop(tmp_path, stop_after=lambda step: step == 7, log_every=4, evaluate_every=7)
    assert ledger.read(tmp_path / "ledger.jsonl")[-1]["step"] == 7
    assert [m["step"] for m in lines(tmp_path / "metrics.jsonl")] == [4]  # time is short: no evaluation


def test_told_to_stop_after_the_last_step_it_just_ends(tmp_path):
    result = run_loop(tmp_path, stop_after=lambda step: step == 10)
    assert int(result.state.step) == 10 and result.checkpoints.saved[-1][0] == 10


@pytest.mark.parametrize("bad", [{"log_every": 0}, {"checkpoint_every": -1}, {"max_skipped_in_a_row": 0}])
def test_bad_cadences_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        loop.LoopConfig(**bad)
