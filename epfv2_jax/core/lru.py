"""A cache that evicts the least recently used entries."""

import collections
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LRU(Generic[Key, Value]):
    """Keeps entries up to a total size and evicts the least recently used. Not thread-safe.

    `close` is called with every value that is dropped, for files and readers.
    """

    def __init__(self, capacity: float, close: Callable[[Value], None] = lambda value: None):
        self._capacity, self._close = capacity, close
        self._entries: collections.OrderedDict[Key, tuple[Value, float]] = collections.OrderedDict()
        self._total = 0.0

    def get(self, key: Key) -> Value | None:
        """Returns the entry and marks it as the most recently used; None if it is not in the cache."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Key, value: Value, size: float = 1.0) -> None:
        """Adds `value` and evicts older entries until the total fits; a value above the capacity is not kept."""
        self.drop(key)
        self._entries[key] = (value, size)
        self._total += size
        while self._total > self._capacity:
            self.drop(next(iter(self._entries)))

    def drop(self, key: Key) -> None:
        """Drops and closes an entry, if it is in the cache."""
        if key in self._entries:
            value, size = self._entries.pop(key)
            self._total -= size
            self._close(value)

    def clear(self) -> None:
        """Drops and closes everything."""
        for key in list(self._entries):
            self.drop(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
