"""Writes a page of data: frames with their skeletons, the headset's cameras, counts, and what the checks found."""

import collections
import dataclasses
import html
import os
import shlex
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from epfv2_jax.core import bars, checks, files
from epfv2_jax.core.findings import Finding
from epfv2_jax.data import labels as labels_lib
from epfv2_jax.data import records, validation
from epfv2_jax.data.validation import Validated
from epfv2_jax.evaluation.examples import FrameExample
from epfv2_jax.viz import frames, grid, page, plots, pose3d, rigs

#: Most frames of a sequence that are read: our choice, 10 s at 30 frames a second.
READ_FRAMES = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is drawn. The fields are the flags of the command."""

    data: str | os.PathLike  # raw data or records
    labels: str | os.PathLike | None = None  # of a finished label pass over these records
    reader: str | None = None  # a key of `READERS`; None: found from the files
    sequences: int = 4  # of each split
    frames: int = 3  # of each sequence
    out: str | os.PathLike = "preview.html"

    def __post_init__(self):
        checks.at_least(1, sequences=self.sequences, frames=self.frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """The page, and what is wrong with the sequences on it."""

    path: epath.Path
    problems: tuple[str, ...]  # each a line
    has_error: bool


def write(options: Options) -> Written:
    """Returns the path of the page and the problems of its sequences. Shows a progress bar.

    Raises:
      ValueError: there are no sequences, or the labels are not complete, or not of these records.
    """
    found = list(validation.open_sequences(options.data, options.reader))
    labels = None if options.labels is None else _Labels(options.labels, options.data)
    splits = collections.defaultdict(list)
    for sequence in found:
        splits[sequence.split].append(sequence)
    chosen = {split: _spread(sequences, options.sequences) for split, sequences in splits.items()}
    sections, problems, has_error = [], [], False
    with bars.bar(total=sum(map(len, chosen.values())), desc="preview", unit="sequence") as bar:
        for split, sequences in splits.items():
            sections.append(f"<h2>{html.escape(split)}</h2>{_counts(sequences)}")
            for i, sequence in enumerate(chosen[split]):
                checked = validation.check(sequence, READ_FRAMES)
                if i == 0 and checked.runs:
                    sections.append(_rig(checked))
                sections.append(_sequence(checked, options.frames, labels))
                wrong = [finding for finding in checked.findings if finding.problem]
                problems += [f"{split}/{sequence.name}: {_words(finding)}" for finding in wrong]
                has_error |= checked.has_error
                bar.update()
    title = f"{os.path.basename(os.path.abspath(options.data))}: data"
    top = [page.heading(title, _about(options)), _legend(labels), *([] if labels is None else [labels.counts()])]
    path = files.locate(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    return Written(path=page.write(path, title, [*top, *sections]), problems=tuple(problems), has_error=has_error)


class _Labels:
    """The labels of a pass by sequence and frame."""

    def __init__(self, directory: str | os.PathLike, data: str | os.PathLike):
        split = records.open_records(data)
        self._labels = labels_lib.open_labels(directory, split)
        self._records = collections.defaultdict(list)
        for i, entry in enumerate(split.entries):
            self._records[entry.sequence].append(i)

    def of(self, sequence: str) -> dict[int, tuple[labels_lib.LabelRun, int]]:
        """Returns the label run and the row of each frame of a sequence by its `frame_index`."""
        runs = [self._labels[i] for i in self._records[sequence]]
        return {int(frame): (run, row) for run in runs for row, frame in enumerate(run.frame_index)}

    def counts(self) -> str:
        """Returns the HTML of the number of rows by status."""
        footers = (self._labels.unit(unit).footer for unit in range(self._labels.num_units))
        counts = np.sum([footer.counts for footer in footers], axis=0)
        named = {
            status.name.lower().replace("_", " "): f"{n:,}" for status, n in zip(labels_lib.Status, counts, strict=True)
        }
        return page.key_figures({f"labels {name}": n for name, n in named.items()})


def _about(options: Options) -> dict[str, str]:
    flags = [os.fspath(options.data)] + ([] if options.labels is None else ["--labels", os.fspath(options.labels)])
    return {
        "data": os.fspath(options.data),
        "labels": "" if options.labels is None else os.fspath(options.labels),
        "command": f"`{shlex.join(['python', '-m', 'epfv2_jax.preview', *flags])}`",
    }


def _legend(labels: _Labels | None) -> str:
    names = ("labels", "joints of the data") if labels is not None else (None, "joints of the data")
    return (
        f"<p>{page.dots(*names)}. Without any joint the rest pose below the headset is drawn: an upright wearer should "
        f"look like it. Floor grid {pose3d.GRID_M} m. Skeletons are drawn wherever the lens sees them, hidden body "
        "parts included.</p>"
    )


def _counts(sequences: Sequence[validation.Sequence]) -> str:
    lengths = [sequence.num_frames for sequence in sequences]
    figures = {"sequences": f"{len(sequences):,}"}
    if None not in lengths:
        figures["frames"] = f"{sum(lengths):,}"
    figures |= {"joints": str(sequences[0].skeleton.num_joints), "views": str(sequences[0].layout.num_views)}
    return page.key_figures(figures)


def _rig(checked: Validated) -> str:
    """Returns the HTML of the cameras of a sequence: where they are, how they look, and how much they see."""
    rig, layout = checked.runs[0].rig, checked.layout
    images = np.concatenate([run.view_valid for run in checked.runs]).mean(0)
    seen = np.concatenate([_in_view(run) for run in checked.runs]).mean(0)
    rows = [
        (*row, f"{100 * image:.0f} %", f"{joints:.1f}")
        for row, image, joints in zip(rigs.rows(rig, layout), images, seen, strict=True)
    ]
    table = page.table((*rigs.HEAD, "frames with an image", "joints in the image"), rows)
    chart = page.chart(rigs.draw(rig, layout), "The cameras from above and from the left", "half")
    return f"<p>Cameras of {html.escape(checked.sequence)}, in headset axes:</p>{table}{chart}"


def _in_view(run: records.FrameRun) -> np.ndarray:
    """Returns how many valid joints lie in each image (n, V), whatever hides them there."""
    T = run.T_world_headset.astype(np.float64)
    joints_m = np.where(run.joint_valid[..., None], run.joints_world_m, T[:, None, :3, 3]) - T[:, None, :3, 3]
    joints_headset_m = np.einsum("nji,nkj->nki", T[:, :3, :3], joints_m).astype(np.float32)
    rig = jax.tree.map(lambda leaf: np.asarray(leaf)[None], run.rig)
    uv, seen = (np.asarray(found[0]) for found in rig.project(joints_headset_m[None]))
    inside = seen & ((uv >= 0) & (uv <= 1)).all(-1) & run.joint_valid[:, None]
    return inside.sum(-1)


def _sequence(checked: Validated, num_frames: int, labels: _Labels | None) -> str:
    """Returns the HTML of a sequence: what the checks found, and its frames."""
    wrong = [finding for finding in checked.findings if finding.problem]
    read = sum(run.num_frames for run in checked.runs)
    verdict = (
        f"{len(checked.findings)} checks passed" if not wrong else f"{len(wrong)} of {len(checked.findings)} checks"
    )
    text = f"<h3>{html.escape(checked.sequence)}</h3><p>{read} frames read; {verdict}{' say:' if wrong else '.'}</p>"
    if wrong:
        text += f"<ul>{''.join(f'<li>{html.escape(_words(finding))}</li>' for finding in wrong)}</ul>"
    places = _spread([(run, t) for run in checked.runs for t in range(run.num_frames)], num_frames)
    if not places:
        return text
    labelled = {} if labels is None else labels.of(checked.sequence)
    rows = dict(_frame(run, t, checked, labelled) for run, t in places)
    figure = grid.draw(rows, checked.skeleton, checked.layout, f"{checked.split}/{checked.sequence}")
    return text + page.embed(plots.to_image(figure), f"Frames of {checked.sequence}")


def _frame(
    run: records.FrameRun, t: int, checked: Validated, labelled: Mapping[int, tuple[labels_lib.LabelRun, int]]
) -> tuple[str, FrameExample]:
    """Returns what is written above the picture of a frame, and the frame."""
    known, views = run.joint_valid[t].sum(), run.view_valid[t].sum()
    words = f"frame {run.frame_index[t]}, {run.time_s[t]:.2f} s: {known} of {run.num_joints} joints known, "
    words += f"{views} of {run.num_views} images"
    if not labelled:
        return words, frames.of_run(run, t, checked.skeleton)
    labels, row = labelled[int(run.frame_index[t])]
    status = labels_lib.Status(labels.status[row])
    words += f", label {status.name.lower().replace('_', ' ')}"
    joints_m = labels.joints_headset_m[row] if status in (labels_lib.Status.OK, *_LABELLED) else None
    example = frames.of_run(run, t, checked.skeleton, joints_m)
    if joints_m is not None and known:
        delta_m = np.linalg.norm(joints_m - example.true_joints_headset_m, axis=-1)
        words += f", {100 * delta_m[example.joint_valid].mean():.1f} cm from the joints of the data"
    if joints_m is not None and labels.cholesky_m is not None:
        sigma_m = np.sqrt(np.square(labels.cholesky_m[row]).sum((-2, -1)) / 3).mean()
        words += f", scale {100 * sigma_m:.1f} cm"
    return words, example


#: Rows that are labelled from fewer views.
_LABELLED = (labels_lib.Status.MISSING_VIEW, labels_lib.Status.BAD_IMAGE)


def _words(finding: Finding) -> str:
    return f"{finding.verdict}: {finding.problem}"


def _spread(items: Sequence, count: int) -> list:
    """Returns at most `count` of the items, evenly spread, the first one among them."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]
