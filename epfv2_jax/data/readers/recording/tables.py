"""Tables of a recording: text files with a time stamp and numbers in each row."""

import csv
import dataclasses
import decimal
import pathlib
from collections.abc import Sequence

import numpy as np

from epfv2_jax.core import checks, files

#: Largest table that is read, bytes. Our choice: an hour of 150 columns at 120 Hz has half as many.
MAX_BYTES = 1_000_000_000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The cells of a file by row and column. Row 0 is the first one after the header."""

    path: pathlib.Path
    names: tuple[str, ...]  # of the columns, without their units
    units: tuple[str, ...]  # "" where the header says none
    rows: list[list[str]]

    def column(self, name: str) -> int:
        """Returns the place of a column; ValueError where it is missing."""
        with checks.naming(f"{self.path}: header"):
            checks.one_of(self.names, column=name)
        return self.names.index(name)

    def stamps_ns(self, column: int, ns_per_unit: int) -> np.ndarray:
        """Returns the time stamps (n,) int64, nanoseconds, of a column that counts units of `ns_per_unit`."""
        stamps = np.zeros(len(self.rows), np.int64)
        for row, cells in enumerate(self.rows):
            try:
                stamp = decimal.Decimal(cells[column]) * ns_per_unit
                fits = abs(stamp) < 2**62
            except decimal.InvalidOperation:
                fits = False
            if not fits:
                raise self._error(row, column, "a time stamp")
            stamps[row] = int(stamp.to_integral_value())
        return stamps

    def numbers(self, columns: Sequence[int], unit: str, may_be_empty: bool = False) -> np.ndarray:
        """Returns columns as numbers (n, len(columns)) float64; NaN for an empty cell, where it `may_be_empty`.

        Raises:
          ValueError: the header says another unit, or a cell is no finite number.
        """
        for column in columns:
            where = f"{self.path}: unit of column {self.names[column]!r}"
            checks.one_of(("", unit), **{where: self.units[column]})
        values = np.array([[_number(cells[column]) for column in columns] for cells in self.rows])
        wrong = np.isinf(values) if may_be_empty else ~np.isfinite(values)
        if wrong.any():
            row, i = np.argwhere(wrong)[0]
            raise self._error(row, columns[i], "a finite number")
        return values

    def _error(self, row: int, column: int, expected: str) -> ValueError:
        cell = checks.short(self.rows[row][column])
        return ValueError(f"{self.path} row {row}: {self.names[column]} is {cell}, expected {expected}")


def read_table(path: pathlib.Path, names: Sequence[str] | None = None) -> Table:
    """Returns a table: values between commas below a header; or, with `names`, words below comments (#).

    Raises:
      ValueError: there is no such file, it is no text or holds no rows, or a row has another number of cells than the
        header.
    """
    files.check_file(path, "record it")
    checks.within(0, MAX_BYTES, **{f"{path}: bytes": path.stat().st_size})
    with (
        checks.naming(f"{path}: not a table", (UnicodeDecodeError, csv.Error), "expected rows of text in UTF-8"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        if names is None:
            lines = [[cell.strip() for cell in cells] for cells in csv.reader(file)]
        else:
            lines = [list(names), *(line.partition("#")[0].split() for line in file)]
    header, *rows = [cells for cells in lines if any(cells)] or [[]]
    checks.not_empty(f"{path}: rows", rows, "expected a header, and a row for each time stamp")
    for row, cells in enumerate(rows):
        checks.equal(f"{path} row {row}: number of cells", len(cells), len(header), "as in the header")
    parts = [cell.lstrip("# ").partition("[") for cell in header]
    return Table(
        path=path,
        names=tuple(name.strip() for name, _, _ in parts),
        units=tuple(unit.rstrip("] ") for _, _, unit in parts),
        rows=rows,
    )


def _number(cell: str) -> float:
    """Returns the number in a cell; NaN for an empty one, infinity for what is no number."""
    try:
        return float(cell) if cell else np.nan
    except ValueError:
        return np.inf
