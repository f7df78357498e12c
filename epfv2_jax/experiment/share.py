"""Packages a checkpoint for others: gathers what they must know, and writes the model card."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import jax

import epfv2_jax
from epfv2_jax import checkpoints
from epfv2_jax.checkpoints import NOT_STATED, Card, Scores, Trained
from epfv2_jax.core import checks
from epfv2_jax.evaluation import tables

_CARD = """---
library_name: epfv2_jax
tags: [egocentric, human-pose-estimation, jax]
---

# Full-body motion from headset cameras

For each frame, this model (`{kind}`, {parameters} parameters) takes {num_views} upright grey images of {size} pixels
({views}), their calibration and the pose of the headset,
and gives {num_joints} joints (`{skeleton}`) in metres. It was saved at step {step} of a training run, whose whole
configuration is in `config.json`. Packaged by epfv2_jax {version}.

## Use

```python
from epfv2_jax.inference.predictor import Predictor

predictor = Predictor.from_checkpoint("PATH OF THIS FOLDER")  # or "hf://ORGANISATION/NAME"
```

The commands of epfv2_jax take the same as `--checkpoint`, and a recipe as `config.init_from`.

## Training data

{training_data}

## Scores

{scores}

## Intended use

To estimate the pose of the person who wears the headset, in research and where errors harm nobody; as a start of
training, for comparisons, and to label recordings.

## Limits

- The cameras must be those above in order, and placed about as in the training data; other headsets need training.
- People, clothes, rooms and motions unlike the training data may give large errors; so may joints that no camera sees.
- A covariance is an estimate of the error on such data, not a bound.

## Licence

Of the weights: {licence}. The code of epfv2_jax has a licence of its own.

## Files

| file | SHA-256 |
|---|---|
{files}
"""


def package(
    checkpoint: str | os.PathLike, out: str | os.PathLike, licence: str | None = None, data: str | None = None
) -> str:
    """Writes a checkpoint as a packaged model to the new folder `out`; returns what to tell the user.

    The scores are those of `evaluation/metrics.json` in the run's directory. From a packaged model all that is not
    given is taken over.

    Args:
      checkpoint: of a run, or a packaged model.
      out: the folder.
      licence: of the weights.
      data: what the model was trained on.

    Raises:
      ValueError: there is no checkpoint, `out` exists, or the run's evaluation is damaged or that of another step.
    """
    trained = checkpoints.load(checkpoint)
    card = trained.card or Card(scores=_scores_of_run(checkpoint, trained.step))
    given = {"licence": licence, "training_data": data}
    card = dataclasses.replace(card, **{name: text for name, text in given.items() if text is not None})
    checkpoints.save_package(out, trained, card, functools.partial(describe, trained, card))
    missing = [f"{name}: {NOT_STATED}" for name in given if getattr(card, name) == NOT_STATED]
    missing += [] if card.scores else ["scores: the run was not evaluated"]
    return "\n".join([f"{out}: {trained.kind} checkpoint, step {trained.step}", *missing])


def describe(trained: Trained, card: Card, hashes: Mapping[str, str]) -> str:
    """Returns the model card, Markdown, of a model whose files have these hashes (name -> SHA-256)."""
    model, about = trained.model, trained.about
    height, width = about.image_size_hw
    return _CARD.format(
        kind=model.config.kind,
        parameters=f"{sum(leaf.size for leaf in jax.tree.leaves(trained.variables['params'])):,}",
        num_views=model.layout.num_views,
        views=", ".join(model.layout.view_names),
        size=f"{height}x{width}",
        num_joints=model.skeleton.num_joints,
        skeleton=model.skeleton.name,
        step=trained.step,
        version=epfv2_jax.__version__,
        training_data=card.training_data,
        scores=_table(card.scores, tuple(model.skeleton.metric_groups)),
        licence=card.licence,
        files="\n".join(f"| {name} | `{sha256}` |" for name, sha256 in hashes.items()),
    )


def _scores_of_run(checkpoint: str | os.PathLike, step: int) -> Scores | None:
    """The scores in the directory of a run, if it was evaluated."""
    path = checkpoints.run_directory(checkpoint) / "evaluation" / "metrics.json"
    if not path.exists():
        return None
    scores = tables.read_scores(path)
    remedy = "the evaluation is of another checkpoint: evaluate this one, or remove the file"
    checks.equal(f"{path}: step", scores.step, step, remedy)
    return scores


def _table(scores: Scores | None, groups: Sequence[str]) -> str:
    if scores is None:
        return f"{NOT_STATED}: the run was not evaluated."

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    columns = tables.columns(groups)
    lines = [line(["cm", *(heading for heading, _ in columns)]), line(["---"] * (1 + len(columns)))]
    for name, metrics in {"model": scores.metrics, **scores.baselines}.items():
        values = (metrics.get(key) for _, key in columns)
        lines.append(line([name, *("-" if value is None else f"{value:.2f}" for value in values)]))
    blind = ", without its images" if scores.hide_views else ""
    unit = "MPJVE in cm per 1/30 s and, last, in m/s; the other columns are mean errors in cm."
    return "\n".join([f"On the {scores.split} split{blind}. {unit}", "", *lines])
