"""Lists the commands: python -m epfv2_jax"""

#: Each command, and what it does: the beginning of its module's docstring.
COMMANDS = {
    "train": "Trains a model",
    "evaluate": "Scores a checkpoint",
    "compare": "Compares checkpoints on one split",
    "demo": "Streams a sequence and writes a video of it",
    "synthesize": "Makes synthetic sequences in the EgoBody3M layout",
    "convert": "Converts raw data, such as the EgoBody3M zips, to records",
    "calibrate": "Fits the cameras of every sequence and prints how well",
    "import_weights": "Imports released weights",
    "export": "Writes an ONNX graph of a checkpoint",
    "verify_onnx": "Replays the golden sequence of an exported graph, without JAX",
    "pseudo_label": "Labels a directory of records (one split) by a trained model",
    "auto_label": "Trains a teacher, labels with it, trains students and compares them",
    "dry_run": "Compiles a recipe's step for TPUs that are not there, and tells whether it fits",
}


def main() -> None:
    """Prints a line for each command."""
    width = max(map(len, COMMANDS))
    for name, what in COMMANDS.items():
        print(f"python -m epfv2_jax.{name:{width}}  {what}")
    print("\nEach explains its flags: python -m epfv2_jax.COMMAND --help")


if __name__ == "__main__":
    main()
