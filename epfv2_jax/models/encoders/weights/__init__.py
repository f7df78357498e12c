"""Imports the weights of PyTorch encoders without PyTorch. A new layout is a line in the table of its family."""

from epfv2_jax.models.encoders.weights.architecture import LOOKALIKES, confirm
from epfv2_jax.models.encoders.weights.convert import LAYOUTS, Imported, convert, encoder_names
from epfv2_jax.models.encoders.weights.layout import ZEROS, Layout, Third
from epfv2_jax.models.encoders.weights.reading import TensorFile, read

__all__ = [
    "LAYOUTS",
    "LOOKALIKES",
    "ZEROS",
    "Imported",
    "Layout",
    "TensorFile",
    "Third",
    "confirm",
    "convert",
    "encoder_names",
    "read",
]
