"""Compiles a recipe's step for TPUs that are not there, and tells whether it fits: python -m epfv2_jax.dry_run ...

  python -m epfv2_jax.dry_run --config configs/egobody3m_resnet18.py --topology v5e:16x16 --batch_per_device 4
  python -m epfv2_jax.dry_run --config configs/teacher_dinov3_vit.py --topology v5e:16x16 --label_pass

It needs the extra `tpu` and neither a TPU nor the data set: joints, views and lenses are those of the recipe's records,
else of its rig or reader. The step is the one that training compiles, on a mesh of all devices of the topology; with
--label_pass it is that of a label pass by the recipe's model, on the devices of one host. --search N then looks for the
largest batch that fits, with at most N more compilations. --quick compiles with the least effort, to see that it can be
done: what it says of memory is not that of the program that will run.

Exit codes: 0 it fits; 1 an error; 2 wrong usage; 3 it does not fit.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.core import cli, exits


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("dry_run", __doc__)
    flags.add_recipe("egobody3m_resnet18")
    flags.add_argument("--topology", required=True, help="generation and shape of the TPU slice, such as v5e:16x16")
    flags.add_argument("--label_pass", action="store_true", help="the step of a label pass, on one host")
    each = "clips (or slots of the label pass) a device; default: the recipe's batch"
    flags.add_argument("--batch_per_device", type=int, help=each)
    flags.add_argument("--search", type=int, default=0, help="compilations to spend on finding the largest batch")
    flags.add_argument("--quick", action="store_true", help="compile with the least effort")
    return flags


def run(args: argparse.Namespace) -> int:
    """Prints what the step costs."""
    import jax

    from epfv2_jax.experiment import dry_run, recipe
    from epfv2_jax.experiment.config import ExperimentConfig

    config = recipe.from_arguments(ExperimentConfig, args)
    if args.print_config:
        print(recipe.describe(config))
        return exits.DONE
    with exits.usage():
        names = ("topology", "label_pass", "batch_per_device", "search", "quick")
        settings = dry_run.Settings(**{name: getattr(args, name) for name in names})
    jax.config.update("jax_platforms", "cpu")  # of this process alone; the TPUs are only described
    fits = dry_run.dry_run(config, settings, lambda text: print(text, flush=True))
    return exits.DONE if fits else exits.PARTIAL


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
