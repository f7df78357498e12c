"""Goodput: attributes every second of a run to a kind and writes the sums as JSON lines.

`goodput.jsonl` only grows: work that a restart discarded stays in it and counts as lost. Kinds of seconds:

  start        importing, finding or making the data, building the model, reading the checkpoint
  compile      of the train step
  step         the rest: steps, and whatever is not listed here
  data_wait    the host waited for a batch (the devices may have been computing)
  checkpoint   the loop waited for a checkpoint; the writing itself runs in the background
  evaluation   on the validation split

Each start of the run writes a line `"event": "start"` with its losses: `lost_steps` and `lost_s` of the steps that must
be repeated, and `down_s`, the time from the previous line to this start.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax

from epfv2_jax.core import checks, files, lines
from epfv2_jax.core import config as config_lib
from epfv2_jax.profiling import cost

_MAX_S = 1e11  # of a time or a period
KINDS = ("start", "compile", "step", "data_wait", "checkpoint", "evaluation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Start:
    """A line that a start of the run writes."""

    time: float  # Unix time, seconds, as below
    event: Literal["start"]
    step: int  # steps done in the restored state
    lost_steps: int
    lost_s: float
    down_s: float
    processes: int
    devices: int
    device_kind: str

    def __post_init__(self):
        checks.at_least(0, step=self.step, lost_steps=self.lost_steps)
        checks.within(0, _MAX_S, time=self.time, lost_s=self.lost_s, down_s=self.down_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """A line of the time since the one before."""

    time: float
    event: Literal["window"]
    step: int  # steps done
    steps: int  # of this window
    seconds: dict[str, float]  # by kind
    mfu: float | None

    def __post_init__(self):
        checks.at_least(0, step=self.step, steps=self.steps)
        checks.one_of(KINDS, **{f"seconds {i}": kind for i, kind in enumerate(self.seconds)})
        checks.within(0, _MAX_S, time=self.time, **{f"seconds.{kind}": s for kind, s in self.seconds.items()})


def _line(content: Any) -> _Start | _Window:
    """Returns a line of the file from its JSON, or raises ValueError."""
    checks.instance("line", content, dict, "a JSON object")
    return config_lib.from_mapping(_Start if content.get("event") == "start" else _Window, content, "line")


class Goodput:
    """Attributes time to kinds; `close_window` writes what has accumulated since the last call."""

    def __init__(self, directory: str | os.PathLike, start_step: int, started: float, active: bool = True):
        """Opens the file of a run that continues after `start_step`.

        Args:
          directory: of the run; the file is `goodput.jsonl` in it.
          start_step: number of steps done in the restored state.
          started: start of the process on the clock of time.perf_counter().
          active: False writes nothing, for all processes but the first.
        """
        path = files.locate(directory) / "goodput.jsonl"
        self._active = active
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._mark, self._kind, self._step = started, "start", start_step
        self._chip = cost.chip_of(jax.devices()[0].device_kind)
        self._flops = None
        if active:
            self._lines = lines.Lines(path)
            before = time.time() - (time.perf_counter() - started)
            self._append({"event": "start", "step": start_step, **_lost(path, start_step, before), **_where()})

    def begin(self) -> None:
        """Ends the start: from here on, time counts as `step` by default."""
        self._switch("step")

    @contextlib.contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Attributes the block to `kind`."""
        outside = self._kind
        self._switch(kind)
        try:
            yield
        finally:
            self._switch(outside)

    def compiled(self, step: jax.stages.Compiled) -> None:
        """Records the FLOPs of a step, from which the run's share of the chip's peak (MFU) is computed."""
        if self._chip is not None:
            self._flops = cost.compiled_cost(step).flops

    def close_window(self, step: int) -> None:
        """Writes one line for the time since the last one; `step` is the number of steps done.

        `mfu` is null if the chip's peak is unknown. It is computed from the training time (step, data_wait) and the
        compiled FLOPs: with `model.remat` these include the recomputation, which makes it an HFU.
        """
        self._switch(self._kind)
        steps, seconds = step - self._step, {kind: s for kind, s in self._seconds.items() if s}
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._step = step
        training_s = seconds.get("step", 0.0) + seconds.get("data_wait", 0.0)
        mfu = None
        if self._flops is not None and steps and training_s:
            mfu = round(self._flops * steps / training_s / self._chip.peak_bf16_flops, 4)
        if self._active and seconds:
            rounded = {kind: round(s, 4) for kind, s in seconds.items()}
            self._append({"event": "window", "step": step, "steps": steps, "seconds": rounded, "mfu": mfu})

    def close(self) -> None:
        """Waits until all lines are written."""
        if self._active:
            self._lines.close()

    def _switch(self, kind: str) -> None:
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._mark
        self._mark, self._kind = now, kind

    def _append(self, line: dict[str, Any]) -> None:
        self._lines.append({"time": round(time.time(), 3), **line})


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a goodput file, without damaged ones, of which a warning tells."""
    return [config_lib.to_mapping(line) for _, line in files.read_json_lines(path, _line)]


def summarize(path: str | os.PathLike) -> dict[str, float]:
    """Returns seconds by kind over all starts of a run, with `lost` and `down` for the cost of its restarts.

    `lost` is contained in the other kinds.
    """
    found = read(path)
    seconds = {kind: sum(line["seconds"].get(kind, 0.0) for line in found if "seconds" in line) for kind in KINDS}
    for name in ("lost", "down"):
        seconds[name] = sum(line[f"{name}_s"] for line in found if line["event"] == "start")
    return seconds


def format_summary(seconds: dict[str, float]) -> str:
    """Returns one line: each kind's share of the time that the run's processes were up."""
    up = sum(seconds[kind] for kind in KINDS)
    shares = ", ".join(f"{kind} {seconds[kind] / up:.1%}" for kind in KINDS if seconds[kind]) if up else "nothing"
    restarts = f"; restarts lost {seconds['lost']:.0f} s and {seconds['down']:.0f} s down" if seconds["down"] else ""
    return f"time: {up:.0f} s: {shares}{restarts}"


def _lost(path: os.PathLike, start_step: int, now: float) -> dict[str, Any]:
    """Returns what the restart lost. Only whole windows are known, so up to one more window of steps may be lost."""
    found = read(path)
    lost = []
    for line in found:
        if line["event"] == "start":  # the losses of an earlier restart are counted there
            lost = [w for w in lost if w["step"] <= line["step"]]
        elif line["step"] > start_step:
            lost.append(line)
    return {
        "lost_steps": sum(line["steps"] for line in lost),
        "lost_s": round(sum(sum(line["seconds"].values()) for line in lost), 3),
        "down_s": round(max(0.0, now - found[-1]["time"]), 3) if found else 0.0,
    }


def _where() -> dict[str, Any]:
    return {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
    }
