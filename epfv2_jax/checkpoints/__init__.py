"""Checkpoints: written by training, read by everything that uses a trained model. The only room that uses Orbax."""

from epfv2_jax.checkpoints.about import About, ForeignCheckpointError
from epfv2_jax.checkpoints.imported import load_encoder, save_encoder, save_model
from epfv2_jax.checkpoints.reader import Trained, load, run_directory
from epfv2_jax.checkpoints.storage import BEST, DAMAGED, LATEST, read_item
from epfv2_jax.checkpoints.writer import CheckpointWriter

__all__ = [
    "BEST",
    "DAMAGED",
    "LATEST",
    "About",
    "CheckpointWriter",
    "ForeignCheckpointError",
    "Trained",
    "load",
    "load_encoder",
    "read_item",
    "run_directory",
    "save_encoder",
    "save_model",
]
