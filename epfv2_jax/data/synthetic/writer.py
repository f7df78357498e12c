"""Writes synthetic data sets: people seen by EgoBody3M's headset as its release stores them, others as recordings.

The zips are read by the reader `egobody3m`. The metadata of each frame have one field more than those of the release:
`frame_s`, the time from frame to frame. People seen by the rig of another headset (`SyntheticConfig.rig`) become
recordings, for the reader `recording`. The files are the same byte for byte whenever they are made again on the same
kind of machine.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from epfv2_jax.core import bars, checks, files, tasks
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import images
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.data.synthetic import annotations, recordings, renderer, rigs
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.data.synthetic.sequence import Part, Sequence, motion_parts, render_sequence, sample_sequence
from epfv2_jax.structs import Rig

_CONFIG_FILE = "synthetic.json"
_FORMAT_VERSION = 2  # of the zips: since 2 they state their frame time
_NOT_IN_FILES = ("clips_per_person",)  # settings of images rendered in the loop alone; older files state them
_UNSTATED = {"headset_lamp": [0.0, 0.0]}  # what older files do not state
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def write_dataset(
    config: SyntheticConfig,
    directory: str | os.PathLike,
    progress: bool = True,
    engine: tasks.Engine = tasks.LOCAL,
) -> dict[str, float]:
    """Writes `<split>/<sequence>.images.zip` and `.metadata.zip`, or `<split>/<sequence>/`, below `directory`.

    Existing sequences are kept. Several processes may share the work (`engine`). Returns figures: the sequences that
    this call made and found, and those missing because they are in the shares of others; frames; `joints_in_<view>`,
    the mean number of joints inside its image; `leg_joints_hidden`, the share of the leg joints inside an image that
    something hides, the leg itself included; `leg_joints_unseen`, the share of all leg joints that no camera sees;
    frames of all views a second; `lens_refit_px`, the largest error of a lens of `config.rig` that was refitted.

    Raises:
      ValueError: the directory has sequences of another configuration, or a motion file cannot be used.
    """
    directory = files.on_disk(directory, "synthesize there")
    plan = [
        _Step(split, f"synthetic_{split}_{index:05d}", index, part)
        for split in egobody3m.SPLITS
        for index, part in enumerate(motion_parts(config, split))
    ]
    headset = rigs.open_headset(config.rig)
    claim(directory, config)
    share = engine.share(plan)
    todo = [step for step in share if not _is_written(directory, step)]
    totals = collections.Counter(sequences_made=len(todo), sequences_found=len(share) - len(todo))
    start_s = time.perf_counter()
    counts = engine.run(functools.partial(_Synthesizer, config, directory), todo)
    hidden = not (progress and todo)
    with bars.bar(counts, total=len(todo), unit="sequence", desc="synthesize", disable=hidden) as bar:
        for count in bar:
            totals += count
            bar.set_postfix(frames_per_s=f"{totals['frames'] / (time.perf_counter() - start_s):.0f}", refresh=False)
    totals["sequences_missing"] = sum(not _is_written(directory, step) for step in plan)
    figures = annotations.figures(totals, headset.layout.view_names, time.perf_counter() - start_s)
    return figures if headset.description is None else {**figures, "lens_refit_px": headset.refit_px}


def write_zips(sequence: Sequence, rig: Rig, grey: list[np.ndarray], folder: pathlib.Path, name: str) -> None:
    """Writes both zips of a sequence, with images [V] (F, H_v, W_v), into `folder`."""
    uv_px, depth_m, _ = annotations.project_stored(sequence, rig)
    metadata, pictures = [], []
    for t in range(len(uv_px)):
        T_world_headset_cm = sequence.T_world_headset[t].astype(np.float64)
        T_world_headset_cm[:3, 3] *= 100
        fields = {
            "frame_index": t,
            "frame_s": 1 / sequence.clip.fps,
            "world_from_headset_xf_cm": T_world_headset_cm.round(8).tolist(),
            "annotation_level": 0,
            "joint_positions_world_cm": (100.0 * sequence.joints_world_m[t].astype(np.float64)).round(6).tolist(),
        }
        for v, image in enumerate(grey):
            pictures.append((f"{name}/frame{t:04d}_cam{v}.jpg", images.encode_grey(image[t])))
            uvz = np.concatenate([uv_px[t, v], 100.0 * depth_m[t, v, :, None]], axis=-1)
            fields[f"projected_joint_positions_cam{v}_px"] = uvz.round(6).tolist()
        metadata.append((f"{name}/frame{t:04d}.json", json.dumps(fields).encode()))
    _write_zip(folder / f"{name}.images.zip", pictures, zipfile.ZIP_STORED)
    _write_zip(folder / f"{name}.metadata.zip", metadata, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A sequence of the plan."""

    split: str
    name: str
    index: int
    part: Part | None


class _Synthesizer:
    """Makes the sequences of one process, for `core.tasks`."""

    def __init__(self, config: SyntheticConfig, directory: pathlib.Path):
        self.config, self.directory = config, directory
        self.headset = rigs.open_headset(config.rig)
        self.rig = self.headset.scaled(config.image_width)
        self.rays = jax.device_put(renderer.make_rays(self.rig))

    def __call__(self, steps: Iterable[_Step]) -> Iterator[collections.Counter[str]]:
        for step in steps:
            folder = self.directory / step.split
            folder.mkdir(parents=True, exist_ok=True)
            sequence = sample_sequence(self.config, step.split, step.index, step.part)
            grey, distance_m = render_sequence(sequence, self.rig, self.rays)
            if self.headset.description is None:
                write_zips(sequence, self.rig, grey, folder, step.name)
            else:
                recordings.write(sequence, self.rig, self.headset.description, grey, folder / step.name)
            uv_px, _, points_cam_m = annotations.project_stored(sequence, self.rig)
            yield annotations.count_visible(*annotations.visible_joints(self.rig, uv_px, points_cam_m, distance_m))


def claim(directory: pathlib.Path, config: SyntheticConfig) -> None:
    """Writes what the files of a new data set depend on; raises if an old one has other settings, or another format."""
    path, now = directory / _CONFIG_FILE, {"version": _FORMAT_VERSION, **config_lib.to_mapping(config)}
    for name in _NOT_IN_FILES:
        del now[name]
    headset = rigs.open_headset(config.rig)
    if headset.description is not None:
        now["rig"] = f"that with checksum {headset.sha256}"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        if headset.description is not None:
            recordings.write_headset(headset.description, directory)
        files.write_json(path, now)
    remedy = "give another directory or remove this one"
    before = files.read_json(path, remedy)
    with checks.naming(os.fspath(path), remedy=remedy):
        checks.instance("content", before, dict, "a JSON object")
        before = _UNSTATED | before
        for key in sorted({*now, *before}.difference(_NOT_IN_FILES)):
            if before.get(key) != now.get(key):
                raise ValueError(f"made with {key} = {before.get(key)!r}, asked for {now.get(key)!r}")


def _is_written(directory: pathlib.Path, step: _Step) -> bool:
    folder = directory / step.split
    if (folder / step.name).is_dir():
        return True
    return all((folder / f"{step.name}.{kind}.zip").is_file() for kind in ("images", "metadata"))


def _write_zip(path: pathlib.Path, members: list[tuple[str, bytes]], compression: int) -> None:
    """Writes a zip, whole or not at all, whose bytes depend on its members only."""
    with files.publishing(path) as own, zipfile.ZipFile(own, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = compression
            archive.writestr(info, content)
