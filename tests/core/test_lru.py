"""The LRU against a plain reference: same entries, same order, and each value is closed once, when it is dropped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epfv2_jax.core.lru import LRU

KEYS = st.integers(0, 3)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("put"), KEYS, st.integers(0, 5)),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("clear")),
    ),
    min_size=15,
    max_size=30,
)


class Reference:
    """A list of (key, value, size), least recently used first."""

    def __init__(self, capacity):
        self.capacity, self.entries, self.closed = capacity, [], []

    def _close(self, wanted):
        self.closed += [value for key, value, _ in self.entries if wanted(key)]
        self.entries = [entry for entry in self.entries if not wanted(entry[0])]

    def get(self, key):
        for entry in self.entries:
            if entry[0] == key:
                self.entries.remove(entry)
                self.entries.append(entry)
                return entry[1]
        return None

    def put(self, key, value, size):
        self._close(lambda k: k == key)
        self.entries.append((key, value, size))
        while sum(size for *_, size in self.entries) > self.capacity:
            self.drop(self.entries[0][0])

    def drop(self, key):
        self._close(lambda k: k == key)

    def clear(self):
        self._close(lambda k: True)


@settings(max_examples=100, deadline=None)
@given(capacity=st.integers(2, 9), operations=OPERATIONS)
def test_behaves_like_the_reference_and_closes_what_it_drops(capacity, operations):
    closed = []
    lru, reference = LRU(capacity, closed.append), Reference(capacity)
    for i, (name, *arguments) in enumerate(operations):
        if name == "put":
            key, size = arguments
            arguments = (key, f"value {i}", size)
        assert getattr(lru, name)(*arguments) == getattr(reference, name)(*arguments)
        assert list(lru) == [key for key, *_ in reference.entries] and len(lru) == len(reference.entries)
        assert closed == reference.closed and len(set(closed)) == len(closed)


def test_entries_count_one_each_unless_told_otherwise():
    lru = LRU(2)
    for key in "abc":
        lru.put(key, key.upper())
    assert list(lru) == ["b", "c"] and lru.get("a") is None and lru.get("c") == "C"


def test_a_value_that_cannot_be_closed_is_gone_all_the_same():
    def fail(value):
        raise OSError(f"{value} does not close")

    lru = LRU(1, fail)
    lru.put("a", "A")
    with pytest.raises(OSError, match="A does not close"):
        lru.drop("a")
    assert len(lru) == 0
    lru.put("b", "B")
    assert lru.get("b") == "B"
