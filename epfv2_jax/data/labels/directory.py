"""The files of a label pass.

    plan.json                      what is labelled, by which teacher, in which units; its SHA-256 identifies the pass
    labels/00000007.arrayrecord    the labels of unit 7: a LabelRun for each of its records, then a footer
    progress/00000007.json         which worker labelled it, in what time, and how many bad rows there are; labels do
                                   not depend on it

Label record i belongs to image record i.
"""

import os

from epfv2_jax.core import files
from epfv2_jax.data import records

UNIT_FOLDER = "labels"
PROGRESS_FOLDER = "progress"


def unit_file(unit: int) -> str:
    """Returns the file name of a unit."""
    return f"{unit:08d}{records.SHARD_SUFFIX}"


def published_units(directory: str | os.PathLike, num_units: int) -> set[int]:
    """Returns which of units 0 ... `num_units` - 1 have a file. Lists their folder once."""
    folder = files.locate(directory) / UNIT_FOLDER
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {unit for unit in range(num_units) if unit_file(unit) in names}
