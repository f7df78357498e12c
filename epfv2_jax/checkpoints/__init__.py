"""Checkpoints: written by training, read by everything that uses a trained model. The only room that uses Orbax."""

from epfv2_jax.checkpoints.about import About, ForeignCheckpointError
from epfv2_jax.checkpoints.imported import load_encoder, save_encoder, save_model
from epfv2_jax.checkpoints.packaged import save_package
from epfv2_jax.checkpoints.reader import load, run_directory
from epfv2_jax.checkpoints.storage import BEST, DAMAGED, LATEST, read_item
from epfv2_jax.checkpoints.trained import NOT_STATED, Card, Scores, Trained
from epfv2_jax.checkpoints.writer import CheckpointWriter

__all__ = [
    "BEST",
    "DAMAGED",
    "LATEST",
    "NOT_STATED",
    "About",
    "Card",
    "CheckpointWriter",
    "ForeignCheckpointError",
    "Scores",
    "Trained",
    "load",
    "load_encoder",
    "read_item",
    "run_directory",
    "save_encoder",
    "save_model",
    "save_package",
]
