"""Synthetic sequences in the layout of the EgoBody3M release, so that the reader of the real data reads them.

A sequence is a person, a motion and a room, all drawn from (seed, split, index); its files are the same byte for byte
whenever they are made again on the same kind of machine.
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
import jax.numpy as jnp
import numpy as np
import tqdm

from epfv2_jax.core import config as config_lib
from epfv2_jax.core import tasks
from epfv2_jax.data import images
from epfv2_jax.data.mocap import retarget as mocap
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.data.synthetic import body, motion, renderer
from epfv2_jax.geometry import cameras, skeleton, transforms
from epfv2_jax.structs import Rig

#: The headset in the axes of the head joint, metres: measured from the EgoBody3M sample clip.
HEADSET_FROM_HEAD_M: tuple[float, float, float] = (0.0, 0.077, 0.065)
#: A joint is hidden where the image shows something nearer by more than this. Its own limb counts where the ray runs
#: along it, as through a thigh to the knee.
HIDDEN_MARGIN_M = 0.12

_CONFIG_FILE = "synthetic.json"
# Rays of more frames at once fall out of the processor's caches and take longer.
_RAYS_AT_ONCE = 100_000
_MIN_PART_FRAMES = 8
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_LEGS = list(skeleton.METRIC_GROUPS["leg"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """A synthetic data set."""

    seed: int = 0
    train_sequences: int = 80  # 0: none, or with motion files every part of them once
    validation_sequences: int = 8
    test_sequences: int = 8
    frames: int = 96  # in a sequence; the last part of a motion file may be shorter
    frame_step: int = 1  # motion frames (30 a second) for one image: with 3 the sequences have 10 frames a second
    image_width: int = 80  # of the stored images, pixels; natively 640 for the side cameras and 1280 for the front ones
    train_motion: tuple[str, ...] = ()  # motion capture files (.amc with its .asf beside it, .bvh); empty: procedural
    validation_motion: tuple[str, ...] = ()
    test_motion: tuple[str, ...] = ()

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        for split in egobody3m.SPLITS:
            if getattr(self, f"{split}_sequences") < 0:
                raise ValueError(f"{split}_sequences is {getattr(self, f'{split}_sequences')}; it must be 0 or more")
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; a sequence must have at least one")
        if self.frame_step < 1:
            raise ValueError(f"frame_step is {self.frame_step}; it must be at least 1")
        if self.image_width < 20 or self.image_width % 20:
            raise ValueError(f"image_width is {self.image_width}; it must be a multiple of 20, such as 80 or 640")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """A person, in motion, in a room, with the headset on."""

    clip: motion.MotionClip
    T_world_headset: np.ndarray  # (F, 4, 4) float32
    joints_world_m: np.ndarray  # (F, J, 3) float32
    solids: body.Solids  # leading axis F
    scene: renderer.Scene
    noise_seed: int


def write_dataset(
    config: SyntheticConfig,
    directory: str | os.PathLike,
    progress: bool = True,
    engine: tasks.Engine = tasks.LOCAL,
) -> dict[str, float]:
    """Returns figures of the sequences that this call made; those that are already there are left as they are.

    Writes `<split>/<sequence>.images.zip` and `.metadata.zip` below `directory`; several processes may share the work
    (`engine`). The figures: sequences made and found by this call, and still missing because they are in the shares of
    others; frames; mean number of joints inside a side and a front image; of the leg joints inside an image, the share
    hidden behind something, the leg itself included (`leg_joints_hidden`); of all leg joints, the share that no camera
    sees (`leg_joints_unseen`); four-view frames a second.

    Raises:
      ValueError: the directory holds sequences of other settings, or a motion file cannot be used.
    """
    directory = pathlib.Path(directory)
    plan = [
        _Step(split, f"synthetic_{split}_{index:05d}", index, part)
        for split in egobody3m.SPLITS
        for index, part in enumerate(_parts(config, split))
    ]
    _check_config(config, directory)
    share = engine.share(plan)
    todo = [step for step in share if not _is_written(directory, step)]
    totals = collections.Counter(sequences_made=len(todo), sequences_found=len(share) - len(todo))
    start_s = time.perf_counter()
    counts = engine.run(functools.partial(_Synthesizer, config, directory), todo)
    hidden = not (progress and todo)
    with tqdm.tqdm(counts, total=len(todo), unit="sequence", desc="synthesize", disable=hidden) as bar:
        for count in bar:
            totals += count
            bar.set_postfix(frames_per_s=f"{totals['frames'] / (time.perf_counter() - start_s):.0f}")
    totals["sequences_missing"] = sum(not _is_written(directory, step) for step in plan)
    return _figures(totals, time.perf_counter() - start_s)


@dataclasses.dataclass(frozen=True)
class _Step:
    """A sequence to be made."""

    split: str
    name: str
    index: int
    part: "_Part | None"


class _Synthesizer:
    """A worker for `core.engines`."""

    def __init__(self, config: SyntheticConfig, directory: pathlib.Path):
        self.config, self.directory = config, directory
        self.rig = renderer.scaled_rig(config.image_width)
        self.rays = jax.device_put(renderer.make_rays(self.rig))

    def __call__(self, steps: Iterable[_Step]) -> Iterator[collections.Counter[str]]:
        for step in steps:
            folder = self.directory / step.split
            folder.mkdir(parents=True, exist_ok=True)
            sequence = sample_sequence(self.config, step.split, step.index, step.part)
            yield write_sequence(sequence, self.rig, self.rays, folder, step.name)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Frames of a motion file."""

    path: str
    start: int
    stop: int


def sample_sequence(config: SyntheticConfig, split: str, index: int, part: _Part | None = None) -> Sequence:
    """Returns sequence `index` of `split`: its motion is that of `part`, or procedural where it is None."""
    rng = np.random.default_rng([config.seed, egobody3m.SPLITS.index(split), index])
    if part is None:
        person = body.sample_person(rng)
        length = config.frames * config.frame_step
        clip = motion.cut(motion.sample_motion(rng, person.offsets_m, length), 0, length, config.frame_step)
    else:
        clip = _load_clip(part.path)
        person = body.sample_person(rng, clip.offsets_m)
        clip = motion.cut(clip, part.start, part.stop, config.frame_step)
    rotations, joints_m = motion.world_pose(clip)
    R_world_head, head_m = rotations[:, 0], joints_m[:, 0]
    return Sequence(
        clip=clip,
        T_world_headset=np.asarray(
            transforms.make(R_world_head, head_m + R_world_head @ HEADSET_FROM_HEAD_M), np.float32
        ),
        joints_world_m=joints_m.astype(np.float32),
        solids=body.solids(person, clip),
        scene=renderer.sample_scene(rng, clip.root_position_m[:, ::2]),
        noise_seed=int(rng.integers(2**31)),
    )


def render_sequence(sequence: Sequence, rig: Rig, rays: renderer.Rays) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns V images (F, H_v, W_v) uint8, stored orientation, and V arrays of distances along the rays, metres."""
    num_frames = len(sequence.T_world_headset)
    chunk = int(np.clip(_RAYS_AT_ONCE // rays.vignette.size, 1, 16))
    chunks = []
    for start in range(0, num_frames, chunk):
        # The last chunk is padded with its last frame: one shape, one compilation, one rounding.
        rows = np.minimum(np.arange(start, start + chunk), num_frames - 1)
        key = jax.random.fold_in(jax.random.key(sequence.noise_seed), start)
        body_rows = jax.tree.map(lambda x, rows=rows: x[rows], sequence.solids)
        chunks.append(renderer.render(rays, sequence.T_world_headset[rows], body_rows, sequence.scene, key))
    flat = (np.concatenate(arrays)[:num_frames] for arrays in zip(*jax.device_get(chunks), strict=True))
    grey, distance_m = (renderer.to_images(values, rig) for values in flat)
    return grey, distance_m


def write_sequence(
    sequence: Sequence, rig: Rig, rays: renderer.Rays, folder: pathlib.Path, name: str
) -> collections.Counter[str]:
    """Returns counts for the figures of `write_dataset`, after writing both zips of the sequence into `folder`."""
    grey, distance_m = render_sequence(sequence, rig, rays)
    uv_px, depth_m, points_cam_m = project_stored(sequence, rig)
    metadata, pictures = [], []
    for t in range(len(uv_px)):
        T_world_headset_cm = sequence.T_world_headset[t].astype(np.float64)
        T_world_headset_cm[:3, 3] *= 100
        fields = {
            "frame_index": t,
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
    return _count(*visible_joints(rig, uv_px, points_cam_m, distance_m))


def project_stored(sequence: Sequence, rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pixels (F, V, J, 2), depths (F, V, J) and joints in the camera frames (F, V, J, 3), metres; float64.

    As the release stores them: the bare formula of the lens also past its turning point, and for a joint behind the
    camera the pixel of its mirror image through the optical centre.
    """
    uv_px, points_cam_m = jax.device_get(_project(rig, sequence.T_world_headset, sequence.joints_world_m))
    return uv_px.astype(np.float64), points_cam_m[..., 2].astype(np.float64), points_cam_m.astype(np.float64)


@jax.jit
def _project(rig: Rig, T_world_headset: jax.Array, joints_world_m: jax.Array) -> tuple[jax.Array, jax.Array]:
    joints_headset_m = transforms.apply(transforms.invert(T_world_headset), joints_world_m)
    points_cam_m = transforms.apply(rig.T_cam_headset[None], joints_headset_m[:, None])
    in_front = jnp.where(points_cam_m[..., 2:] < 0, -points_cam_m, points_cam_m)
    uv_px, _ = cameras.project(cameras.without_turning_limit(rig.cameras), in_front)
    return uv_px, points_cam_m


def visible_joints(rig: Rig, uv_px, points_cam_m, distance_m) -> tuple[np.ndarray, np.ndarray]:
    """Returns which joints (F, V, J) lie inside an image and which of these nothing hides.

    Args:
      rig: with leading axis V.
      uv_px, points_cam_m: as `project_stored` returns them.
      distance_m: as `render_sequence` returns it.
    """
    radius = np.linalg.norm(points_cam_m[..., :2], axis=-1)
    max_angle = np.asarray(rig.cameras.max_angle_rad)[None, :, None]
    in_view = (points_cam_m[..., 2] > 0) & (np.arctan2(radius, points_cam_m[..., 2]) < max_angle)
    inside = in_view & np.asarray(cameras.inside_image(rig.cameras, uv_px.astype(np.float32)))
    seen = inside.copy()
    for v, shown_m in enumerate(distance_m):
        column, row = (np.clip(uv_px[:, v, :, i].round().astype(int), 0, shown_m.shape[2 - i] - 1) for i in range(2))
        nearest_m = shown_m[np.arange(len(shown_m))[:, None], row, column]
        seen[:, v] &= nearest_m > np.linalg.norm(points_cam_m[:, v], axis=-1) - HIDDEN_MARGIN_M
    return inside, seen


def _count(inside: np.ndarray, seen: np.ndarray) -> collections.Counter[str]:
    return collections.Counter(
        frames=len(inside),
        side_joints=int(inside[:, [0, 3]].sum()),
        front_joints=int(inside[:, [1, 2]].sum()),
        leg_joints_inside=int(inside[:, :, _LEGS].sum()),
        leg_joints_seen=int(seen[:, :, _LEGS].sum()),
        leg_joints_unseen=int((~seen[:, :, _LEGS].any(axis=1)).sum()),
    )


def _figures(totals: collections.Counter[str], elapsed_s: float) -> dict[str, float]:
    figures = {key: totals[key] for key in ("sequences_made", "sequences_found", "sequences_missing", "frames")}
    if not totals["frames"]:
        return figures
    frames = totals["frames"]
    return figures | {
        "joints_in_side_image": totals["side_joints"] / (2 * frames),
        "joints_in_front_image": totals["front_joints"] / (2 * frames),
        "leg_joints_hidden": 1.0 - totals["leg_joints_seen"] / max(totals["leg_joints_inside"], 1),
        "leg_joints_unseen": totals["leg_joints_unseen"] / (frames * len(_LEGS)),
        "frames_per_second": frames / elapsed_s,
    }


@functools.lru_cache(maxsize=64)
def _load_clip(path: str) -> motion.MotionClip:
    return motion.grounded(mocap.load_clip(path))


def _parts(config: SyntheticConfig, split: str) -> list[_Part | None]:
    """What each sequence of a split is made from. Files take turns: first parts of all, then second parts, ..."""
    count, files = getattr(config, f"{split}_sequences"), getattr(config, f"{split}_motion")
    length = config.frames * config.frame_step
    if not files:
        return [None] * count
    parts = []
    for path in files:
        num_frames = _load_clip(path).num_frames
        cut = [_Part(path, start, min(start + length, num_frames)) for start in range(0, num_frames, length)]
        least = min(_MIN_PART_FRAMES * config.frame_step, length)
        parts += [part for part in cut if part.stop - part.start >= least]
    if not parts:
        raise ValueError(f"{split}_motion: no file has {_MIN_PART_FRAMES} frames; give longer ones")
    parts.sort(key=lambda part: part.start)
    return [parts[i % len(parts)] for i in range(count or len(parts))]


def _check_config(config: SyntheticConfig, directory: pathlib.Path) -> None:
    """Refuses to mix two data sets; remembers the settings of a new one."""
    path, now = directory / _CONFIG_FILE, config_lib.to_mapping(config)
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with tasks.publishing(path) as own:
            own.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(path.read_text())
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise ValueError(
            f"{directory}: made with {key} = {before.get(key)!r}, asked for {now[key]!r}; "
            "give another directory or remove this one"
        )


def _is_written(directory: pathlib.Path, step: _Step) -> bool:
    return all((directory / step.split / f"{step.name}.{kind}.zip").is_file() for kind in ("images", "metadata"))


def _write_zip(path: pathlib.Path, members: list[tuple[str, bytes]], compression: int) -> None:
    """Writes a zip that depends on its members only, under a temporary name until it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = compression
            archive.writestr(info, content)
    temporary.replace(path)
