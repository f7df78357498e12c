"""The arrays that travel between the rooms: dtype, shape, unit and coordinate frame of every field."""

from epfv2_jax.structs.blank import abstract, blank_frames
from epfv2_jax.structs.frames import Batch, Frames, Rig, Targets
from epfv2_jax.structs.predictions import BodyParameters, Predictions, StudentT

__all__ = [
    "Batch",
    "BodyParameters",
    "Frames",
    "Predictions",
    "Rig",
    "StudentT",
    "Targets",
    "abstract",
    "blank_frames",
]
