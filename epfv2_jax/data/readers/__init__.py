"""Readers of raw data, by the name that `ConversionConfig.reader` gives. A new format is one more entry."""

from epfv2_jax.data.readers.base import Reader
from epfv2_jax.data.readers.egobody3m import EgoBody3M

READERS: dict[str, Reader] = {
    "egobody3m": EgoBody3M(),
}
