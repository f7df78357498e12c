"""Progress bars in a log file: lines, and nothing that moves the cursor of a terminal."""

import io
import math
import sys

import pytest

from epfv2_jax.core import bars


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


def draw(monkeypatch, terminal):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with bars.bar(total=1000, desc="train", unit="step") as bar:
        for i in range(1000):
            bar.update()
            if i % 250 == 249:
                bar.set_postfix(loss=i)
    return stream.getvalue()


def test_a_log_file_gets_whole_lines(monkeypatch):
    lines = draw(monkeypatch, terminal=False).splitlines()
    assert all("\r" not in line and "\x1b" not in line and line.startswith("train:") for line in lines)
    assert [line.partition("loss=")[2].partition("]")[0] for line in lines][1:5] == ["249", "499", "749", "999"]
    assert len(lines) <= 6 and "1000/1000" in lines[-1]


@pytest.mark.parametrize("interval_s, most", [(0.0, 1002), (1000.0, 2)])
def test_lines_come_at_intervals(monkeypatch, interval_s, most):
    monkeypatch.setattr(bars, "LOG_INTERVAL_S", interval_s)
    stream = Stream(False)
    monkeypatch.setattr(sys, "stderr", stream)
    with bars.bar(total=1000) as bar:
        for _ in range(1000):
            bar.update()
    assert (len(stream.getvalue().splitlines()) > 10) == (interval_s == 0.0)
    assert len(stream.getvalue().splitlines()) <= most


def test_lines_for_new_figures_alone(monkeypatch):
    monkeypatch.setattr(bars, "LOG_INTERVAL_S", 0.0)
    stream = Stream(False)
    monkeypatch.setattr(sys, "stderr", stream)
    with bars.bar(total=90, log_interval_s=math.inf) as bar:
        for step in range(90):
            bar.update()
            if step % 30 == 29:
                bar.set_postfix(loss=step)
    figures = [line.partition("loss=")[2].removesuffix("]") for line in stream.getvalue().splitlines()]
    assert figures == ["", "29", "59", "89"]


def test_a_terminal_gets_a_bar(monkeypatch):
    drawn = draw(monkeypatch, terminal=True)
    assert drawn.count("\r") > 3 and drawn.count("\n") == 1
