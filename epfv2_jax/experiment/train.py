"""From a configuration to a trained and scored model."""

import contextlib

from epfv2_jax.core import files, multihost, sharding
from epfv2_jax.evaluation.evaluate import EvaluationResult
from epfv2_jax.experiment import build, data, score
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.training import run


def train(config: ExperimentConfig, started: float | None = None, profile_steps: int = 0) -> None:
    """Trains to the last step, from the newest checkpoint where there is one. Arguments as in `build.build`.

    Raises:
      ValueError: as `build.build`, or another process trains in `output_dir`.
      NonFiniteError: too many steps in a row were not finite.
      Preempted: SIGTERM or Ctrl-C came to one of the processes; the state is saved.
    """
    mesh = sharding.make_mesh(config.mesh)
    with contextlib.ExitStack() as stack:
        if multihost.is_first():
            remedy = "wait for it, or give --config.output_dir another directory"
            stack.enter_context(files.owning(config.output_dir, remedy))
        run.fit(stack.enter_context(build.build(config, mesh, started, profile_steps)))


def train_and_evaluate(
    config: ExperimentConfig, started: float | None = None, profile_steps: int = 0
) -> EvaluationResult:
    """Makes the data where it is absent, trains, and scores the best checkpoint on the test split.

    Metrics, pictures and the report go to `output_dir`/evaluation.
    """
    data.prepare_data(config.dataset)
    train(config, started, profile_steps)
    output = files.locate(config.output_dir) / "evaluation"
    return score.evaluate(config.checkpoint_dir, config.dataset.directory, output)
