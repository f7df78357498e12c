"""Reads the planned records. Damage to a record is reported as such, damage to its shard ends the pass."""

import contextlib
import hashlib
import os
from collections.abc import Sequence

import numpy as np
from array_record.python import array_record_module

from epfv2_jax.core import checks, files, lru
from epfv2_jax.data import records
from epfv2_jax.data.labels import ShardChecksum

_MAX_OPEN_SHARDS = 16
# What reading raises for a record that is damaged or of another kind.
_UNUSABLE = (ValueError, TypeError, AttributeError, IndexError, RuntimeError)

Reader = array_record_module.ArrayRecordReader


class ShardFiles:
    """Opens the planned shard files after comparing each with its checksum."""

    def __init__(self, directory: str | os.PathLike, shards: Sequence[ShardChecksum]):
        self.directory = files.locate(directory)
        self._shards = shards
        self._starts = np.cumsum([0, *(shard.num_records for shard in shards)])
        self._checked: dict[int, tuple[int, ...]] = {}

    def locate(self, record: int) -> tuple[int, int]:
        """Returns the shard of a record and the record's index within it."""
        shard = int(np.searchsorted(self._starts, record, side="right")) - 1
        return shard, record - int(self._starts[shard])

    def open(self, shard: int) -> Reader:
        """Returns a new reader of a shard, after `check`."""
        self.check(shard)
        path = records.local_shard(self.directory, self._shards[shard])
        return array_record_module.ArrayRecordReader(os.fspath(path), "readahead_buffer_size:0")

    def check(self, shard: int, again: bool = False) -> None:
        """Computes the checksum of a shard: once, and again when asked or when the file was replaced or modified.

        Raises:
          ValueError: it is not the planned checksum.
          OSError: the file cannot be read.
        """
        planned = self._shards[shard]
        with open(records.local_shard(self.directory, planned), "rb") as file:
            stat = os.fstat(file.fileno())
            seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._checked.get(shard) == seen and not again:
                return
            found = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{self.directory / planned.file}: sha256"
        checks.equal(name, found, planned.sha256, "the input has changed: restore it, or plan another pass")
        self._checked[shard] = seen


class RecordReader:
    """Reads records by index. Use it as a context manager: it keeps shards open. Not thread-safe."""

    def __init__(self, shards: ShardFiles, spec: records.RecordSpec, entries: Sequence[records.RecordEntry]):
        self._shards, self._spec, self._entries = shards, spec, entries
        self._readers: lru.LRU[int, Reader] = lru.LRU(_MAX_OPEN_SHARDS, close=_close)
        self._rechecked: set[int] = set()

    def __enter__(self) -> "RecordReader":
        return self

    def __exit__(self, *_) -> None:
        self._readers.clear()

    def read(self, record: int) -> tuple[records.FrameRun | None, str]:
        """Returns (run, "") for a record, or (None, reason) if it cannot be used.

        A record that fails is read a second time from a newly opened and checked shard, so that a passing error of the
        storage does not become a label.

        Raises:
          ValueError: the shard is not the planned one.
          OSError: the shard cannot be read.
        """
        shard, index = self._shards.locate(record)
        reader = self._reader(shard)
        try:
            return self._decode(record, reader, index), ""
        except _UNUSABLE:
            self._readers.drop(shard)
            self._shards.check(shard, again=shard not in self._rechecked)
            self._rechecked.add(shard)
        reader = self._reader(shard)
        try:
            return self._decode(record, reader, index), ""
        except _UNUSABLE as error:
            return None, f"record {record}: {error}"

    def _reader(self, shard: int) -> Reader:
        reader = self._readers.get(shard)
        if reader is None:
            reader = self._shards.open(shard)
            self._readers.put(shard, reader)
        return reader

    def _decode(self, record: int, reader: Reader, index: int) -> records.FrameRun:
        run = records.decode(reader.read([index])[0])
        if problem := self._problem(record, run):
            raise ValueError(problem)
        return run

    def _problem(self, record: int, run: records.FrameRun) -> str:
        """Returns why a run cannot be used; an empty string if it can."""
        found = records.RecordEntry.of(run)
        if found != self._entries[record]:
            return f"it is {found}, the manifest says {self._entries[record]}"
        if difference := self._spec.difference(run):
            return f"{difference} as in the manifest"
        return ""


def _close(reader: Reader) -> None:
    with contextlib.suppress(RuntimeError):  # a reader of a damaged record raises its error again
        reader.close()
