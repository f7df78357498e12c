"""Synthetic sequences: a person, a motion and a room, all drawn from (seed, split, index), and their images."""

import dataclasses
import functools

import jax
import numpy as np

from epfv2_jax.core import checks
from epfv2_jax.data.mocap import clip as clips
from epfv2_jax.data.mocap import loading
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.data.synthetic import body, motion, renderer
from epfv2_jax.data.synthetic.activities import ACTIVITIES
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.data.synthetic.scene import Scene, sample_scene, with_lamp
from epfv2_jax.structs import Rig

#: The headset in the axes of the head joint, metres: measured from the EgoBody3M sample clip.
HEADSET_FROM_HEAD_M: tuple[float, float, float] = (0.0, 0.077, 0.065)

# More rays at once do not fit into the processor's caches and take longer.
_RAYS_AT_ONCE = 100_000
_MIN_PART_FRAMES = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """Frames [start, stop) of a motion file."""

    path: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """A person who wears the headset and moves in a room."""

    clip: clips.MotionClip
    T_world_headset: np.ndarray  # (F, 4, 4) float32
    joints_world_m: np.ndarray  # (F, J, 3) float32
    solids: body.Solids  # leading axis F
    scene: Scene
    noise_seed: int


@functools.lru_cache(maxsize=64)
def load_clip(path: str, fps: float | None) -> clips.MotionClip:
    """Returns the clip of a motion file with its soles on the floor; cached. `fps`: see `loading.load_clip`."""
    return clips.grounded(loading.load_clip(path, fps=fps))


def motion_parts(config: SyntheticConfig, split: str) -> list[Part | None]:
    """Returns the motion of each sequence of a split: the first parts of all motion files, then the second parts, ...

    Without motion files it is None, for procedural motion.
    """
    count, files = getattr(config, f"{split}_sequences"), getattr(config, f"{split}_motion")
    length = config.frames * config.frame_step
    if not files:
        return [None] * count
    parts = []
    for path in files:
        num_frames = load_clip(path, config.motion_fps).num_frames
        cut = [Part(path, start, min(start + length, num_frames)) for start in range(0, num_frames, length)]
        least = min(_MIN_PART_FRAMES * config.frame_step, length)
        parts += [part for part in cut if part.stop - part.start >= least]
    if not parts:
        raise ValueError(f"{split}_motion: no file has {_MIN_PART_FRAMES} images; give longer files")
    parts.sort(key=lambda part: part.start)
    return [parts[i % len(parts)] for i in range(count or len(parts))]


def activities(config: SyntheticConfig, split: str) -> list[str]:
    """Returns the procedural activities of a split.

    Raises:
      ValueError: an activity to leave or hold out is unknown, or none is left to train on.
    """
    shown = [name for name in ACTIVITIES if name not in config.left_out_activities]
    for name in config.left_out_activities:
        checks.one_of(ACTIVITIES, left_out_activities=name)
    for name in config.held_out_activities:
        checks.one_of(shown, held_out_activities=name)
    seen = [name for name in shown if name not in config.held_out_activities]
    checks.not_empty("held_out_activities: what is left to train on", seen, "hold out fewer")
    return list(config.held_out_activities or seen) if split == "test" else seen


def sample_sequence(config: SyntheticConfig, split: str, index: int, part: Part | None = None) -> Sequence:
    """Returns sequence `index` of `split` with the motion of `part`, or procedural motion if that is None."""
    return draw_sequence(
        np.random.default_rng([config.seed, egobody3m.SPLITS.index(split), index]), config, split, part
    )


def draw_sequence(rng: np.random.Generator, config: SyntheticConfig, split: str, part: Part | None) -> Sequence:
    """Returns a random sequence of a split, see `sample_sequence`."""
    if part is None:
        person = body.sample_person(rng)
        fps = clips.FPS / config.frame_step
        clip = motion.sample_motion(rng, person.offsets_m, config.frames, fps, activities(config, split))
    else:
        clip = load_clip(part.path, config.motion_fps)
        person = body.sample_person(rng, clip.offsets_m)
        clip = clips.cut(clip, part.start, part.stop, config.frame_step)
    rotations, joints_m = clip.world_pose
    T_world_headset = np.tile(np.eye(4, dtype=np.float32), (clip.num_frames, 1, 1))
    T_world_headset[:, :3, :3] = rotations[:, 0]
    T_world_headset[:, :3, 3] = joints_m[:, 0] + rotations[:, 0] @ HEADSET_FROM_HEAD_M
    scene, noise_seed = sample_scene(rng, clip.root_position_m[:, ::2]), int(rng.integers(2**31))
    return Sequence(
        clip=clip,
        T_world_headset=T_world_headset,
        joints_world_m=joints_m.astype(np.float32),
        solids=body.solids(person, clip),
        scene=with_lamp(scene, rng.uniform(*config.headset_lamp)),
        noise_seed=noise_seed,
    )


def render_sequence(sequence: Sequence, rig: Rig, rays: renderer.Rays) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns V images (F, H_v, W_v) uint8, stored orientation, and V arrays of distances along the rays, metres."""
    num_frames = len(sequence.T_world_headset)
    chunk = int(np.clip(_RAYS_AT_ONCE // rays.vignette.size, 1, 16))
    chunks = []
    for start in range(0, num_frames, chunk):
        # The last chunk is padded with its last frame, so that all have the same shape, program and rounding.
        rows = np.minimum(np.arange(start, start + chunk), num_frames - 1)
        key = jax.random.fold_in(jax.random.key(sequence.noise_seed), start)
        body_rows = jax.tree.map(lambda x, rows=rows: x[rows], sequence.solids)
        chunks.append(renderer.render(rays, sequence.T_world_headset[rows], body_rows, sequence.scene, key))
    flat = (np.concatenate(arrays)[:num_frames] for arrays in zip(*jax.device_get(chunks), strict=True))
    grey, distance_m = (renderer.to_images(values, rig) for values in flat)
    return grey, distance_m
