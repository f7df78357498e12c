"""Reader of UnrealEgo and UnrealEgo2: two fisheye cameras on glasses, rendered people, 16 joints.

Of a download, the PNG images and the JSON labels are read; the pickled npy files are not. The folder of the source also
holds the lists train.txt, validation.txt and test.txt, and the authors' fisheye_calibration_UEP.json (from utils/ of
github.com/hiroyasuakada/UnrealEgo). Not yet run on the real data: the tests write files of this format. UnrealEgo-RW
has the same format, but its calibration is not public.
"""

from epfv2_jax.data.readers.unrealego.body import LAYOUT, UNREALEGO
from epfv2_jax.data.readers.unrealego.reader import UnrealEgo

__all__ = ["LAYOUT", "UNREALEGO", "UnrealEgo"]
