"""Reader of the released EgoBody3M zips.

Stored images have their +x pointing down; stored lengths are centimetres and leave here as metres. The release holds no
calibration: the cameras are fitted to the projections that come with every joint.
"""

from epfv2_jax.data.readers.base import SPLITS
from epfv2_jax.data.readers.egobody3m.frame import FRAME_S, MAX_JOINT_DISTANCE_M, FrameMetadata, parse_frame
from epfv2_jax.data.readers.egobody3m.reader import EgoBody3M, calibrate, read_metadata
from epfv2_jax.data.readers.egobody3m.sequence import SequenceFiles, SequenceReader, find_sequences

__all__ = [
    "FRAME_S",
    "MAX_JOINT_DISTANCE_M",
    "SPLITS",
    "EgoBody3M",
    "FrameMetadata",
    "SequenceFiles",
    "SequenceReader",
    "calibrate",
    "find_sequences",
    "parse_frame",
    "read_metadata",
]
