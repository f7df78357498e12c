"""Recorded sequences as streams: from records, or from raw data through their reader, converted on the way."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from epfv2_jax import structs
from epfv2_jax.core import checks, files
from epfv2_jax.data import records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import READERS
from epfv2_jax.data.readers.base import Reader, ReadReport, SourceSequence
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.inference.predictor import Pose, Predictor
from epfv2_jax.interop.motion import Columns, blank_rows
from epfv2_jax.structs import Frames

#: Frames that a model computes in one call.
CHUNK_FRAMES = 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """A recorded sequence. Its truth, if there is any, is not used."""

    name: str
    split: str
    layout: RigLayout
    frame_s: float  # nominal time from one frame to the next
    num_frames: int | None  # None: not known before it is read
    runs: Callable[[], Iterator[records.FrameRun]]


def open_sequences(
    path: str | os.PathLike, config: ConversionConfig, split: str | None = None, names: tuple[str, ...] = ()
) -> list[Sequence]:
    """Returns the sequences at `path`, in order.

    Args:
      path: a directory of records (of one split, or with a folder for each); or raw data.
      config: how raw data are read; its image size is that of the model, which records must have too.
      split: only this one; None: all.
      names: only these sequences; none: all.

    Raises:
      ValueError: there are no such data, split or sequence, or the records' images have another size.
    """
    path = files.locate(path)
    folders = [path] if (path / records.MANIFEST_NAME).is_file() else _splits(path)
    if folders:
        found = [sequence for folder in folders for sequence in _of_records(folder, config.image_size_hw)]
    else:
        found = _of_raw_data(files.on_disk(path, "copy the data there, or give records"), config)
    if split is not None:
        checks.one_of(dict.fromkeys(sequence.split for sequence in found), **{f"{path}: split": split})
        found = [sequence for sequence in found if sequence.split == split]
    for name in names:
        checks.one_of(dict.fromkeys(sequence.name for sequence in found), **{f"{path}: sequence": name})
    return [sequence for sequence in found if not names or sequence.name in names]


def predict(predictor: Predictor, sequence: Sequence, columns: Columns) -> Iterator[dict[str, np.ndarray]]:
    """Yields the predictions for a sequence as rows of these columns, one for each frame, in order of time.

    The poses are those of streaming, whatever the runs. A frame whose headset pose is not rigid and finite is left out
    of the stream, as if it had been dropped, and its row is blank; so is that of a prediction that is not finite. While
    the device computes a chunk, the images of the next are decoded.

    Raises:
      ValueError: the sequence cannot be read, or its cameras or poses are refused (`Predictor.chunk`).
    """
    stream, waiting = None, None
    for rows, frames, valid in _chunks(sequence):
        pose = None
        if frames is not None:
            pose, stream = predictor.chunk(stream, frames)
        if waiting is not None:
            yield _filled(columns, *waiting)
        waiting = rows, valid, pose
    if waiting is not None:
        yield _filled(columns, *waiting)


def _splits(path: Any) -> list[Any]:
    return sorted(found.parent for found in path.glob(f"*/{records.MANIFEST_NAME}"))


def _of_records(folder: Any, image_size_hw: tuple[int, int]) -> list[Sequence]:
    data = records.open_records(folder)
    checks.equal(
        f"{folder}: image height and width",
        data.image_size_hw,
        tuple(image_size_hw),
        "convert the data to the size that the model was trained on",
    )
    indices: dict[str, list[int]] = {}
    for i, entry in enumerate(data.entries):
        indices.setdefault(entry.sequence, []).append(i)
    return [
        Sequence(
            name=name,
            split=data.manifest.split,
            layout=data.layout,
            frame_s=data.frame_s,
            num_frames=sum(data.entries[i].num_frames for i in chosen),
            runs=functools.partial(map, data.__getitem__, chosen),
        )
        for name, chosen in indices.items()
    ]


def _of_raw_data(path: os.PathLike, config: ConversionConfig) -> list[Sequence]:
    checks.one_of(READERS, reader=config.reader)
    reader = READERS[config.reader](path)
    sources = reader.find_sequences()
    spec = conversion.record_spec(reader, sources, config)
    return [
        Sequence(
            name=source.sequence,
            split=source.split,
            layout=spec.layout,
            frame_s=spec.frame_s,
            num_frames=None,
            runs=functools.partial(_read, reader, source, config),
        )
        for source in sources
    ]


def _read(reader: Reader, source: SourceSequence, config: ConversionConfig) -> Iterator[records.FrameRun]:
    return reader.read(source, config, ReadReport())


def _chunks(sequence: Sequence) -> Iterator[tuple[dict[str, np.ndarray], Frames | None, np.ndarray]]:
    """Yields what is known of each frame without a model, the model's input (None: no usable frame), and usable rows.

    The usable frames come first in the input (1, CHUNK_FRAMES, ...); the rest is padding.
    """
    before_s = None
    for run in sequence.runs():
        for start in range(0, run.num_frames, CHUNK_FRAMES):
            part = slice(start, min(start + CHUNK_FRAMES, run.num_frames))
            images, view_valid = records.decode_images(run, part.start, part.stop)
            T_world_headset = run.T_world_headset[part]
            rows = {
                "frame_index": run.frame_index[part],
                "time_s": run.time_s[part],
                "view_valid": view_valid,
                "T_world_headset": T_world_headset,
            }
            valid = np.delete(np.arange(len(images)), list(records.headset_faults(T_world_headset)))
            frames = None
            if n := len(valid):
                blank = structs.blank_frames(1, CHUNK_FRAMES, run.num_views, run.image_size_hw, run.camera_model)
                frames = blank.replace(rig=jax.tree.map(lambda x: np.asarray(x, np.float32)[None], run.rig))
                frames.images[0, :n], frames.view_valid[0, :n] = images[valid], view_valid[valid]
                frames.T_world_headset[0, :n], frames.frame_valid[0, :n] = T_world_headset[valid], True
                times = rows["time_s"][valid]
                frames.frame_gap[0, :n] = records.frame_gaps(times, sequence.frame_s, before_s)
                before_s = float(times[-1])
            yield rows, frames, valid


def _filled(
    columns: Columns, known: dict[str, np.ndarray], valid: np.ndarray, pose: Pose | None
) -> dict[str, np.ndarray]:
    """Returns rows with the poses of the frames `valid`, where they are finite."""
    rows = blank_rows(columns, len(known["frame_index"])) | known
    if pose is None:
        return rows
    found = {"joints_headset_m": pose.joints_headset_m, "joints_world_m": pose.joints_world_m}
    if pose.distribution is not None:
        found |= {
            "cholesky_headset_m": pose.distribution.cholesky_m,
            "covariance_world_m2": pose.covariance_world_m2,
        }
    if pose.body is not None:
        found |= {field.name: getattr(pose.body, field.name) for field in dataclasses.fields(pose.body)}
    found = {name: np.asarray(values)[0, : len(valid)] for name, values in found.items()}
    finite = np.ones(len(valid), bool)
    for values in found.values():
        finite &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    rows["frame_valid"][valid] = finite
    for name, values in found.items():
        rows[name][valid[finite]] = values[finite]
    return rows
