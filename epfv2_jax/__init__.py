"""EgoPoseFormer v2 in JAX and Flax: egocentric full-body motion from headset cameras."""

import time

__version__ = "0.1.0"

#: When this process began to import the package, as time.perf_counter() tells it.
IMPORTED = time.perf_counter()
