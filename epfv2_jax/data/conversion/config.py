"""How raw data become records. Light: a command line reads the defaults without importing JAX or a reader."""

import dataclasses
from typing import Literal

from epfv2_jax.core import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """How raw data become records."""

    reader: str = "egobody3m"  # a key of `data.readers.READERS`
    image_size_hw: tuple[int, int] = (256, 256)  # of the upright images; the two factors may differ
    levels: tuple[int, ...] | None = None  # annotation levels to keep (0 is the best grade); None keeps all
    record_frames: int = 64  # most frames in a record
    jpeg_quality: int = 92  # of the images in the records, 1 to 100
    # What becomes of a sequence with a poorly calibrated camera (see `data.calibration`), or with cameras, poses or a
    # body that cannot be (see `geometry.plausibility`): "quarantine" leaves it out, "keep" uses all as it is (the
    # default headset's camera where too few joints are seen to fit one).
    doubtful: Literal["quarantine", "keep"] = "quarantine"

    def __post_init__(self):
        for i, size in enumerate(self.image_size_hw):
            checks.within(16, 2048, **{f"image_size_hw[{i}]": size})
        if self.levels is not None:
            checks.not_empty("levels", self.levels, "give some, or None for all")
            checks.at_least(0, levels=min(self.levels))
        checks.within(1, 4096, record_frames=self.record_frames)
        checks.within(1, 100, jpeg_quality=self.jpeg_quality)
