"""Shards: ArrayRecord files of runs that appear whole or not at all.

A shard is written under a temporary name, closed, read back, counted, hashed and only then renamed: a killed writer
leaves no file that looks like a shard. An ArrayRecord file that was cut short can open as an empty one without any
error, so readers compare its size with the manifest.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Protocol

from array_record.python import array_record_module

from epfv2_jax.core import checks, copies, files
from epfv2_jax.data.records.runs import FrameRun, encode

SHARD_SUFFIX = ".arrayrecord"
#: Most frames in a record: our choice. Those of a record are in memory together.
MAX_RECORD_FRAMES = 4096

# JPEGs do not compress further, and a group of one makes each record readable on its own.
_WRITER_OPTIONS = "group_size:1,uncompressed"
# A fixed name: the next try after a killed process overwrites what that left.
_TEMPORARY_SUFFIX = ".tmp"
_DAMAGED = "delete it and run the conversion again"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*" + re.escape(SHARD_SUFFIX))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordEntry:
    """What the manifest says of one record."""

    sequence: str
    first_frame: int
    num_frames: int

    def __post_init__(self):
        checks.within(0, 2**31 - MAX_RECORD_FRAMES, first_frame=self.first_frame)
        checks.within(1, MAX_RECORD_FRAMES, num_frames=self.num_frames)

    @classmethod
    def of(cls, run: FrameRun) -> "RecordEntry":
        """Returns the entry of a run."""
        return cls(sequence=run.sequence, first_frame=int(run.frame_index[0]), num_frames=run.num_frames)


class ShardFile(Protocol):
    """A file of records and its checksum, as manifests and plans state them."""

    file: str
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest says of one shard file."""

    file: str
    num_bytes: int
    sha256: str
    records: tuple[RecordEntry, ...]

    def __post_init__(self):
        if not _SHARD_NAME.fullmatch(self.file):
            raise ValueError(f"file: {self.file!r} is not a plain file name that ends in {SHARD_SUFFIX}")
        checks.at_least(0, num_bytes=self.num_bytes)
        checks.not_empty("records", self.records, "a shard has at least one")


def write_shard(path: str | os.PathLike, runs: Iterable[FrameRun]) -> Shard:
    """Returns the manifest entry of a shard after writing it to `path`, whole or not at all.

    The bytes depend on the runs only. A file that is already at `path` is replaced.

    Raises:
      ValueError: there are no runs, or the file does not read back as it was written (a full or failing disk).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        entries, digests = _write(temporary, runs)
        checks.not_empty(f"{path}: records", entries, "a shard needs at least one")
        count, same = _read_back(temporary, digests)
        if not same:
            raise ValueError(
                f"{path}: wrote {len(entries)} records, but they do not read back ({count}); check the disk"
            )
        sha256, num_bytes = files.sha256(temporary), temporary.stat().st_size
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Shard(file=path.name, num_bytes=num_bytes, sha256=sha256, records=tuple(entries))


def check_shard_size(directory: str | os.PathLike, shard: ShardFile) -> None:
    """Raises ValueError unless the file of `shard` exists with the size that the manifest states."""
    path = pathlib.Path(directory) / shard.file
    _check_size(path, shard, path.stat().st_size if path.is_file() else None)


def check_shard_sizes(directory: str | os.PathLike, shards: Iterable[ShardFile]) -> None:
    """Raises ValueError as `check_shard_size` does for each shard, after listing the directory once."""
    found = files.sizes(directory)
    for shard in shards:
        _check_size(files.locate(directory) / shard.file, shard, found.get(shard.file))


def check_shard_content(directory: str | os.PathLike, shard: Shard) -> None:
    """Raises ValueError unless the file of `shard` has the checksum and the number of records of the manifest."""
    path = files.locate(directory) / shard.file
    checks.equal(f"{path}: sha256", files.sha256(path), shard.sha256, _DAMAGED)
    reader = array_record_module.ArrayRecordReader(os.fspath(local_shard(directory, shard)))
    count = reader.num_records()
    reader.close()
    checks.equal(f"{path}: records", count, len(shard.records), "convert the data again")


def local_shard(directory: str | os.PathLike, shard: ShardFile) -> pathlib.Path:
    """Returns the file of a shard on disk; one in an object store is copied to this machine's disk (`core.copies`)."""
    return copies.checked(files.locate(directory) / shard.file, shard.sha256, shard.num_bytes, _DAMAGED)


def _check_size(path: os.PathLike, shard: ShardFile, found: int | None) -> None:
    if found is None:
        files.check_file(path, "run the conversion again")
    remedy = "half-written or cut in a copy: delete it and run the conversion again"
    checks.equal(f"{path}: bytes", found, shard.num_bytes, remedy)


def _write(path: pathlib.Path, runs: Iterable[FrameRun]) -> tuple[list[RecordEntry], list[bytes]]:
    """Returns the entries and the digests of the records after writing them."""
    entries, digests = [], []
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
    try:
        for run in runs:
            data = encode(run)
            writer.write(data)
            digests.append(hashlib.sha256(data).digest())
            entries.append(RecordEntry.of(run))
    finally:
        writer.close()
    return entries, digests


def _read_back(path: pathlib.Path, digests: list[bytes]) -> tuple[int, bool]:
    """Returns the number of records in a file and whether they are those with these digests."""
    reader = array_record_module.ArrayRecordReader(os.fspath(path))
    try:
        count = reader.num_records()
        same = count == len(digests) and all(
            hashlib.sha256(reader.read([i])[0]).digest() == digest for i, digest in enumerate(digests)
        )
    finally:
        reader.close()
    return count, same
