"""What checks of data found: each a value, its limit and, where it is beyond, the likely mistake."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    check: str  # its name, such as "camera_far"
    value: str  # what was found, with its place and unit
    limit: str  # what is allowed
    problem: str = ""  # place, value and likely mistake; empty if the check passed
    is_error: bool = True  # whether a problem makes the data useless; else it is a warning

    @property
    def verdict(self) -> str:
        """ "ok", "warning" or "error"."""
        return "ok" if not self.problem else "error" if self.is_error else "warning"


def raise_first(findings: Iterable[Finding]) -> None:
    """Raises ValueError with the first problem that is an error, if there is one."""
    for finding in findings:
        if finding.verdict == "error":
            raise ValueError(finding.problem)
