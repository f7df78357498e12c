"""The plan of a label pass: what is labelled, by which teacher, in which units. Written once and never changed."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np
from flax import traverse_util

import epfv2_jax
from epfv2_jax import checkpoints
from epfv2_jax.autolabel import cutting, identity
from epfv2_jax.autolabel.config import PassConfig
from epfv2_jax.autolabel.cutting import Stream, Unit
from epfv2_jax.checkpoints import Trained
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import labels, records
from epfv2_jax.data.labels import RecordsIdentity, TeacherIdentity
from epfv2_jax.geometry.skeleton import Skeleton


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A plan at work: the content of plan.json (`labels.PlanFile`) with its hash."""

    package_version: str
    records: RecordsIdentity
    teacher: TeacherIdentity
    config: PassConfig
    units: np.ndarray  # (U, 3) int64: first record, stop record, frames
    streams: np.ndarray  # (S, 4) int64: the fields of Stream, in the order of the records
    sha256: str = ""  # of the file; empty until it is written

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.units)

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton of the labels; it gives J."""
        return self.records.spec.skeleton

    def unit(self, index: int) -> Unit:
        """Returns unit `index`."""
        first, stop, frames = self.units[index].tolist()
        low, high = np.searchsorted(self.streams[:, 0], [first, stop])
        streams = tuple(
            Stream(first_record=a, stop_record=b, warmup_record=c, warmup_frame=d)
            for a, b, c, d in self.streams[low:high].tolist()
        )
        return Unit(first_record=first, stop_record=stop, num_frames=frames, streams=streams)


def make_plan(records_dir: str | os.PathLike, teacher_dir: str | os.PathLike, config: PassConfig) -> Plan:
    """Returns the plan to label all records of `records_dir` with the model in `teacher_dir`.

    Raises:
      ValueError: a shard is missing or not of the size that the manifest states, there is no checkpoint, or the teacher
        is for another skeleton or layout, or was trained on images of another size.
    """
    source = records.open_records(records_dir)
    teacher = checkpoints.load(teacher_dir)
    for what in ("skeleton", "layout"):
        own, theirs = getattr(teacher.model, what), getattr(source, what)
        if own != theirs:
            raise ValueError(
                f"{teacher_dir}: the teacher is for {what} {own.name!r}, {records_dir} has {theirs.name!r}; use "
                "another teacher or other records"
            )
    remedy = "height and width of the teacher's images; convert the data to that size, or use another teacher"
    checks.equal(f"{records_dir}: image size", source.image_size_hw, teacher.about.image_size_hw, remedy)
    units, streams = cutting.cut(source.entries, teacher.model.history, config)
    return Plan(
        package_version=epfv2_jax.__version__,
        records=identity.identify_records(source),
        teacher=identity.identify_teacher(teacher, source.image_size_hw),
        config=config,
        units=units,
        streams=streams,
    )


def write_plan(directory: str | os.PathLike, plan: Plan) -> Plan:
    """Writes `plan` into `directory` and returns it with its hash. Writing the same plan again changes nothing.

    Raises:
      ValueError: `directory` holds another plan, or labels without a plan.
    """
    directory = files.locate(directory)
    data = labels.plan_bytes(
        labels.PlanFile(
            package_version=plan.package_version,
            records=plan.records,
            teacher=plan.teacher,
            config=config_lib.to_mapping(plan.config),
            units=tuple(map(tuple, plan.units.tolist())),
            streams=tuple(map(tuple, plan.streams.tolist())),
        )
    )
    path = directory / labels.PLAN_NAME
    if path.exists():
        if path.read_bytes() != data:
            raise ValueError(
                f"{directory}: holds another plan ({_differences(read_plan(directory), plan)}), and a plan is never "
                "changed: choose another directory"
            )
    else:
        if labels.published_units(directory, plan.num_units):
            raise ValueError(f"{directory}: holds labels but no {labels.PLAN_NAME}; choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
    return dataclasses.replace(plan, sha256=hashlib.sha256(data).hexdigest())


def read_plan(directory: str | os.PathLike) -> Plan:
    """Returns the plan in `directory`.

    Raises:
      ValueError: there is none, or it is not one that this code reads.
    """
    content, sha256 = labels.read_plan(directory)
    where = f"{directory}/{labels.PLAN_NAME}: config"
    return Plan(
        package_version=content.package_version,
        records=content.records,
        teacher=content.teacher,
        config=config_lib.from_mapping(PassConfig, content.config, where),
        units=np.array(content.units, np.int64).reshape(-1, 3),
        streams=np.array(content.streams, np.int64).reshape(-1, 4),
        sha256=sha256,
    )


def check_inputs(
    plan: Plan, records_dir: str | os.PathLike, teacher_dir: str | os.PathLike
) -> tuple[Sequence[records.RecordEntry], Trained]:
    """Returns the manifest's entries of all records and the teacher, after comparing both with the plan.

    Raises:
      ValueError: they are not the planned ones, or the plan was made with another version of this package.
    """
    entries = identity.check_records(plan.records, records_dir)
    remedy = "labels of one pass come from one version: install the other, or plan another pass"
    checks.equal("version of epfv2_jax", epfv2_jax.__version__, plan.package_version, remedy)
    return entries, identity.load_teacher(plan.teacher, teacher_dir)


def _differences(old: Plan, new: Plan) -> str:
    parts = ("package_version", "records", "teacher", "config")
    a, b = (
        traverse_util.flatten_dict({part: config_lib.to_mapping(getattr(plan, part)) for part in parts}, sep=".")
        for plan in (old, new)
    )
    keys = [key for key in sorted({*a, *b} - {"records.shards"}) if a.get(key) != b.get(key)]
    return "; ".join(f"{key}: {a.get(key)!r} there, {b.get(key)!r} asked" for key in keys[:3])
