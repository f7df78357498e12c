"""The file of a unit: its label records, then a footer with their digest, so that a file can be checked by itself."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from array_record.python import array_record_module
from flax import serialization

from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.labels import rows
from epfv2_jax.data.labels.rows import BadRow, LabelRun, Status

# As in records: each label record can be read without its neighbours. Float32 values hardly compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footer:
    """The last entry of a unit's file: a summary of the entries before it."""

    version: int = rows.FORMAT_VERSION
    plan_sha256: str
    unit: int
    num_rows: int
    counts: tuple[int, ...]  # rows by Status
    sha256: str  # of the label records' digests
    bad_rows: tuple[BadRow, ...]  # the first of them

    def __post_init__(self):
        checks.equal("counts, number of entries", len(self.counts), len(Status))
        checks.at_least(0, unit=self.unit, **{f"counts[{i}]": n for i, n in enumerate(self.counts)})
        checks.equal("counts, sum", sum(self.counts), self.num_rows)


def write_unit(path: str | os.PathLike, unit: int, runs: Iterable[LabelRun], bad_rows: Iterable[BadRow]) -> Footer:
    """Writes the file of a unit (one run or more), reads it back and returns its footer.

    The bytes depend on the arguments alone. The file is written in place: pass a temporary path and publish it after.

    Raises:
      OSError: the file cannot be written whole, or does not read back as written; nothing is left at `path`.
    """
    path = pathlib.Path(path)
    counts, digests = np.zeros(len(Status), np.int64), []
    try:
        with contextlib.closing(array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)) as writer:
            for run in runs:
                data = rows.encode(run)
                writer.write(data)
                digests.append(hashlib.sha256(data).digest())
                counts += np.bincount(run.status, minlength=len(Status))
            footer = Footer(
                plan_sha256=run.plan_sha256,
                unit=unit,
                num_rows=int(counts.sum()),
                counts=tuple(counts.tolist()),
                sha256=hashlib.sha256(b"".join(digests)).hexdigest(),
                bad_rows=tuple(bad_rows),
            )
            writer.write(serialization.msgpack_serialize(config_lib.to_mapping(footer)))
        with UnitReader(path, len(digests)) as reader:
            if reader.footer != footer or reader.sha256() != footer.sha256:
                raise OSError("it does not read back as it was written")
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError, ValueError) as error:  # the writer raises RuntimeError, the reader ValueError
        path.unlink(missing_ok=True)
        raise OSError(f"unit {unit}: {path} could not be written ({error}); is the disk full?") from error
    return footer


@contextlib.contextmanager
def published_unit(path: str | os.PathLike, num_records: int) -> Iterator["UnitReader"]:
    """Gives a reader of a published file on a disk, or of a temporary copy of one in an object store."""
    with files.local_copy(path) as copy, UnitReader(copy, num_records, path) as reader:
        yield reader


class UnitReader:
    """Reads the published file of a unit: `reader[i]` is its label record i. Thread-safe."""

    def __init__(self, path: str | os.PathLike, num_records: int, named: str | os.PathLike | None = None):
        """Opens the file of a unit that was planned with `num_records` records; `named`: its path in messages.

        Raises:
          ValueError: the file is empty, truncated, or has another number of records.
        """
        self.path = os.fspath(path if named is None else named)
        self.num_records = num_records
        with checks.naming(self.path, RuntimeError, rows.REMEDY):
            self._reader = array_record_module.ArrayRecordReader(os.fspath(path), _READER_OPTIONS)
        found = self._reader.num_records()  # 0 for a file that is not an ArrayRecord
        if found != num_records + 1:
            self.close()
        remedy = "half-written, or truncated by a copy: delete it and run the label pass again"
        name = f"{self.path}: label records and a footer in {os.path.getsize(path)} bytes"
        checks.equal(name, found, num_records + 1, remedy)
        self.footer = self._read_footer()

    def __getitem__(self, index: int) -> LabelRun:
        with checks.naming(f"{self.path}: label record {index}"):
            return rows.decode(self._read(index))

    def sha256(self) -> str:
        """Returns the digest of the label records, to be compared with the footer's."""
        digests = (hashlib.sha256(self._read(i)).digest() for i in range(self.num_records))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(RuntimeError):  # a damaged file raises its read error again
            self._reader.close()

    def __enter__(self) -> "UnitReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, index: int) -> bytes:
        with checks.naming(f"{self.path}: entry {index} is damaged", RuntimeError, rows.REMEDY):
            return self._reader.read([index])[0]

    def _read_footer(self) -> Footer:
        with checks.naming(f"{self.path}: footer", remedy=rows.REMEDY):
            return config_lib.from_mapping(Footer, rows.restore(self._read(self.num_records)), "")
