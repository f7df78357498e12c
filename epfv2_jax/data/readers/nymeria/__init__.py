"""Reader of Nymeria: two SLAM cameras and the trajectory of Aria glasses, bodies by an XSens suit.

Not yet run on the real data: the tests write files of this format, and a GLB file of Momentum's own tests was read. The
joints are those of the Momentum body where body/xdata_blueman.glb animates joints of EgoBody3M's names, else the 14 of
XSens that are the same points. The data set defines no splits: a participant belongs to one, by name.
"""

from epfv2_jax.data.readers.nymeria.handeye import hand_eye
from epfv2_jax.data.readers.nymeria.momentum import read_motion
from epfv2_jax.data.readers.nymeria.reader import Nymeria
from epfv2_jax.data.readers.nymeria.sequence import SequenceFolder, split_of
from epfv2_jax.data.readers.nymeria.xsens import JOINTS, PARTS, Xsens, read_xsens

__all__ = [
    "JOINTS",
    "PARTS",
    "Nymeria",
    "SequenceFolder",
    "Xsens",
    "hand_eye",
    "read_motion",
    "read_xsens",
    "split_of",
]
