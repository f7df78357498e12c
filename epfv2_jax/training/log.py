"""The logs of a run: metrics as JSON lines, optionally TensorBoard, and the list of skipped steps."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from epfv2_jax.core import checks, files, lines

_NAMES = ("metrics.jsonl", "skipped.jsonl")


class RunLog:
    """Appends to `metrics.jsonl` and `skipped.jsonl` in a run's directory; a resumed run repeats no line."""

    def __init__(self, directory: str | os.PathLike, start_step: int, tensorboard: bool = False, active: bool = True):
        """Opens the log and drops lines of steps after `start_step`, left by an interrupted run.

        With `active` False nothing is written, for all processes of a run but the first.
        """
        self._directory = files.locate(directory)
        self._writer, self._active = None, active
        if not active:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        for name in _NAMES:
            _drop_after(self._directory / name, start_step)
        self._metrics, self._skipped = (lines.Lines(self._directory / name) for name in _NAMES)
        if tensorboard:
            checks.extra_installed("tensorboardX", "tensorboard", "loop.tensorboard = True")
            files.on_disk(directory, "set loop.tensorboard = False, metrics.jsonl has the same numbers")
            import tensorboardX

            self._writer = tensorboardX.SummaryWriter(str(self._directory / "tensorboard"), purge_step=start_step)

    @property
    def skipped_path(self) -> epath.Path:
        """The file that lists the clips of skipped steps."""
        return self._directory / _NAMES[1]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of metrics. TensorBoard groups names by their part before "/": those without are `train/`."""
        if not self._active:
            return
        self._metrics.append({"step": step, **values})
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def skipped(self, step: int, clips: list[str]) -> None:
        """Writes one line for a skipped step, with the clips of its batch."""
        if self._active:
            self._skipped.append({"step": step, "clips": clips})

    def close(self) -> None:
        """Writes what is not written yet and closes TensorBoard."""
        if self._writer is not None:
            self._writer.close()
        if self._active:
            self._metrics.close()
            self._skipped.close()


@dataclasses.dataclass(frozen=True)
class Curve:
    """The values of a figure by the step."""

    steps: list[int]
    values: list[float]


def read_curves(directory: str | os.PathLike) -> dict[str, Curve]:
    """Returns the figures in a run's `metrics.jsonl` by name, those of validations as `validation/NAME`.

    Empty where there is no such file. Values that are not finite are left out; so are damaged lines, with a warning.
    """
    curves: dict[str, Curve] = {}
    for _, line in files.read_json_lines(files.locate(directory) / _NAMES[0], _checked):
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                curve = curves.setdefault(name, Curve([], []))
                curve.steps.append(line["step"])
                curve.values.append(value)
    return curves


def _drop_after(path: epath.Path, step: int) -> None:
    if path.exists():
        kept = [line + b"\n" for line, content in files.read_json_lines(path, _checked) if content["step"] <= step]
        files.write_atomic(path, b"".join(kept))


def _checked(line: Any) -> dict[str, Any]:
    """Returns a line that states its step, or raises ValueError."""
    checks.instance("line", line, dict, "a JSON object")
    checks.instance("step", line.get("step"), int, "an integer")
    checks.at_least(0, step=line["step"])
    return line
