"""How training batches are made up and read."""

import dataclasses
from typing import Literal

from epfv2_jax.core import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoConfig:
    """Clips without truth that a teacher labels, mixed into every batch; give either `labels` or `teacher`."""

    directory: str  # records of one split; their own joints are never read
    labels: str | None = None  # the output of a label pass over them
    teacher: str | None = None  # checkpoints of a teacher that labels the clips in the step: for small sets
    batch_size: int = 8  # clips in each batch, besides the labelled ones
    max_sigma_m: float | None = None  # joints of which the teacher is less sure than this are left out; None: all count

    def __post_init__(self):
        if (self.labels is None) == (self.teacher is None):
            raise ValueError("give either labels (a label pass) or teacher (checkpoints), and not both")
        checks.at_least(1, batch_size=self.batch_size)
        if self.max_sigma_m is not None:
            checks.above(0, max_sigma_m=self.max_sigma_m)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """Batches of more and shorter clips at the start: neighbouring frames teach an encoder hardly more than one."""

    steps: int  # that the warm-up lasts
    clip_frames: int  # frames T of a clip
    batch_size: int  # clips

    def __post_init__(self):
        checks.at_least(1, steps=self.steps, clip_frames=self.clip_frames, batch_size=self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a training batch is, and where it comes from."""

    # "records": of the data set; "synthetic": rendered in the loop as `dataset.synthetic` says, always of new people.
    source: Literal["records", "synthetic"] = "records"
    split: str = "train"  # of the records
    clip_frames: int = 16  # frames T of a clip
    batch_size: int = 8  # clips, of all processes together
    read_threads: int = 2  # each prepares whole batches; 0: the caller's thread, with nothing read ahead
    prefetch_batches: int = 4  # ready or under way ahead of the step; host memory grows with it
    worker_processes: int = 0  # processes that read, each with `read_threads`; 0: the caller's own. For many cores
    cache_bytes: int = 256 * 2**20  # of JPEG data kept in memory, for data sets that fit; 0: every clip is read anew
    warmup: WarmupConfig | None = None
    pseudo: PseudoConfig | None = None  # for a student; None: all clips carry the truth

    @property
    def total_batch_size(self) -> int:
        """Clips of a batch, with truth or with a teacher's labels."""
        return self.batch_size + (self.pseudo.batch_size if self.pseudo else 0)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """`total_batch_size`, and that of the warm-up where there is one."""
        return self.total_batch_size, *([self.warmup.batch_size] if self.warmup else [])

    def __post_init__(self):
        checks.one_of(("records", "synthetic"), source=self.source)
        if self.pseudo is not None and (self.source != "records" or self.warmup is not None):
            raise ValueError("pseudo: labels of a teacher need source = 'records' and no warmup; change one of them")
        checks.at_least(
            1, clip_frames=self.clip_frames, batch_size=self.batch_size, prefetch_batches=self.prefetch_batches
        )
        checks.at_least(
            0, read_threads=self.read_threads, worker_processes=self.worker_processes, cache_bytes=self.cache_bytes
        )
        if self.prefetch_batches < self.read_threads:
            raise ValueError(
                f"prefetch_batches: {self.prefetch_batches} keeps some of {self.read_threads} read_threads idle; "
                "raise it to at least that"
            )
