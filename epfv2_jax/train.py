"""Trains a model: python -m epfv2_jax.train --config configs/quickstart.py [--config.step.steps=100 ...]

Makes the recipe's data where absent, trains, scores the best checkpoint on the test split and draws pictures. The same
command again resumes from the newest checkpoint in the recipe's output directory, also on other devices and on another
number of processes. On several hosts give every process the same command and --distributed (TPU slices, SLURM), or
where to find process 0, how many there are and which this is; all must reach the data and the output directory.

Ctrl-C saves the state and stops; pressed again, it stops at once.

Exit codes: 0 done; 1 an error; 2 wrong usage; 75 SIGTERM or Ctrl-C came to one of the processes: all saved the same
step, start them again; 130 stopped without saving.
"""

import argparse
import sys
from collections.abc import Sequence

import epfv2_jax
from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("train", __doc__)
    flags.add_recipe("quickstart")
    flags.add_argument("--distributed", action="store_true", help="join the processes that the environment names")
    flags.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    flags.add_argument("--num_processes", type=int, help="of the run")
    flags.add_argument("--process_id", type=int, help="of this process, 0 to num_processes - 1")
    flags.add_argument("--profile", type=int, default=0, help="steps of which a trace is written, to OUTPUT/profile")
    return flags


def run(args: argparse.Namespace) -> None:
    """Trains, and prints the scores."""
    from epfv2_jax.core import compile_cache, multihost
    from epfv2_jax.experiment import recipe, summary, train
    from epfv2_jax.experiment.config import ExperimentConfig

    config = recipe.from_arguments(ExperimentConfig, args)
    if args.print_config:
        print(recipe.describe(config))
        return
    with multihost.ends_together(), exits.one_line_errors():
        multihost.join(args.distributed, args.coordinator_address, args.num_processes, args.process_id)
        compile_cache.enable()
        result = train.train_and_evaluate(config, started=epfv2_jax.IMPORTED, profile_steps=args.profile)
        if multihost.is_first():
            print(summary.of_run(config, result))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
