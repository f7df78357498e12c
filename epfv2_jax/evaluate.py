"""Scores a checkpoint: ``python -m epfv2_jax.evaluate --checkpoint DIR --data DIR [--split SPLIT] [--out DIR]``."""

import pathlib

from absl import app, flags

from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.experiment import experiment

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory that training wrote its checkpoints to.")
_DATA = flags.DEFINE_string("data", None, "Directory of converted records, with one folder for each split.")
_SPLIT = flags.DEFINE_string("split", None, "Split to score; default: the recipe's test split.")
_OUT = flags.DEFINE_string("out", None, "Directory for metrics.json and the report; default: beside the checkpoints.")


def main(argv: list[str]) -> None:
    """Prints the table of the paper's metrics beside the mean-pose baseline and writes JSON, pictures and a report."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    output = pathlib.Path(_OUT.value or pathlib.Path(_CHECKPOINT.value).resolve().parent / "evaluation")
    try:
        result = experiment.evaluate(_CHECKPOINT.value, _DATA.value, output, split=_SPLIT.value)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(evaluation.format_table(result))
    print(f"numbers: {output / 'metrics.json'}   pictures: {output / 'index.html'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint", "data"])
    app.run(main)
