"""Readers of raw data, by the name that `ConversionConfig.reader` gives. A new format is one more entry.

An entry makes the reader of the data below a folder.
"""

import os
from collections.abc import Callable

from epfv2_jax.data.readers.adt import AriaDigitalTwin
from epfv2_jax.data.readers.base import Reader
from epfv2_jax.data.readers.egobody3m import EgoBody3M
from epfv2_jax.data.readers.nymeria import Nymeria
from epfv2_jax.data.readers.recording import Recording
from epfv2_jax.data.readers.unrealego import UnrealEgo

READERS: dict[str, Callable[[str | os.PathLike], Reader]] = {
    "adt": AriaDigitalTwin,
    "egobody3m": EgoBody3M,
    "nymeria": Nymeria,
    "recording": Recording,
    "unrealego": UnrealEgo,
}
