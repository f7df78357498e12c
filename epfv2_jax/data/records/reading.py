"""Reads the records of a split by index.

The reader of ArrayRecord files reads disks only: a shard in an object store is copied to this machine's disk, whole and
checked, when the first of its records is read (`core.copies`).
"""

import os

import numpy as np
from array_record.python import array_record_data_source

from epfv2_jax.core import checks, copies, files
from epfv2_jax.data.records.manifest import MANIFEST_NAME, Manifest, read_manifest
from epfv2_jax.data.records.runs import FrameRun, decode
from epfv2_jax.data.records.shards import RecordEntry, Shard, check_shard_content, check_shard_sizes, local_shard
from epfv2_jax.geometry.cameras import Model
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton


class Records:
    """The records of one split by index: `records[i]` is a `FrameRun`. Threads may share it; it can be pickled."""

    def __init__(self, directory: str | os.PathLike, manifest: Manifest):
        self.directory = files.locate(directory)
        self.manifest = manifest
        self.entries: tuple[RecordEntry, ...] = tuple(entry for shard in manifest.shards for entry in shard.records)
        self._ends = np.cumsum([len(shard.records) for shard in manifest.shards])
        # With the counts in the paths no shard is opened before a record of it is read.
        self._source = array_record_data_source.ArrayRecordDataSource(
            [
                f"{copies.place(self.directory / shard.file, shard.sha256)}[0:{len(shard.records)}]"
                for shard in manifest.shards
            ]
        )
        self._at_hand: set[str] = set()  # shard files that are on this machine's disk, and open

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> FrameRun:
        """Returns a record.

        Raises:
          ValueError: it is damaged, not the record that the manifest describes, or has impossible poses; the message
            names file and record.
        """
        entry, shard = self.entries[index], self._shard(index)
        where = f"{self.directory / shard.file}: record {index} ({entry.sequence})"
        remedy = "delete the file and convert the data again"
        with checks.naming(f"{where} is damaged", RuntimeError, remedy):
            if shard.file not in self._at_hand:
                local_shard(self.directory, shard)
            data = self._source[index]
            self._at_hand.add(shard.file)
        with checks.naming(where):
            run = decode(data)
            checks.equal("entry, as the manifest lists it", RecordEntry.of(run), entry, remedy)
            if difference := self.manifest.spec.difference(run):
                raise ValueError(f"{difference} as in the manifest; {remedy}")
            run.check_motion()
        return run

    def __repr__(self) -> str:
        return f"Records({os.fspath(self.directory)!r}, {len(self)} records, {self.num_frames} frames)"

    def __reduce__(self):
        return type(self), (self.directory, self.manifest)

    def _shard(self, index: int) -> Shard:
        return self.manifest.shards[int(np.searchsorted(self._ends, index % len(self), side="right"))]

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of all records; it gives J."""
        return self.manifest.spec.skeleton

    @property
    def layout(self) -> RigLayout:
        """The views of all records; it gives V."""
        return self.manifest.spec.layout

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """(height, width) of all images, pixels."""
        return self.manifest.spec.image_size_hw

    @property
    def camera_model(self) -> Model:
        """The lens model of all cameras, as in `geometry.cameras.Camera`."""
        return self.manifest.spec.camera_model

    @property
    def frame_s(self) -> float:
        """Nominal time from one frame to the next, seconds."""
        return self.manifest.spec.frame_s

    @property
    def num_views(self) -> int:
        """V."""
        return self.layout.num_views

    @property
    def num_frames(self) -> int:
        """Frames of all records together."""
        return sum(entry.num_frames for entry in self.entries)


def open_records(directory: str | os.PathLike) -> Records:
    """Returns the records of a complete directory, after comparing the sizes of its shards with the manifest.

    Raises:
      ValueError: no manifest, no records, or a shard that is missing or of another size (half-written, cut in a copy).
    """
    directory = files.locate(directory)
    manifest = read_manifest(directory)
    entries = [entry for shard in manifest.shards for entry in shard.records]
    name = f"{directory}: records of split {manifest.split!r}"
    checks.not_empty(name, entries, f"'report' in {MANIFEST_NAME} says what was skipped")
    check_shard_sizes(directory, manifest.shards)
    return Records(directory, manifest)


def verify(directory: str | os.PathLike) -> Manifest:
    """Returns the manifest after checking every shard's size, checksum and record count, and reading every record.

    Raises:
      ValueError: the first shard or record that is not what the manifest says.
    """
    records = open_records(directory)
    for shard in records.manifest.shards:
        check_shard_content(records.directory, shard)
    for index in range(len(records)):
        records[index]
    return records.manifest
