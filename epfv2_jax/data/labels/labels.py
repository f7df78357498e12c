"""The labels of a finished pass as a random-access source beside the records; units in a store are copied to disk."""

import os
import threading

import numpy as np

from epfv2_jax.core import copies, files, lru
from epfv2_jax.data import records as records_lib
from epfv2_jax.data.labels.directory import UNIT_FOLDER, published_units, unit_file
from epfv2_jax.data.labels.plan import read_plan
from epfv2_jax.data.labels.rows import LabelRun
from epfv2_jax.data.labels.units import UnitReader

_MAX_OPEN_UNITS = 256


class Labels:
    """The labels of a pass: `labels[i]` is the LabelRun of image record i. Thread-safe and picklable."""

    def __init__(self, directory: str | os.PathLike):
        """Opens `directory`; use `open_labels`, which also checks that the pass is finished."""
        self.directory = files.locate(directory)
        plan, self.plan_sha256 = read_plan(self.directory)
        self.manifest_sha256 = plan.records.manifest_sha256
        self.teacher_sha256 = plan.teacher.sha256
        #: Whether the rows state an uncertainty.
        self.with_uncertainty = plan.teacher.with_uncertainty
        #: (U + 1,) first record of each unit, and the number of records.
        self.bounds = np.array([0, *(stop for _, stop, _ in plan.units)], np.int64)
        self._forget_readers()

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, index: int) -> LabelRun:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.directory}: label record {index} of {len(self)}")
        unit = int(np.searchsorted(self.bounds, index, side="right")) - 1
        run = self.unit(unit)[index - int(self.bounds[unit])]
        if run.record != index or run.plan_sha256 != self.plan_sha256:
            raise ValueError(f"{self.directory}: unit {unit} is not of this pass; delete its file and run again")
        return run

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.bounds) - 1

    def unit(self, unit: int) -> UnitReader:
        """Returns the open file of a unit."""
        with self._lock:
            reader = self._readers.get(unit)
            if reader is None:
                size = int(self.bounds[unit + 1] - self.bounds[unit])
                path = self.directory / UNIT_FOLDER / unit_file(unit)
                reader = UnitReader(copies.newest(path), size, path)
                self._readers.put(unit, reader)
            return reader

    def _forget_readers(self) -> None:
        # A reader that is dropped is closed when the last thread that reads from it lets go of it.
        self._readers: lru.LRU[int, UnitReader] = lru.LRU(_MAX_OPEN_UNITS)
        self._lock = threading.Lock()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget_readers()


def open_labels(directory: str | os.PathLike, records: records_lib.Records | None = None) -> Labels:
    """Returns the labels of a finished pass, after checking that they are those of `records`.

    Raises:
      ValueError: there is no plan, a unit is not labelled yet, or the labels are of other records.
    """
    labels = Labels(directory)
    published = published_units(labels.directory, labels.num_units)
    missing = [unit for unit in range(labels.num_units) if unit not in published]
    if missing:
        raise ValueError(
            f"{directory}: {len(missing)} of {labels.num_units} units are not labelled, the first is {missing[0]}; run "
            "the label pass again, it continues where it stopped"
        )
    if records is not None:
        found = files.sha256(records.directory / records_lib.MANIFEST_NAME)
        if found != labels.manifest_sha256:
            raise ValueError(
                f"{directory}: the labels are not of {records.directory} (manifest {found[:12]}, labelled was "
                f"{labels.manifest_sha256[:12]}); label these records"
            )
    return labels
