"""Trains a model: ``python -m epfv2_jax.train --config configs/quickstart.py [--config.step.steps=100 ...]``.

The same command again resumes from the newest checkpoint in the recipe's output directory.
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from epfv2_jax import evaluation, experiment
from epfv2_jax.training import loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/quickstart.py.")


def main(argv: list[str]) -> None:
    """Runs the recipe: makes its data where absent, trains, evaluates on the test split and draws pictures."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    try:
        config = experiment.parse(_CONFIG.value.to_dict())
        output = pathlib.Path(config.output_dir) / "evaluation"
        experiment.prepare_data(config.dataset)
        experiment.train(config)
        result = experiment.evaluate(experiment.checkpoint_dir(config), config.dataset.directory, output)
    except (ValueError, loop.NonFiniteError) as error:
        raise SystemExit(f"error: {error}") from error
    print(evaluation.format_table(result))
    print(f"numbers: {output / 'metrics.json'}   pictures: {output / 'index.html'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
