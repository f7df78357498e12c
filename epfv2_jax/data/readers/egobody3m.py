"""Reader of the released EgoBody3M zips, without extracting them.

A sequence is a pair `<id>.images.zip` and `<id>.metadata.zip` in a folder named after its split, as the official
download script lays them out: `train`, `validation`, `test`. Members are read by their expected names, behind caps.
Stored images have their +x pointing down; stored lengths are centimetres and leave here as metres.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from epfv2_jax.data import images as images_lib
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.skeleton import NUM_JOINTS

#: Folder names that the official download makes.
SPLITS: tuple[str, ...] = ("train", "validation", "test")
NUM_VIEWS = 4

#: Largest metadata member, bytes. Those of the sample clip have about 12 kB: our choice.
MAX_JSON_BYTES = 1_000_000
#: Largest ratio of declared to stored size of a member. Metadata of the sample clip has about 3: our choice.
MAX_RATIO = 100
#: Most members in a zip: our choice, about 100 000 frames.
MAX_MEMBERS = 500_000
#: Farthest that a joint can be from the headset, metres: our choice.
MAX_JOINT_DISTANCE_M = 5.0

_IMAGES_SUFFIX, _METADATA_SUFFIX = ".images.zip", ".metadata.zip"
_SEQUENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FRAME_NAME = re.compile(r"frame(\d{4,7})\.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceFiles:
    """Where a sequence lies; a path is that of a file that may be missing."""

    sequence: str
    split: str
    images: pathlib.Path
    metadata: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameMetadata:
    """The JSON of one frame, checked."""

    frame_index: int
    annotation_level: int  # 0 is the best grade
    T_world_headset: np.ndarray  # (4, 4) float64, metres
    joints_world_m: np.ndarray  # (J, 3) float64
    uvz: np.ndarray  # (V, J, 3) float64: stored pixel column and row, depth in metres; may hold non-finite values


def find_sequences(source_dir: str | os.PathLike) -> list[SequenceFiles]:
    """Returns the sequences below `source_dir`, sorted by split (train, validation, test) and name.

    `source_dir` holds folders named after the splits, or is itself such a folder. A sequence with one zip missing is
    listed too: reading it says what is missing.

    Raises:
      ValueError: there is no such folder, or one of them holds no sequences.
    """
    source_dir = pathlib.Path(source_dir)
    if not source_dir.is_dir():
        raise ValueError(f"{source_dir}: no such folder; give the folder that holds {', '.join(SPLITS)}")
    folders = [source_dir / split for split in SPLITS if (source_dir / split).is_dir()]
    if not folders and source_dir.resolve().name in SPLITS:
        folders = [source_dir.resolve()]
    if not folders:
        raise ValueError(
            f"{source_dir}: no folder named {', '.join(SPLITS)} in it; the split of a sequence is the name of its "
            "folder, as the official download makes it"
        )
    sequences = []
    for folder in folders:
        names = {
            path.name.removesuffix(suffix)
            for suffix in (_IMAGES_SUFFIX, _METADATA_SUFFIX)
            for path in folder.glob(f"*{suffix}")
        }
        if not names:
            raise ValueError(
                f"{folder}: split {folder.name!r} is empty, no <id>{_IMAGES_SUFFIX} and <id>{_METADATA_SUFFIX} in it; "
                "download it or remove the folder"
            )
        for name in sorted(names):
            if not _SEQUENCE_NAME.fullmatch(name):
                raise ValueError(f"{folder}: {name!r} is no sequence name; rename or remove its zips")
            sequences.append(
                SequenceFiles(
                    sequence=name,
                    split=folder.name,
                    images=folder / (name + _IMAGES_SUFFIX),
                    metadata=folder / (name + _METADATA_SUFFIX),
                )
            )
    return sequences


def parse_frame(content: bytes, where: str) -> FrameMetadata:
    """Returns the checked metadata of one frame from its JSON; `where` names the file in errors.

    Raises:
      ValueError: naming the file, the field, its value and what is allowed.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); fetch the file again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    frame_index = _integer(fields, "frame_index", where)
    level = _integer(fields, "annotation_level", where)
    T_world_headset = _array(fields, "world_from_headset_xf_cm", (4, 4), where)
    joints_cm = _array(fields, "joint_positions_world_cm", (NUM_JOINTS, 3), where)
    transforms.check_rigid(T_world_headset, f"{where}: world_from_headset_xf_cm")
    distance_m = np.linalg.norm(joints_cm - T_world_headset[:3, 3], axis=-1) / 100
    if distance_m.max() > MAX_JOINT_DISTANCE_M:
        raise ValueError(
            f"{where}: joint_positions_world_cm[{distance_m.argmax()}] is {distance_m.max():.3g} m from the headset, "
            f"allowed are at most {MAX_JOINT_DISTANCE_M:g} m"
        )
    uvz = [
        _array(fields, f"projected_joint_positions_cam{view}_px", (NUM_JOINTS, 3), where, finite=False)
        for view in range(NUM_VIEWS)
    ]
    T_world_headset[:3, 3] /= 100
    return FrameMetadata(
        frame_index=frame_index,
        annotation_level=level,
        T_world_headset=T_world_headset,
        joints_world_m=joints_cm / 100,
        uvz=np.stack(uvz) * (1.0, 1.0, 0.01),
    )


class SequenceReader:
    """One sequence, read member by member. Use as a context manager.

    Raises:
      ValueError: a zip is missing, damaged or holds members that no sequence has (see `_Zip`).
    """

    def __init__(self, files: SequenceFiles, with_images: bool = True):
        self.files = files
        self._metadata = _Zip(files.metadata)
        try:
            self._images = _Zip(files.images) if with_images else None
            prefix = f"{files.sequence}/"
            numbers = [
                int(match[1])
                for name in self._metadata.names
                if name.startswith(prefix) and (match := _FRAME_NAME.fullmatch(name[len(prefix) :]))
            ]
            #: Numbers in the file names of the frames that have metadata, ascending.
            self.frames: tuple[int, ...] = tuple(sorted(set(numbers)))
            if not self.frames:
                raise ValueError(
                    f"{files.metadata}: no member named {prefix}frameNNNN.json; is it the zip of another sequence?"
                )
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> "SequenceReader":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        self._metadata.close()
        if getattr(self, "_images", None) is not None:
            self._images.close()

    def metadata(self, frame: int) -> FrameMetadata:
        """Returns the metadata of the frame with this number in its file name, or raises ValueError."""
        name = f"{self.files.sequence}/frame{frame:04d}.json"
        where = f"{self.files.metadata}:{name}"
        metadata = parse_frame(self._metadata.read(name, MAX_JSON_BYTES), where)
        if metadata.frame_index != frame:
            raise ValueError(f"{where}: frame_index is {metadata.frame_index}, the file name says {frame}")
        return metadata

    def jpeg(self, frame: int, view: int) -> bytes:
        """Returns the stored JPEG of one view, not decoded; ValueError where it is missing or its member is damaged."""
        if self._images is None:
            raise ValueError(f"{self.files.images}: the sequence was opened without its images")
        return self._images.read(f"{self.files.sequence}/frame{frame:04d}_cam{view}.jpg", images_lib.MAX_JPEG_BYTES)

    def view_sizes_px(self, samples: int = 9) -> list[tuple[int, int] | None]:
        """Returns (width, height) of each view's stored images, None for a view without one readable image.

        It is the commonest size in the JPEG headers of `samples` frames spread over the sequence, or of all frames
        where none of these is readable.
        """
        spread = np.unique(np.linspace(0, len(self.frames) - 1, samples).round().astype(int))
        sizes = []
        for view in range(NUM_VIEWS):
            counts = self._count_sizes([self.frames[i] for i in spread], view) or self._count_sizes(self.frames, view)
            sizes.append(counts.most_common(1)[0][0] if counts else None)
        return sizes

    def _count_sizes(self, frames: Sequence[int], view: int) -> collections.Counter[tuple[int, int]]:
        counts = collections.Counter()
        for frame in frames:
            try:
                height, width = images_lib.jpeg_size_hw(self.jpeg(frame, view))
            except ValueError:
                continue
            counts[width, height] += 1
        return counts


class _Zip:
    """A zip that is read by member name, with caps; nothing is ever written to disk.

    Raises:
      ValueError: the file is missing or no zip, or holds a member whose name leaves its folder, a name twice, or too
        many members.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path}: no such file; download the sequence again")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise ValueError(f"{path}: not a readable zip ({error}); download it again") from error
        try:
            infos = self._zip.infolist()
            if len(infos) > MAX_MEMBERS:
                raise ValueError(f"{path}: {len(infos)} members, allowed are at most {MAX_MEMBERS}")
            for info in infos:
                parts = info.filename.replace("\\", "/").split("/")
                if ".." in parts or parts[0] == "" or ":" in parts[0]:
                    raise ValueError(
                        f"{path}: member {info.filename!r} points outside its folder; the zip is not one of the "
                        "release, download it again"
                    )
            self._infos = {info.filename: info for info in infos}
            if len(self._infos) != len(infos):
                name, count = collections.Counter(info.filename for info in infos).most_common(1)[0]
                raise ValueError(f"{path}: member {name!r} is there {count} times; download the zip again")
        except ValueError:
            self._zip.close()
            raise

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._infos)

    def close(self) -> None:
        self._zip.close()

    def read(self, name: str, max_bytes: int) -> bytes:
        """Returns the content of a member of at most `max_bytes`; sizes are checked before anything is inflated."""
        where = f"{self.path}:{name}"
        info = self._infos.get(name)
        if info is None:
            raise ValueError(f"{where}: member is missing")
        if info.file_size > max_bytes:
            raise ValueError(f"{where}: declares {info.file_size} bytes, allowed are at most {max_bytes}")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise ValueError(
                f"{where}: declares {info.file_size} bytes in {info.compress_size}, allowed is a ratio of {MAX_RATIO}"
            )
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{where}: encrypted or of compression {info.compress_type}; allowed are stored and deflate"
            )
        try:
            # zipfile stops at the declared size and compares the checksum.
            return self._zip.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
            raise ValueError(f"{where}: damaged member ({error}); download the zip again") from error


def _integer(fields: dict[str, Any], name: str, where: str) -> int:
    value = _field(fields, name, where)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"{where}: {name} is {str(value)[:40]!r}, expected an integer from 0")
    return value


def _array(fields: dict[str, Any], name: str, shape: tuple[int, ...], where: str, finite: bool = True) -> np.ndarray:
    value = _field(fields, name, where)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)
    if array.shape != shape or array.dtype.kind not in "iuf":
        found = f"{len(value)} rows" if isinstance(value, list) else type(value).__name__
        if array.ndim == len(shape):
            found = f"shape {array.shape} of {array.dtype}"
        raise ValueError(f"{where}: {name} has {found}, expected {shape} numbers")
    array = array.astype(np.float64)
    if finite and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{where}: {name}{list(index)} is {array[index]}, expected finite numbers")
    return array


def _field(fields: dict[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise ValueError(f"{where}: {name} is missing")
    return fields[name]
