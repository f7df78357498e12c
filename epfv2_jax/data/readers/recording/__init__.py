"""Reader of recordings of any headset: EuRoC ASL folders, Kalibr's field names, and a headset.yaml.

docs/own_data.md describes the layout.
"""

from epfv2_jax.data.readers.recording.headset import HEADSET_NAME, Headset, HeadsetView, read_headset, rig_of
from epfv2_jax.data.readers.recording.reader import Recording
from epfv2_jax.data.readers.recording.rigs import open_rig
from epfv2_jax.data.readers.recording.sequence import RecordingFiles, cameras_of, find_sequences

__all__ = [
    "HEADSET_NAME",
    "Headset",
    "HeadsetView",
    "Recording",
    "RecordingFiles",
    "cameras_of",
    "find_sequences",
    "open_rig",
    "read_headset",
    "rig_of",
]
