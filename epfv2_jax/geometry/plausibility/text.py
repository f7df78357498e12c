"""Numbers in the messages of the checks."""

from collections.abc import Sequence

HEADSET_AXES = "headset axes (x left, y up, z forward)"


def vector(values: Sequence[float], digits: int = 2) -> str:
    """Returns numbers as a text such as [0.1, -0.25, 1.0]."""
    return str([round(float(value), digits) + 0.0 for value in values])  # + 0.0: no minus before a zero
