"""Trains a teacher, labels with it, trains students and compares them: python -m epfv2_jax.auto_label --config R.py

The teacher learns from the labelled set and labels the unlabelled one; the students learn from both. The same command
again goes on where it was interrupted.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("auto_label", __doc__)
    flags.add_recipe("als_quickstart", "AutoLabelConfig")
    return flags


def run(args: argparse.Namespace) -> None:
    """Runs the recipe, and prints the comparison."""
    from epfv2_jax.core import compile_cache, multihost
    from epfv2_jax.experiment import recipe
    from epfv2_jax.experiment.config import AutoLabelConfig

    config = recipe.from_arguments(AutoLabelConfig, args)
    if args.print_config:
        print(recipe.describe(config))
        return
    from epfv2_jax.experiment import auto_label, summary

    multihost.join(distributed=False)
    compile_cache.enable()
    print(summary.of_auto_labelling(config, auto_label.auto_label(config)))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
