"""Lists the commands, or runs one: python -m epfv2_jax, epfv2 COMMAND ..."""

import importlib
import sys
from collections.abc import Sequence

import epfv2_jax
from epfv2_jax.core import checks, completion, exits

COMMANDS = {  # and what each does: the beginning of its module's docstring
    "train": "Trains a model",
    "evaluate": "Scores a checkpoint",
    "compare": "Compares checkpoints on one split",
    "predict": "Predicts the motion of recordings",
    "demo": "Streams a sequence and writes a video of it",
    "synthesize": "Makes synthetic sequences",
    "convert": "Converts raw data, such as the EgoBody3M zips, to records",
    "validate": "Checks raw data or records, and names what is wrong",
    "preview": "Draws a page of raw data, records or labels",
    "calibrate": "Fits the cameras of every sequence and prints how well",
    "import_weights": "Imports released weights",
    "package": "Packages a checkpoint for sharing",
    "export": "Writes an ONNX graph of a checkpoint",
    "verify_onnx": "Replays the golden sequence of an exported graph, without JAX",
    "pseudo_label": "Labels a directory of records (one split) by a trained model",
    "auto_label": "Trains a teacher, labels with it, trains students and compares them",
    "dry_run": "Compiles a recipe's step for TPUs that are not there, and tells whether it fits",
}
_MORE = """Each explains its flags: python -m epfv2_jax.COMMAND --help
Where it is installed, epfv2 COMMAND does the same; eval "$(epfv2 --print-completion bash)" lets bash complete it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, with the others, and returns its exit code; alone lists all."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        return importlib.import_module(f"epfv2_jax.{name}").main(arguments)
    if name in ("-h", "--help"):
        print(listing())
    elif name == "--version":
        print(f"epfv2_jax {epfv2_jax.__version__}")
    elif name == "--print-completion":
        parsers = {name: importlib.import_module(f"epfv2_jax.{name}").parser() for name in COMMANDS}
        with exits.one_line_errors(), exits.usage():
            print(completion.script("".join(arguments), parsers, COMMANDS))
    else:
        near = checks.nearest(name, COMMANDS)
        print(f"error: {name}: no such command{near} (see python -m epfv2_jax)", file=sys.stderr)
        return exits.USAGE
    return exits.DONE


def listing() -> str:
    """Returns a line for each command."""
    width = max(map(len, COMMANDS))
    return "\n".join([*(f"python -m epfv2_jax.{name:{width}}  {what}" for name, what in COMMANDS.items()), "", _MORE])


if __name__ == "__main__":
    sys.exit(main())
