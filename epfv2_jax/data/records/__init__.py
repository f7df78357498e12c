"""Records: runs of consecutive frames of one sequence, in ArrayRecord shards beside a manifest that is written last.

A directory holds one split:

    <name>.arrayrecord   shards, one FrameRun a record
    manifest.json        skeleton, rig layout, image size, frame time, and shards with checksums; without it the split
                         is unfinished
"""

from epfv2_jax.data.records.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    Manifest,
    RecordSpec,
    read_manifest,
    write_manifest,
)
from epfv2_jax.data.records.reading import Records, open_records, verify
from epfv2_jax.data.records.runs import (
    MAX_POSITION_M,
    RECORD_VERSION,
    FrameRun,
    check_headset,
    decode,
    decode_images,
    encode,
    frame_gaps,
    headset_faults,
)
from epfv2_jax.data.records.shards import (
    SHARD_SUFFIX,
    RecordEntry,
    Shard,
    ShardFile,
    check_shard_size,
    check_shard_sizes,
    local_shard,
    write_shard,
)

__all__ = [
    "MANIFEST_NAME",
    "MANIFEST_VERSION",
    "MAX_POSITION_M",
    "RECORD_VERSION",
    "SHARD_SUFFIX",
    "FrameRun",
    "Manifest",
    "RecordEntry",
    "RecordSpec",
    "Records",
    "Shard",
    "ShardFile",
    "check_headset",
    "check_shard_size",
    "check_shard_sizes",
    "decode",
    "decode_images",
    "encode",
    "frame_gaps",
    "headset_faults",
    "local_shard",
    "open_records",
    "read_manifest",
    "verify",
    "write_manifest",
    "write_shard",
]
