"""From a configuration to a trained and scored model."""

import pathlib

from epfv2_jax.core import sharding
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import build, data, score
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.training import run


def train(config: ExperimentConfig, started: float | None = None, profile_steps: int = 0) -> None:
    """Trains to the last step, from the newest checkpoint where there is one. Arguments as in `build.build`.

    Raises:
      ValueError: as `build.build`.
      NonFiniteError: too many steps in a row were not finite.
      Preempted: SIGTERM came to one of the processes; the state is saved.
    """
    mesh = sharding.make_mesh(config.mesh)
    with build.build(config, mesh, started, profile_steps) as ready:
        run.fit(ready)


def train_and_evaluate(
    config: ExperimentConfig, started: float | None = None, profile_steps: int = 0
) -> EvaluationResult:
    """Makes the data where it is absent, trains, and scores the best checkpoint on the test split.

    Metrics, pictures and the report go to `output_dir`/evaluation.
    """
    data.prepare_data(config.dataset)
    train(config, started, profile_steps)
    output = pathlib.Path(config.output_dir) / "evaluation"
    return score.evaluate(config.checkpoint_dir, config.dataset.directory, output)
