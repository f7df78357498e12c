"""The format of plan.json: what is labelled, by which teacher, in which units."""

import dataclasses
import hashlib
import json
import os

from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records

PLAN_NAME = "plan.json"
PLAN_VERSION = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardChecksum:
    """A planned shard file."""

    file: str
    num_bytes: int
    sha256: str
    num_records: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsIdentity:
    """The planned records."""

    manifest_sha256: str  # of the file manifest.json, which holds the checksums of the shards
    split: str
    num_records: int
    num_frames: int
    spec: records.RecordSpec  # a record that differs from it is a bad record
    shards: tuple[ShardChecksum, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """The planned teacher."""

    sha256: str  # see `autolabel.identity.teacher_sha256`
    step: int  # of training
    model: dict  # its configuration, JSON-ready
    with_uncertainty: bool  # whether it predicts a distribution of each joint


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFile:
    """The content of plan.json. Units, and streams, cover all records one after the other."""

    version: int = PLAN_VERSION
    package_version: str
    records: RecordsIdentity
    teacher: TeacherIdentity
    config: dict  # `autolabel.config.PassConfig`, JSON-ready
    units: tuple[tuple[int, int, int], ...]  # first record, stop record, frames
    streams: tuple[tuple[int, int, int, int], ...]  # the fields of `autolabel.cutting.Stream`

    def __post_init__(self):
        for name in ("units", "streams"):
            cuts = [0, *(cut for row in getattr(self, name) for cut in row[:2]), self.records.num_records]
            fits = all(a == b for a, b in zip(cuts[::2], cuts[1::2], strict=True)) and all(
                row[0] < row[1] for row in getattr(self, name)
            )
            checks.equal(f"{name} cover all records one after the other", fits, True)
        checks.equal("streams within units", {u[0] for u in self.units} <= {s[0] for s in self.streams}, True)
        checks.equal("units, number of frames", sum(unit[2] for unit in self.units), self.records.num_frames)
        warm = all(0 <= c <= a and d >= 0 for a, _, c, d in self.streams)
        checks.equal("streams begin at their warm-up", warm, True)


def plan_bytes(plan: PlanFile) -> bytes:
    """Returns the content of the file: canonical JSON, with its checksum."""
    return json.dumps(files.signed(config_lib.to_mapping(plan)), sort_keys=True, separators=(",", ":")).encode()


def read_plan(directory: str | os.PathLike) -> tuple[PlanFile, str]:
    """Returns (content, SHA-256 of the file) of the plan of a pass.

    Raises:
      ValueError: there is none, or it is not one that this code reads, or not as it was written.
    """
    path, remedy = files.locate(directory) / PLAN_NAME, "plan again in another directory"
    files.check_file(path, f"{directory} is not a label pass: plan one")
    data = path.read_bytes()
    content = files.parse_json(data, os.fspath(path), remedy)
    version = content.get("version") if isinstance(content, dict) else None
    checks.equal(f"{path}: version", version, PLAN_VERSION, "plan again")
    return config_lib.from_signed(PlanFile, content, os.fspath(path), remedy), hashlib.sha256(data).hexdigest()
