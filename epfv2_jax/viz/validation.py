"""What the checks of a sequence found, as a table and as pictures."""

import os
import pathlib
from collections.abc import Sequence

from PIL import Image

from epfv2_jax.core.findings import Finding
from epfv2_jax.data.validation import Validated
from epfv2_jax.viz import frames, overlays

_HEADER = ("verdict", "check", "value", "limit")


def table(findings: Sequence[Finding]) -> str:
    """Returns a line for each finding in columns, and below them the problems."""
    rows = [_HEADER, *((f.verdict, f.check, f.value, f.limit) for f in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]
    problems = [f"{f.verdict}: {f.problem}" for f in findings if f.problem]
    return "\n".join([*lines, *problems])


def draw(validated: Validated, folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the pictures that it writes, one of each view: the frame whose joints are known best, with its skeleton.

    Without joints the skeleton is the rest pose below the headset: an upright wearer should look like it.
    """
    if not validated.runs:
        return []
    run, t = max(
        ((run, t) for run in validated.runs for t in range(run.num_frames)),
        key=lambda place: (place[0].joint_valid[place[1]].sum(), place[0].view_valid[place[1]].sum()),
    )
    pictures = overlays.draw_views(frames.of_run(run, t, validated.skeleton), validated.skeleton, height_px=720)
    folder, paths = pathlib.Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(validated.layout.view_names, pictures, strict=True):
        paths.append(folder / f"{validated.split}_{validated.sequence}_{name}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths
