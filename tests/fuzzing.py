"""Broken inputs for readers of files: seeded mutations of a good file, and a check that a reader withstands them."""

import contextlib
import random
import re
import resource
import signal
from collections.abc import Callable, Iterable, Iterator

_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")
_ODD_NUMBERS = (*b"nan inf -inf 1e308 -1e308 1e-308 -1 0 1_0 0x10".split(), b"9" * 40, b"9" * 6000)
_LIMIT_BYTES = 2 << 30


def mutations(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yields `count` broken copies of a file: flipped bits, cuts, lost or doubled words and lines, odd numbers."""
    rng = random.Random(seed)
    for _ in range(count):
        broken = data
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            broken = rng.choice(_MUTATIONS)(broken, rng)
        yield broken


def withstands(read: Callable[[bytes], object], inputs: Iterable[bytes], seconds: float = 20.0) -> int:
    """Returns how many inputs `read` takes; fails unless it refuses all others by a ValueError that says something.

    It must return in `seconds` each, and the process must not grow by more than 2 GiB.
    """
    taken, before = 0, _peak_bytes()
    for i, data in enumerate(inputs):
        try:
            with _alarm(seconds):
                read(data)
            taken += 1
        except ValueError as error:
            assert len(str(error)) > 10, f"input {i}: {error!r}"
        except Exception as error:
            raise AssertionError(f"input {i} ({data[:200]!r}...): {error!r}") from error
    assert _peak_bytes() - before < _LIMIT_BYTES
    return taken


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] if rng.random() < 0.7 else data[at:]


def _move_part(separator: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Returns a mutation that loses, doubles or moves one of the parts between separators."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        parts = data.split(separator)
        # Early parts are as likely as late ones: most of a file is often one long table.
        part = parts.pop(int(len(parts) ** rng.random()) - 1)
        how = rng.randrange(3)
        if how:
            at = rng.randrange(len(parts) + 1)
            parts[at:at] = [part] if how == 1 else [part, part]
        return separator.join(parts)

    return mutate


def _odd_number(data: bytes, rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    match = found[int(len(found) ** rng.random()) - 1]
    return data[: match.start()] + rng.choice(_ODD_NUMBERS) + data[match.end() :]


def _nest(data: bytes, rng: random.Random) -> bytes:
    """Repeats a stretch of a few lines very often, so that what it opens is opened very deeply."""
    lines = data.split(b"\n")
    start = int(len(lines) ** rng.random()) - 1
    stop = start + rng.randrange(1, 8)
    return b"\n".join([*lines[:start], *lines[start:stop] * rng.choice((10, 100, 3000)), *lines[stop:]])


def _noise(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 10, 1000))) + data[at:]


_WORDS, _LINES = _move_part(b" "), _move_part(b"\n")
_MUTATIONS = (_flip, _flip, _cut, _WORDS, _LINES, _LINES, _odd_number, _odd_number, _nest, _noise)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
