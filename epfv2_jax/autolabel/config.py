"""The shape of a label pass. The command line reads its defaults from here without importing JAX."""

import dataclasses

from epfv2_jax.core import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassConfig:
    """The shape of the work. It affects how labels are rounded, so it is part of the plan."""

    unit_frames: int = 8192  # frames published in one piece, approximately: units end where records or streams do
    slots: int = 8  # streams labelled side by side, B of a batch; a multiple of the devices of a process
    chunk_frames: int = 16  # consecutive frames T of a stream in one batch

    def __post_init__(self):
        checks.at_least(1, unit_frames=self.unit_frames, slots=self.slots, chunk_frames=self.chunk_frames)
