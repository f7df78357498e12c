"""Reader of Aria Digital Twin: two SLAM cameras, the glasses' trajectory, and a skeleton by optical motion capture.

Run on the public test excerpt (three time steps, in projectaria_tools' test data), not yet on the data set itself. It
defines no splits: put the folders of the sequences into train, validation and test. 14 of EgoBody3M's 26 joints are the
same points in both skeletons; the others are marked as not known.
"""

from epfv2_jax.data.readers.adt.body import JOINTS, LABELS, read_joints, skeleton_of
from epfv2_jax.data.readers.adt.reader import AriaDigitalTwin, SequenceFolder

__all__ = ["JOINTS", "LABELS", "AriaDigitalTwin", "SequenceFolder", "read_joints", "skeleton_of"]
