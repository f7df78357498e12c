"""Trains a model: ``python -m epfv2_jax.train --config configs/quickstart.py [--config.step.steps=100 ...]``.

The same command again resumes from the newest checkpoint in the recipe's output directory, also on other devices and on
another number of processes. On several hosts give every process the same command and --distributed (TPU slices, SLURM),
or where to find process 0, how many there are and which this is; all must reach the data and the output directory.

Exit codes: 0 done; 1 an error; 75 SIGTERM came to one of the processes: all saved the same step, start them again.
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

import epfv2_jax
from epfv2_jax.core import compile_cache, multihost
from epfv2_jax.evaluation import evaluate as evaluation
from epfv2_jax.experiment import experiment
from epfv2_jax.profiling import goodput as ledger
from epfv2_jax.training import loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/quickstart.py.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes that the environment tells of.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is.")
_PROFILE = flags.DEFINE_integer("profile", 0, "Steps of which a trace is written, to OUTPUT/profile.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Runs the recipe: makes its data where absent, trains, evaluates on the test split and draws pictures."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    with multihost.ends_together():
        try:
            explicit = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
            if _DISTRIBUTED.value or explicit != (None, None, None):
                multihost.connect(*explicit)
            _run(experiment.parse(_CONFIG.value.to_dict()))
        except multihost.Preempted as notice:
            print(notice)
            raise SystemExit(multihost.EXIT_PREEMPTED) from notice
        except (ValueError, loop.NonFiniteError) as error:
            raise SystemExit(f"error: {error}") from error


def _run(config: experiment.ExperimentConfig) -> None:
    compile_cache.enable()
    experiment.prepare_data(config.dataset)
    experiment.train(config, started=epfv2_jax.IMPORTED, profile_steps=_PROFILE.value)
    output = pathlib.Path(config.output_dir)
    result = experiment.evaluate(experiment.checkpoint_dir(config), config.dataset.directory, output / "evaluation")
    if multihost.is_first():
        print(evaluation.format_table(result))
        print(ledger.format_summary(ledger.summarize(output / "ledger.jsonl")))
        print(f"numbers: {output / 'evaluation/metrics.json'}   pictures: {output / 'evaluation/index.html'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
