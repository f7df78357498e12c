"""The cache of records that were read."""

import threading

from epfv2_jax.core import lru
from epfv2_jax.data.records import FrameRun, Records


class RunCache:
    """Reads records and keeps the most recently used, up to a number of bytes of JPEG data.

    Threads may share it. It can be pickled; its copy starts empty.
    """

    def __init__(self, records: Records, max_bytes: int):
        self._records, self._max_bytes = records, max_bytes
        self._kept: lru.LRU[int, FrameRun] = lru.LRU(max_bytes)
        self._lock = threading.Lock()

    def __getitem__(self, record: int) -> FrameRun:
        with self._lock:
            run = self._kept.get(record)
        if run is not None:
            return run
        run = self._records[record]
        num_bytes = sum(len(jpeg) for frame in run.jpegs for jpeg in frame)
        if num_bytes <= self._max_bytes:  # a larger one would push out all others
            with self._lock:
                self._kept.put(record, run, num_bytes)
        return run

    def __reduce__(self):
        return type(self), (self._records, self._max_bytes)
