"""Records: runs of consecutive frames of one sequence, in ArrayRecord shards beside a manifest that is written last.

A directory holds one split:

    <name>.arrayrecord   shards, one FrameRun a record
    manifest.json        what is in them, with checksums; a directory without it is unfinished

A shard is written under a temporary name, closed, read back, counted, hashed and only then renamed: a killed writer
leaves no file that looks like a shard. An ArrayRecord file cut short can open as an empty one without any error, so
`open_records` compares sizes with the manifest and `verify` also checksums.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module
from flax import serialization

from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images as images_lib
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.geometry.skeleton import NUM_JOINTS
from epfv2_jax.structs import Rig

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SHARD_SUFFIX = ".arrayrecord"

# JPEGs do not compress further, and a group of one makes each record readable on its own.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_TEMPORARY_SUFFIX = ".tmp"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*" + re.escape(SHARD_SUFFIX))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameRun:
    """Consecutive frames of one sequence: n frames, V views, J joints; images upright, lengths in metres."""

    sequence: str
    split: str
    frame_index: np.ndarray  # (n,) int32, each one more than the last
    jpegs: tuple[tuple[bytes, ...], ...]  # [n][V] monochrome JPEG, b"" where the view is missing
    T_world_headset: np.ndarray  # (n, 4, 4) float32
    joints_world_m: np.ndarray  # (n, J, 3) float32
    joint_valid: np.ndarray  # (n, J) bool
    view_valid: np.ndarray  # (n, V) bool, False where the view is missing
    rig: Rig  # numpy arrays with a leading V; its size_px is the size of the images

    def __post_init__(self):
        n, views = len(self.frame_index), self.num_views
        for name, dtype, shape in (
            ("frame_index", np.int32, (n,)),
            ("T_world_headset", np.float32, (n, 4, 4)),
            ("joints_world_m", np.float32, (n, NUM_JOINTS, 3)),
            ("joint_valid", np.bool_, (n, NUM_JOINTS)),
            ("view_valid", np.bool_, (n, views)),
        ):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
                found = f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
                raise ValueError(f"run of {self.sequence}: {name} must be {shape} {np.dtype(dtype)}, got {found}")
        if n == 0:
            raise ValueError(f"run of {self.sequence}: no frames; a record holds at least one")
        if np.any(np.diff(self.frame_index) != 1):
            raise ValueError(f"run of {self.sequence}: frame_index has a gap; split the run there")
        if len(self.jpegs) != n or any(len(frame) != views for frame in self.jpegs):
            raise ValueError(f"run of {self.sequence}: jpegs must be {n} frames of {views} views")
        present = np.array([[bool(data) for data in frame] for frame in self.jpegs])
        if np.any(self.view_valid & ~present):
            frame, view = np.argwhere(self.view_valid & ~present)[0]
            raise ValueError(
                f"run of {self.sequence}: frame {self.frame_index[frame]} view {view} is marked valid but has no image"
            )

    @property
    def num_frames(self) -> int:
        return len(self.frame_index)

    @property
    def num_views(self) -> int:
        return self.rig.T_cam_headset.shape[0]

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """(height, width) in pixels, one size for all views."""
        sizes = np.asarray(self.rig.cameras.size_px)
        if np.any(sizes != sizes[:1]):
            raise ValueError(f"run of {self.sequence}: views differ in size {sizes.tolist()}; convert them to one size")
        width, height = sizes[0]
        return int(height), int(width)


def encode(run: FrameRun) -> bytes:
    """Returns the bytes of a record (msgpack with plain arrays and bytes; no pickle)."""
    cameras = {f.name: getattr(run.rig.cameras, f.name) for f in dataclasses.fields(Camera)}
    return serialization.msgpack_serialize(
        {
            "version": FORMAT_VERSION,
            "sequence": run.sequence,
            "split": run.split,
            "frame_index": run.frame_index,
            "jpegs": [list(frame) for frame in run.jpegs],
            "T_world_headset": run.T_world_headset,
            "joints_world_m": run.joints_world_m,
            "joint_valid": run.joint_valid,
            "view_valid": run.view_valid,
            "cameras": {k: v if isinstance(v, str) else np.asarray(v) for k, v in cameras.items()},
            "T_cam_headset": np.asarray(run.rig.T_cam_headset),
        }
    )


def decode(data: bytes) -> FrameRun:
    """Returns the run that `encode` wrote.

    Raises:
      ValueError: the bytes are no record, of another format version, or a field is missing, unknown or ill-shaped.
    """
    try:
        fields = serialization.msgpack_restore(data)
    except Exception as error:  # msgpack raises its own family of exceptions, ValueError and TypeError
        raise ValueError(f"record: {len(data)} bytes are not a record ({error}); convert the data again") from error
    expected = {
        *("version", "sequence", "split", "frame_index", "jpegs", "T_world_headset", "joints_world_m", "joint_valid"),
        *("view_valid", "cameras", "T_cam_headset"),
    }
    if not isinstance(fields, dict) or "version" not in fields:
        raise ValueError("record: no version field; convert the data again")
    if fields["version"] != FORMAT_VERSION:
        raise ValueError(
            f"record: version {fields['version']}, this code reads {FORMAT_VERSION}; convert the data again"
        )
    if set(fields) != expected:
        differing = sorted(set(fields) ^ expected)
        raise ValueError(f"record: missing or unknown fields {differing}; convert the data again")
    cameras, camera_fields = fields["cameras"], {f.name for f in dataclasses.fields(Camera)}
    if not isinstance(cameras, dict) or set(cameras) != camera_fields:
        raise ValueError(f"record: cameras must have the fields {sorted(camera_fields)}; convert the data again")
    T_cam_headset = fields["T_cam_headset"]
    if not isinstance(T_cam_headset, np.ndarray) or T_cam_headset.ndim != 3 or T_cam_headset.shape[1:] != (4, 4):
        raise ValueError("record: T_cam_headset must be (V, 4, 4); convert the data again")
    return FrameRun(
        sequence=fields["sequence"],
        split=fields["split"],
        frame_index=fields["frame_index"],
        jpegs=tuple(tuple(frame) for frame in fields["jpegs"]),
        T_world_headset=fields["T_world_headset"],
        joints_world_m=fields["joints_world_m"],
        joint_valid=fields["joint_valid"],
        view_valid=fields["view_valid"],
        rig=Rig(cameras=Camera(**cameras), T_cam_headset=T_cam_headset),
    )


def decode_images(run: FrameRun, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (n, V, H, W) uint8 and view_valid (n, V) bool of frames [start, stop) of a run.

    A view that is missing, or whose JPEG is damaged or of another size, is a black image with view_valid False: one bad
    image never ends a pass over the data.
    """
    height, width = run.image_size_hw
    jpegs = run.jpegs[start:stop]
    valid = run.view_valid[start:stop].copy()
    images = np.zeros((len(jpegs), run.num_views, height, width), np.uint8)
    for i, v in np.argwhere(valid):
        try:
            image = images_lib.decode_grey(jpegs[i][v], max_pixels=height * width)
        except ValueError:
            valid[i, v] = False
            continue
        if image.shape == (height, width):
            images[i, v] = image
        else:
            valid[i, v] = False
    return images, valid


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordEntry:
    """What the manifest says of one record."""

    sequence: str
    first_frame: int
    num_frames: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest says of one shard file."""

    file: str
    num_bytes: int
    sha256: str
    records: tuple[RecordEntry, ...]

    def __post_init__(self):
        if not _SHARD_NAME.fullmatch(self.file):
            raise ValueError(f"file: {self.file!r} is not a plain file name that ends in {SHARD_SUFFIX}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of records holds."""

    version: int = FORMAT_VERSION
    split: str
    image_size_hw: tuple[int, int]
    num_views: int
    shards: tuple[Shard, ...]
    report: dict = dataclasses.field(default_factory=dict)  # of the writer: counts, what was skipped and why

    def __post_init__(self):
        if self.version != FORMAT_VERSION:
            raise ValueError(f"version: {self.version}, this code reads {FORMAT_VERSION}; convert the data again")


def write_shard(path: str | os.PathLike, runs: Iterable[FrameRun]) -> Shard:
    """Returns the manifest entry of the shard that is written at `path`, whole or not at all.

    The bytes depend on the runs only. A file that is already at `path` is replaced.

    Raises:
      ValueError: there are no runs, or what was read back is not what was written (a full or failing disk).
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, digests = [], []
    writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), _WRITER_OPTIONS)
    try:
        for run in runs:
            data = encode(run)
            writer.write(data)
            digests.append(hashlib.sha256(data).digest())
            entries.append(
                RecordEntry(sequence=run.sequence, first_frame=int(run.frame_index[0]), num_frames=run.num_frames)
            )
    finally:
        writer.close()
    if not entries:
        temporary.unlink()
        raise ValueError(f"{path}: a shard needs at least one record")
    reader = array_record_module.ArrayRecordReader(os.fspath(temporary))
    try:
        count = reader.num_records()
        same = count == len(entries) and all(
            hashlib.sha256(reader.read([i])[0]).digest() == digest for i, digest in enumerate(digests)
        )
    finally:
        reader.close()
    if not same:
        temporary.unlink()
        raise ValueError(f"{path}: wrote {len(entries)} records, but they do not read back ({count}); check the disk")
    with open(temporary, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    num_bytes = temporary.stat().st_size
    os.replace(temporary, path)
    return Shard(file=path.name, num_bytes=num_bytes, sha256=sha256, records=tuple(entries))


def write_json(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Writes `value` as JSON at `path`, whole or not at all; the same value gives the same bytes."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_manifest(directory: str | os.PathLike, manifest: Manifest) -> None:
    """Writes the manifest, which makes the directory complete; call it last."""
    write_json(pathlib.Path(directory) / MANIFEST_NAME, config_lib.to_mapping(manifest))


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """Returns the manifest of a directory of records.

    Raises:
      ValueError: there is none, or it is not one of this format version.
    """
    directory = pathlib.Path(directory)
    path = directory / MANIFEST_NAME
    if not path.is_file():
        here = sorted(p.parent.name for p in directory.glob(f"*/{MANIFEST_NAME}"))
        if here:
            raise ValueError(f"{directory}: no {MANIFEST_NAME} here, but in {', '.join(here)}; name one of these")
        raise ValueError(
            f"{directory}: no {MANIFEST_NAME}; the data is missing or its conversion unfinished: run the same "
            "conversion again, it goes on where it stopped"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); convert the data again") from error
    return config_lib.from_mapping(Manifest, content, path=os.fspath(path))


class Records:
    """The records of one split by index: `records[i]` is a `FrameRun`. Threads may share it; it can be pickled."""

    def __init__(self, directory: str | os.PathLike, manifest: Manifest):
        self.directory = pathlib.Path(directory)
        self.manifest = manifest
        self.entries: tuple[RecordEntry, ...] = tuple(entry for shard in manifest.shards for entry in shard.records)
        # With the counts in the paths no shard is opened before a record of it is read.
        self._source = array_record_data_source.ArrayRecordDataSource(
            [f"{self.directory / shard.file}[0:{len(shard.records)}]" for shard in manifest.shards if shard.records]
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> FrameRun:
        entry = self.entries[index]
        run = decode(self._source[index])
        found = RecordEntry(sequence=run.sequence, first_frame=int(run.frame_index[0]), num_frames=run.num_frames)
        if found != entry:
            raise ValueError(
                f"{self.directory}: record {index} is {found}, the manifest says {entry}; convert the data again"
            )
        return run

    def __repr__(self) -> str:
        return f"Records({os.fspath(self.directory)!r}, {len(self)} records, {self.num_frames} frames)"

    @property
    def image_size_hw(self) -> tuple[int, int]:
        return self.manifest.image_size_hw

    @property
    def num_views(self) -> int:
        return self.manifest.num_views

    @property
    def num_frames(self) -> int:
        return sum(entry.num_frames for entry in self.entries)


def open_records(directory: str | os.PathLike) -> Records:
    """Returns the records of a complete directory, after comparing the sizes of its shards with the manifest.

    Raises:
      ValueError: no manifest, no records, or a shard that is missing or of another size (half-written, cut in a copy).
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    if not any(shard.records for shard in manifest.shards):
        raise ValueError(
            f"{directory}: split {manifest.split!r} holds no records; 'report' in {MANIFEST_NAME} says what was skipped"
        )
    for shard in manifest.shards:
        check_shard_size(directory, shard)
    return Records(directory, manifest)


def check_shard_size(directory: str | os.PathLike, shard: Shard) -> None:
    """Raises ValueError unless the file of `shard` exists with the size that the manifest states."""
    path = pathlib.Path(directory) / shard.file
    if not path.is_file():
        raise ValueError(f"{path}: shard is missing; run the conversion again")
    found = path.stat().st_size
    if found != shard.num_bytes:
        raise ValueError(
            f"{path}: {found} bytes, the manifest says {shard.num_bytes}: half-written or cut in a copy; delete it and "
            "run the conversion again"
        )


def verify(directory: str | os.PathLike) -> Manifest:
    """Returns the manifest after checking every shard's size, checksum and record count, and every record's frames.

    Raises:
      ValueError: the first shard or record that is not what the manifest says.
    """
    records = open_records(directory)
    for shard in records.manifest.shards:
        path = records.directory / shard.file
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != shard.sha256:
            raise ValueError(
                f"{path}: sha256 is {sha256}, the manifest says {shard.sha256}: delete it and run the conversion again"
            )
        reader = array_record_module.ArrayRecordReader(os.fspath(path))
        count = reader.num_records()
        reader.close()
        if count != len(shard.records):
            raise ValueError(f"{path}: {count} records, the manifest says {len(shard.records)}; convert the data again")
    for index in range(len(records)):
        run = records[index]
        if run.image_size_hw != records.image_size_hw or run.num_views != records.num_views:
            raise ValueError(
                f"{records.directory}: record {index} has {run.num_views} views of {run.image_size_hw}, the manifest "
                f"says {records.num_views} of {records.image_size_hw}; convert the data again"
            )
    return records.manifest
