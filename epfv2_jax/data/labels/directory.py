"""The files of a label pass.

    plan.json                      what is labelled, by which teacher, in which units; its SHA-256 identifies the pass
    labels/00000007.arrayrecord    the labels of unit 7: a LabelRun for each of its records, then a footer
    progress/00000007.json         which worker labelled it, in what time, and how many bad rows there are

Label record i belongs to image record i.
"""

import hashlib
import os
from typing import Any

from etils import epath

from epfv2_jax.core import checks, files
from epfv2_jax.data import records

PLAN_NAME = "plan.json"
PLAN_VERSION = 3
UNIT_FOLDER = "labels"
PROGRESS_FOLDER = "progress"


def read_plan(directory: str | os.PathLike) -> tuple[dict[str, Any], str]:
    """Returns (content, SHA-256) of the plan of a pass.

    Raises:
      ValueError: there is none, or it is not one that this code reads.
    """
    path = epath.Path(directory) / PLAN_NAME
    files.check_file(path, f"{directory} is not a label pass: plan one")
    data = path.read_bytes()
    content = files.parse_json(data, os.fspath(path), "plan again in another directory")
    version = content.get("version") if isinstance(content, dict) else None
    checks.equal(f"{path}: version", version, PLAN_VERSION, "plan again")
    return content, hashlib.sha256(data).hexdigest()


def unit_file(unit: int) -> str:
    """Returns the file name of a unit."""
    return f"{unit:08d}{records.SHARD_SUFFIX}"


def published_units(directory: str | os.PathLike, num_units: int) -> set[int]:
    """Returns which of units 0 ... `num_units` - 1 have a file. Lists their folder once."""
    folder = epath.Path(directory) / UNIT_FOLDER
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {unit for unit in range(num_units) if unit_file(unit) in names}
