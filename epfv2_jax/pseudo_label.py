"""Labels a directory of records (one split) by a trained model: plan, run, status, verify.

  python -m epfv2_jax.pseudo_label plan   --data DIR --checkpoint runs/TEACHER --out DIR
  python -m epfv2_jax.pseudo_label run    --data DIR --checkpoint runs/TEACHER --out DIR [--engine local|index|ray]
  python -m epfv2_jax.pseudo_label status --out DIR
  python -m epfv2_jax.pseudo_label verify --data DIR --out DIR [--parquet DIR]

`run` labels what is not labelled yet; kill it when you like and run it again. Each frame is labelled, or quarantined
with a reason: exit code 3 of run (for its share) and verify (for the whole pass). Engines and chips: docs/pods.md.
"""

import argparse
import sys
from collections.abc import Sequence

from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.core import cli, exits, tasks

_VERBS = {"plan": "fix the work", "run": "label what is left", "status": "count what is done", "verify": "check it all"}
_PLAN = {"unit_frames": "published in one piece", "slots": "side by side", "chunk_frames": "of a stream in a batch"}


def parser() -> cli.Parser:
    """Returns the command's flags."""
    flags = cli.parser("pseudo_label", __doc__)
    verbs = flags.add_subparsers(dest="verb", required=True, metavar="|".join(_VERBS), help="what to do:")
    for name, what in _VERBS.items():
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("--out", required=True, help="directory of the pass, also on gs:// or s3://")
        if name != "status":
            verb.add_argument("--data", required=True, help="directory of records, one split")
        if name in ("plan", "run"):
            verb.add_argument("--checkpoint", required=True, help=f"of the teacher: {cli.CHECKPOINT}")
    for name, meaning in _PLAN.items():
        verbs.choices["plan"].add_argument(f"--{name}", type=int, default=getattr(PassConfig(), name), help=meaning)
    tasks.add_arguments(verbs.choices["run"])
    verb.add_argument("--parquet", help="directory to which the labels are written as Parquet as well")
    return flags


def run(args: argparse.Namespace) -> int:
    """Does what the verb says, and prints what came of it."""
    with exits.usage():
        given = {name: value for name, value in vars(args).items() if name in ("out", "data", "checkpoint", "parquet")}
        given |= {"config": PassConfig(**{name: getattr(args, name) for name in _PLAN})} if args.verb == "plan" else {}
        given |= {"engine": tasks.from_arguments(args)} if args.verb == "run" else {}
    from epfv2_jax.autolabel import command

    text, code = command.VERBS[args.verb](**given)
    print(text, file=sys.stderr if code == exits.ERROR else sys.stdout)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return cli.run(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
