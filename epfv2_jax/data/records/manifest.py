"""The manifest of a split: what all its records have in common, and its shards with their checksums."""

import dataclasses
import functools
import os

import jax
import numpy as np
from etils import epath

from epfv2_jax import structs
from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.data.records.runs import MAX_IMAGE_SIZE, FrameRun
from epfv2_jax.data.records.shards import Shard
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 3
_REMEDY = "convert the data again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSpec:
    """What all records of a split have in common."""

    image_size_hw: tuple[int, int]
    camera_model: cameras.Model
    frame_s: float  # nominal time from one frame to the next, seconds: the unit of `Frames.frame_gap`
    skeleton: Skeleton
    layout: RigLayout

    def __post_init__(self):
        checks.within(1, MAX_IMAGE_SIZE, **{f"image_size_hw[{i}]": size for i, size in enumerate(self.image_size_hw)})
        checks.above(0, frame_s=self.frame_s)

    def difference(self, run: FrameRun) -> str:
        """Returns what about a run is not as specified; an empty string if nothing is."""
        for what, found, wanted in (
            ("joints", run.num_joints, self.skeleton.num_joints),
            ("views", run.num_views, self.layout.num_views),
            ("image height and width", run.image_size_hw, self.image_size_hw),
            ("camera model", run.camera_model, self.camera_model),
        ):
            if found != wanted:
                return f"{what} {found} instead of {wanted}"
        for leaf, like in zip(jax.tree.leaves(run.rig), _rig_leaves(self.layout.num_views), strict=True):
            if np.shape(leaf) != like.shape or leaf.dtype.kind != "f":
                return f"cameras have an array {np.shape(leaf)} in the place of {like.shape} {like.dtype}"
            if not np.isfinite(leaf).all():
                return "cameras that are not finite instead of numbers"
        typical_s = float(np.median(np.diff(run.time_s))) if run.num_frames > 1 else self.frame_s
        if typical_s < 0.5 * self.frame_s:  # a longer one may be due to dropped frames
            return f"frame time {typical_s:.4g} s instead of {self.frame_s:.4g} s"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a directory of records holds."""

    version: int = MANIFEST_VERSION
    split: str
    spec: RecordSpec
    shards: tuple[Shard, ...]
    report: dict = dataclasses.field(default_factory=dict)  # of the writer: counts, what was left out and why

    def __post_init__(self):
        checks.equal("shards, number of different files", len({shard.file for shard in self.shards}), len(self.shards))


@functools.cache
def _rig_leaves(num_views: int) -> list[np.ndarray]:
    """Returns arrays shaped like those of a rig."""
    rig = structs.blank_frames(1, 1, num_views, (1, 1)).rig
    return jax.tree.leaves(jax.tree.map(lambda x: x[0], rig))


def write_manifest(directory: str | os.PathLike, manifest: Manifest) -> None:
    """Writes the manifest, which makes the directory complete; call it last. Several writers may do so at once."""
    config_lib.write(files.locate(directory) / MANIFEST_NAME, manifest)


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """Returns the manifest of a directory of records.

    Raises:
      ValueError: there is none (the message lists the splits that exist, or the command that writes them), it is not of
        this version, or not as it was written.
    """
    directory = files.locate(directory)
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(f"{directory}: {_why_missing(directory)}")
    content = files.read_json(path, _REMEDY)
    version = content.get("version") if isinstance(content, dict) else None
    checks.equal(f"{path}: version", version, MANIFEST_VERSION, _REMEDY)
    return config_lib.from_signed(Manifest, content, os.fspath(path), _REMEDY)


def _why_missing(directory: epath.Path) -> str:
    """Returns why a directory has no manifest, and what to do about it."""
    command = f"python -m epfv2_jax.convert --in SOURCE --out {directory.parent}"
    if directory.is_dir() and (splits := _splits(directory)):
        return f"no {MANIFEST_NAME} here, but in {', '.join(splits)}; name one of these"
    if directory.is_dir():
        return (
            f"no {MANIFEST_NAME}; the data is missing or its conversion unfinished: run '{command}' again, it goes on "
            "where it stopped"
        )
    if splits := _splits(directory.parent):
        near = checks.nearest(directory.name, splits)
        return f"no such split; {directory.parent} holds {', '.join(splits)}{near}"
    return f"no such folder; '{command}' writes records"


def _splits(directory: epath.Path) -> list[str]:
    return sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST_NAME}"))
