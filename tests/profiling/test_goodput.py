"""Goodput: every second has one kind, restarts tell what they lost."""

import json
import time
import types

import pytest

from epfv2_jax.profiling import cost, goodput


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; both of Python's clocks show it."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(goodput.time, "time", lambda: 1e9 + clock.now)
    return clock


def spend(clock, book, kind, seconds):
    with book.time(kind):
        clock.now += seconds


def test_every_second_has_one_kind(tmp_path, clock):
    book = goodput.Goodput(tmp_path, 0, started=clock.now - 5)
    clock.now += 2
    book.begin()
    spend(clock, book, "compile", 30)
    clock.now += 4
    with book.time("evaluation"):
        clock.now += 7
        spend(clock, book, "data_wait", 1)
        clock.now += 2
    book.close_window(10)
    clock.now += 3
    spend(clock, book, "checkpoint", 1)
    book.close_window(20)
    _, first, second = goodput.read(tmp_path / "goodput.jsonl")
    assert first["seconds"] == {"start": 7, "compile": 30, "step": 4, "evaluation": 9, "data_wait": 1}
    assert second["seconds"] == {"step": 3, "checkpoint": 1}
    assert (first["steps"], second["steps"], second["step"]) == (10, 10, 20)
    total = goodput.summarize(tmp_path / "goodput.jsonl")
    assert sum(total[kind] for kind in goodput.KINDS) == pytest.approx(clock.now - 995)
    assert "compile 54.5%" in goodput.format_summary(total)


def test_a_restart_tells_what_it_lost(tmp_path, clock):
    book = goodput.Goodput(tmp_path, 0, started=clock.now)
    book.begin()
    for step in (10, 20, 30):
        clock.now += 8
        book.close_window(step)
    clock.now += 100  # killed, and started again from step 10
    book = goodput.Goodput(tmp_path, 10, started=clock.now)
    book.begin()
    for step in (20, 30):
        clock.now += 9
        book.close_window(step)
    clock.now += 50  # and once more, from step 20: what the first restart lost is not lost again
    goodput.Goodput(tmp_path, 20, started=clock.now)
    starts = [line for line in goodput.read(tmp_path / "goodput.jsonl") if line["event"] == "start"]
    assert [(s["lost_steps"], s["lost_s"], s["down_s"]) for s in starts] == [(0, 0, 0), (20, 16, 100), (10, 9, 50)]
    total = goodput.summarize(tmp_path / "goodput.jsonl")
    assert (total["lost"], total["down"]) == (25, 150)
    assert "restarts lost 25 s and 150 s down" in goodput.format_summary(total)


def test_a_line_cut_off_in_mid_write_harms_no_other(tmp_path, clock):
    goodput.Goodput(tmp_path, 0, started=clock.now)
    with (tmp_path / "goodput.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "win')
    goodput.Goodput(tmp_path, 0, started=clock.now)
    assert [line["event"] for line in goodput.read(tmp_path / "goodput.jsonl")] == ["start", "start"]


def test_lines_that_are_not_ours_are_left_out_with_a_warning(tmp_path, clock, caplog):
    path = tmp_path / "goodput.jsonl"
    book = goodput.Goodput(tmp_path, 0, started=clock.now)
    book.begin()
    clock.now += 2
    book.close_window(5)
    whole = path.read_bytes()
    window = json.loads(whole.splitlines()[1])
    wrong = (
        ({"step": "5"}, "step: expected int"),
        ({"seconds": {"step": -1.0}}, "seconds.step: must be in"),
        ({"seconds": {"tea": 1.0}}, "'tea' is not one of"),
        ({"seconds": {"step": float("nan")}}, "seconds.step: must be a finite number"),
        ({"event": "stop"}, "event: 'stop' is not one of"),
        ({"time": 10**400}, "time: must fit in 64 bits"),
    )
    lines = [json.dumps({**window, **change}) for change, _ in wrong]
    path.write_bytes(whole + "\n".join([*lines, "[]", "3", '{"event": "start"}', ""]).encode())
    assert [line["event"] for line in goodput.read(path)] == ["start", "window"]
    for message in (*(message for _, message in wrong), "expected a JSON object", "time: required key is missing"):
        assert message in caplog.text
    assert goodput.summarize(path)["step"] == 2
    goodput.Goodput(tmp_path, 3, started=clock.now)
    assert goodput.read(path)[-1]["lost_steps"] == 5


def test_only_the_first_process_writes(tmp_path, clock):
    book = goodput.Goodput(tmp_path, 0, started=clock.now, active=False)
    book.begin()
    clock.now += 1
    book.close_window(1)
    assert not list(tmp_path.iterdir())


def test_mfu_is_flops_over_the_peak_in_training_time(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(cost, "chip_of", lambda kind: types.SimpleNamespace(peak_bf16_flops=1e12))
    monkeypatch.setattr(cost, "compiled_cost", lambda compiled: types.SimpleNamespace(flops=2e11))
    book = goodput.Goodput(tmp_path, 0, started=clock.now)
    book.begin()
    book.compiled(None)
    clock.now += 3
    spend(clock, book, "data_wait", 1)
    spend(clock, book, "evaluation", 50)
    book.close_window(10)
    assert goodput.read(tmp_path / "goodput.jsonl")[1]["mfu"] == 0.5  # 10 x 0.2 TFLOP in 4 s at 1 TFLOP/s


def test_without_a_known_chip_there_is_no_mfu(tmp_path):
    book = goodput.Goodput(tmp_path, 0, started=time.perf_counter())
    book.compiled(None)
    book.close_window(1)
    lines = (tmp_path / "goodput.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["mfu"] is None and json.loads(lines[0])["device_kind"] == "cpu"
