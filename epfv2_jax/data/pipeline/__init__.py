"""Batches of clips from records: every clip once an epoch, in an order that depends on the seed and the step only.

A record is cut into clips of `clip_frames` consecutive frames. The order of the clips is a shuffle of their numbers,
reshuffled every epoch; step s trains on samples s * batch_size ... (s + 1) * batch_size - 1 of that endless order,
and process p on its slice of those. Shards, threads and worker processes do not change it. The whole state of the
stream is thus the global step: a run resumes, on any number of processes, by asking for `start_step`, at no cost.
"""

from epfv2_jax.data.pipeline.abstract import abstract_batch
from epfv2_jax.data.pipeline.config import DataConfig, PseudoConfig, WarmupConfig
from epfv2_jax.data.pipeline.evaluation import eval_batches
from epfv2_jax.data.pipeline.index import PADDING_CLIP_ID, ClipIndex, build_index
from epfv2_jax.data.pipeline.training import confident, mixed_batches, train_batches

__all__ = [
    "PADDING_CLIP_ID",
    "ClipIndex",
    "DataConfig",
    "PseudoConfig",
    "WarmupConfig",
    "abstract_batch",
    "build_index",
    "confident",
    "eval_batches",
    "mixed_batches",
    "train_batches",
]
