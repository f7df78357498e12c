"""Random scenes: a room, its furniture and its light, that of the headset's lamps included."""

import jax
import numpy as np
from flax import struct

# Where lamps light the hands, cameras expose for them: a surface at this distance looks as bright as without lamps.
_EXPOSED_FOR_M = 0.6


class Scene(struct.PyTreeNode):
    """The room around the person, and the light. The room axes are those of the world, turned about y."""

    room_yaw_rad: jax.Array  # ()
    room_low_m: jax.Array  # (3,) lowest corner of the room, in room axes
    room_high_m: jax.Array  # (3,)
    box_low_m: jax.Array  # (C, 3) lowest corners of the boxes, in room axes
    box_high_m: jax.Array  # (C, 3)
    box_tone: jax.Array  # (C,)
    wall_tone: jax.Array  # ()
    floor_tone: jax.Array  # ()
    floor_contrast: jax.Array  # ()
    floor_tile_m: jax.Array  # (2,) size of a plank or tile
    light_direction: jax.Array  # (3,) unit, toward the light
    ambient: jax.Array  # () share of the room's light that comes from all directions
    lamp: jax.Array  # () light of the headset's lamps on a surface 1 m away that faces them; the room's is about 1
    exposure: jax.Array  # ()
    noise: jax.Array  # () standard deviation of the sensor noise


def sample_scene(rng: np.random.Generator, path_xz_m: np.ndarray) -> Scene:
    """Returns a random room whose furniture leaves a person's path (F, 2) free; floor coordinates in metres."""
    yaw = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(yaw), np.sin(yaw)
    path = path_xz_m @ np.array([[c, s], [-s, c]])  # room axes: x = c X - s Z, z = s X + c Z
    low, high = path.min(axis=0), path.max(axis=0)
    room_low, room_high = low - rng.uniform(1.3, 4.0, 2), high + rng.uniform(1.3, 4.0, 2)
    boxes = []
    for _ in range(10):
        size = np.array([rng.uniform(0.2, 1.4), rng.choice([0.3, 0.45, 0.75, 1.2, 2.0]), rng.uniform(0.2, 1.0)])
        size[1] *= rng.uniform(0.8, 1.2)
        low_xz = rng.uniform(room_low, np.maximum(room_high - size[[0, 2]], room_low + 0.01))
        gap = np.maximum(np.maximum(low_xz - path, path - low_xz - size[[0, 2]]), 0.0)
        if np.linalg.norm(gap, axis=-1).min() < 0.75:
            size[1] = 1e-3  # in the way: a sheet on the floor instead
        corner = np.array([low_xz[0], 0.0, low_xz[1]])
        boxes.append((corner, corner + size))
    light = np.array([rng.normal(0.0, 0.6), 1.0, rng.normal(0.0, 0.6)])
    tile = [(0.6, 0.6), (0.3, 0.3), (0.14, 1.2), (1.2, 0.14), (2.0, 2.0)][rng.integers(5)]
    values = {
        "room_yaw_rad": yaw,
        "room_low_m": [room_low[0], 0.0, room_low[1]],
        "room_high_m": [room_high[0], rng.uniform(2.3, 3.2), room_high[1]],
        "box_low_m": [box[0] for box in boxes],
        "box_high_m": [box[1] for box in boxes],
        "box_tone": rng.uniform(0.08, 0.95, len(boxes)),
        "wall_tone": rng.uniform(0.3, 0.95),
        "floor_tone": rng.uniform(0.15, 0.8),
        "floor_contrast": rng.uniform(0.05, 0.4),
        "floor_tile_m": tile,
        "light_direction": light / np.linalg.norm(light),
        "ambient": rng.uniform(0.3, 0.55),
        "lamp": 0.0,
        "exposure": rng.uniform(1.3, 2.6),
        "noise": rng.uniform(0.004, 0.025),
    }
    return Scene(**{name: np.asarray(value, np.float32) for name, value in values.items()})


def with_lamp(scene: Scene, lamp: float) -> Scene:
    """Returns a scene without lamps lit by those of a headset, `Scene.lamp`, and exposed for its wearer's arms."""
    exposure = scene.exposure / (1.0 + lamp / _EXPOSED_FOR_M**2)
    return scene.replace(lamp=np.float32(lamp), exposure=np.float32(exposure))
