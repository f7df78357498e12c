"""What a plan records about its inputs, and checks that the inputs are still the same."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from epfv2_jax import checkpoints
from epfv2_jax.checkpoints import Trained
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import records
from epfv2_jax.data.labels import RecordsIdentity, ShardChecksum, TeacherIdentity
from epfv2_jax.models import base
from epfv2_jax.models.base import PoseModel


def identify_records(source: records.Records) -> RecordsIdentity:
    """Returns the identity of opened records."""
    manifest = source.manifest
    return RecordsIdentity(
        manifest_sha256=files.sha256(source.directory / records.MANIFEST_NAME),
        split=manifest.split,
        num_records=len(source),
        num_frames=source.num_frames,
        spec=manifest.spec,
        shards=tuple(
            ShardChecksum(file=s.file, num_bytes=s.num_bytes, sha256=s.sha256, num_records=len(s.records))
            for s in manifest.shards
        ),
    )


def identify_teacher(teacher: Trained, image_size_hw: tuple[int, int]) -> TeacherIdentity:
    """Returns the identity of a teacher that labels images of this size."""
    model = teacher.model
    return TeacherIdentity(
        sha256=teacher_sha256(model, teacher.variables),
        step=teacher.step,
        model=config_lib.to_mapping(model.config),
        with_uncertainty=base.predicts_distribution(model, image_size_hw),
    )


def teacher_sha256(model: PoseModel, variables: Any) -> str:
    """Returns the hash of a model's configuration, skeleton, layout and variables (path, dtype, shape and bytes).

    It depends on the values alone, not on how or where they are stored.
    """
    values = {name: config_lib.to_mapping(getattr(model, name)) for name in ("config", "skeleton", "layout")}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    leaves = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(variables)}
    for path in sorted(leaves):
        leaf = leaves[path]
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def check_records(planned: RecordsIdentity, records_dir: str | os.PathLike) -> Sequence[records.RecordEntry]:
    """Returns the manifest's entries of all records, after comparing manifest and shard sizes with the plan.

    Raises:
      ValueError: the manifest is not the planned one, or a shard is missing or of another size.
    """
    path = files.locate(records_dir) / records.MANIFEST_NAME
    if not path.is_file():
        records.read_manifest(records_dir)  # raises, and says what is wrong
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    remedy = "not the one that was planned, the input has changed: restore it, or plan another pass"
    checks.equal(f"{path}: sha256", found, planned.manifest_sha256, remedy)
    records.check_shard_sizes(records_dir, planned.shards)
    # The hash shows that planning has validated these very entries. To do it again would take a restart a minute for
    # each million records.
    return [records.RecordEntry(**entry) for shard in json.loads(data)["shards"] for entry in shard["records"]]


def load_teacher(planned: TeacherIdentity, teacher_dir: str | os.PathLike) -> Trained:
    """Returns the planned teacher.

    Raises:
      ValueError: the checkpoint is of another model, or of other weights.
    """
    teacher = checkpoints.load(teacher_dir)
    found = teacher_sha256(teacher.model, teacher.variables)
    remedy = "not the teacher that was planned: give that one, or plan another pass"
    checks.equal(f"{teacher_dir}: sha256 of the teacher", found, planned.sha256, remedy)
    return teacher
