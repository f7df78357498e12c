"""Opens a sequence to be streamed: zips of the release, converted records, or a recording of any headset."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import base, egobody3m, recording
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig

_IMAGES, _METADATA = ".images.zip", ".metadata.zip"
_REMEDY = (
    f"give a recording (docs/own_data.md), the <id>{_IMAGES} of a released sequence, a folder that epfv2_jax.convert "
    f"wrote (with {records.MANIFEST_NAME} in it), or one of its {records.SHARD_SUFFIX} files"
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedFrame:
    """One frame of a recording, with its truth."""

    frame_index: int
    time_s: float  # from the start of the sequence
    images: np.ndarray  # (V, H, W) uint8, upright
    view_valid: np.ndarray  # (V,) bool
    T_world_headset: np.ndarray  # (4, 4) float32
    joints_world_m: np.ndarray  # (J, 3) float32
    joint_valid: np.ndarray  # (J,) bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A sequence to be streamed. Its frames are read one by one, in order of time."""

    name: str
    skeleton: Skeleton
    layout: RigLayout
    rig: Rig  # numpy, leading axis V
    num_frames: int
    frame_s: float  # nominal time from one frame to the next
    frames: Iterator[RecordedFrame]


def open_recording(path: str | os.PathLike, image_size_hw: tuple[int, int] | None) -> Recording:
    """Returns the sequence at `path`, with images of `image_size_hw` (height, width).

    Args:
      path: either zip of a released sequence; a shard of records; or a directory of records or of recordings
        (docs/own_data.md), for its first sequence.
      image_size_hw: of the model; None: that of the records.

    Raises:
      ValueError: there is no such sequence, it cannot be read, or the records hold images of another size.
    """
    path = files.on_disk(path, "copy the recording there")
    is_folder = path.is_dir()
    if path.name.endswith(records.SHARD_SUFFIX) or (is_folder and _holds(path, records.MANIFEST_NAME)):
        return _open_records(path, image_size_hw)
    if is_folder and any(path.glob(f"*{_IMAGES}")):
        raise ValueError(f"{path}: holds zips of many sequences; name one of them")
    if not is_folder and not (path.is_file() and path.name.endswith((_IMAGES, _METADATA))):
        problem = "neither a sequence's zip nor records" if path.exists() else "no such file or folder"
        raise ValueError(f"{path}: {problem}; {_REMEDY}")
    if image_size_hw is None:
        raise ValueError(f"{path}: the model does not say to what size images are resized; give converted records")
    return _open_folder(path, image_size_hw) if is_folder else _open_zip(path, image_size_hw)


def _holds(folder: pathlib.Path, name: str) -> bool:
    """Returns whether a file of this name is in a folder, or in one of those in it."""
    return (folder / name).is_file() or any(folder.glob(f"*/{name}"))


def _open_records(path: pathlib.Path, image_size_hw: tuple[int, int] | None) -> Recording:
    directory = path if path.is_dir() else path.parent
    data = records.open_records(directory)
    if image_size_hw is not None and data.image_size_hw != image_size_hw:
        raise ValueError(
            f"{directory}: images of {data.image_size_hw[0]}x{data.image_size_hw[1]} (height x width), but the model "
            f"takes {image_size_hw[0]}x{image_size_hw[1]}; convert the data to that size"
        )
    first = 0 if path.is_dir() else _first_record(data, path)
    name = data.entries[first].sequence
    chosen = [i for i, entry in enumerate(data.entries) if i >= first and entry.sequence == name]
    return Recording(
        name=name,
        skeleton=data.skeleton,
        layout=data.layout,
        rig=data[first].rig,
        num_frames=sum(data.entries[i].num_frames for i in chosen),
        frame_s=data.frame_s,
        frames=(frame for i in chosen for frame in _frames_of_run(data[i])),
    )


def _first_record(data: records.Records, shard: pathlib.Path) -> int:
    """Returns the index of the first record of a shard."""
    first = 0
    for known in data.manifest.shards:
        if known.file == shard.name:
            return first
        first += len(known.records)
    raise ValueError(f"{shard}: not in the {records.MANIFEST_NAME} beside it; name one of {data.directory}'s shards")


def _frames_of_run(run: records.FrameRun) -> Iterator[RecordedFrame]:
    for t in range(run.num_frames):
        pictures, view_valid = records.decode_images(run, t, t + 1)
        yield RecordedFrame(
            frame_index=int(run.frame_index[t]),
            time_s=float(run.time_s[t]),
            images=pictures[0],
            view_valid=view_valid[0],
            T_world_headset=run.T_world_headset[t],
            joints_world_m=run.joints_world_m[t],
            joint_valid=run.joint_valid[t],
        )


def _open_folder(path: pathlib.Path, image_size_hw: tuple[int, int]) -> Recording:
    """Returns the first recording below a folder."""
    reader = recording.Recording(path)
    with checks.naming(os.fspath(path), remedy=_REMEDY):
        source = reader.find_sequences()[0]
    config, report = ConversionConfig(reader="recording", image_size_hw=image_size_hw), base.ReadReport()
    runs = reader.read(source, config, report)
    first = next(runs)
    return Recording(
        name=source.sequence,
        skeleton=reader.skeleton,
        layout=reader.layout,
        rig=first.rig,
        num_frames=report.num_frames - len(report.quarantined_frames),
        frame_s=reader.frame_s([source]),
        frames=(frame for run in itertools.chain([first], runs) for frame in _frames_of_run(run)),
    )


def _open_zip(path: pathlib.Path, image_size_hw: tuple[int, int]) -> Recording:
    name = path.name.removesuffix(_IMAGES).removesuffix(_METADATA)
    files = egobody3m.SequenceFiles(
        sequence=name,
        split=path.absolute().parent.name,
        images=path.with_name(name + _IMAGES),
        metadata=path.with_name(name + _METADATA),
    )
    layout = egobody3m.EgoBody3M.layout
    with egobody3m.SequenceReader(files) as reader:
        fits = egobody3m.calibrate(reader)
        for view, fit in enumerate(fits):
            if not fit.good:
                raise ValueError(f"{path}: calibration of camera {view} is {fit.verdict}; choose another sequence")
        readable, _ = egobody3m.read_metadata(reader)
        sizes = reader.view_sizes_px()
    rig = rig_lib.upright(calibration.to_rig(fits), layout, image_size_hw)

    def frames() -> Iterator[RecordedFrame]:
        with egobody3m.SequenceReader(files) as reader:
            for metadata in readable:
                pictures, view_valid = _read_images(reader, metadata.frame_index, sizes, layout, image_size_hw)
                yield RecordedFrame(
                    frame_index=metadata.frame_index,
                    time_s=metadata.time_s,
                    images=pictures,
                    view_valid=view_valid,
                    T_world_headset=metadata.T_world_headset.astype(np.float32),
                    joints_world_m=metadata.joints_world_m.astype(np.float32),
                    joint_valid=np.ones(len(metadata.joints_world_m), bool),
                )

    return Recording(
        name=name,
        skeleton=egobody3m.EgoBody3M.skeleton,
        layout=layout,
        rig=jax.tree.map(np.asarray, rig),
        num_frames=len(readable),
        frame_s=readable[0].frame_s,
        frames=frames(),
    )


def _read_images(
    reader: egobody3m.SequenceReader,
    frame: int,
    sizes_px: list[tuple[int, int] | None],
    layout: RigLayout,
    image_size_hw: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns upright images (V, H, W) and view_valid (V,): black and False where one is missing or damaged."""
    pictures = np.zeros((layout.num_views, *image_size_hw), np.uint8)
    view_valid = np.zeros(layout.num_views, bool)
    for view, (size, turns) in enumerate(zip(sizes_px, layout.upright_turns, strict=True)):
        try:
            stored = images.decode_grey(reader.jpeg(frame, view))
        except ValueError:  # a stream goes on without the image
            continue
        if stored.shape[::-1] == size:
            pictures[view] = images.upright(stored, turns, image_size_hw)
            view_valid[view] = True
    return pictures, view_valid
