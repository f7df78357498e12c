"""Renders images by ray casting: the body's solids, floor, furniture and walls, light, lamps and a soft shadow.

Every pixel has one ray, whose direction in the headset frame is computed once for a rig. Each ray hits each surface in
closed form, and the nearest hit is visible, so occlusion is exact.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.data.synthetic import surfaces
from epfv2_jax.data.synthetic.body import Solids
from epfv2_jax.data.synthetic.scene import Scene
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.structs import Rig

_PENUMBRA_M = 0.08
_NEAREST_LIT_M = 0.2  # lamps have an extent: nearer surfaces do not get brighter


class Rays(struct.PyTreeNode):
    """Rays of the pixels of V images, row by row, padded to the same number R."""

    direction_headset: jax.Array  # (V, R, 3) unit
    origin_headset_m: jax.Array  # (V, 3) the optical centres
    vignette: jax.Array  # (V, R) share of the light that arrives, 0 beyond the valid angle of the lens


def make_rays(rig: Rig) -> Rays:
    """Returns the rays of all pixels of a rig with leading axis V."""
    sizes = np.asarray(rig.cameras.size_px).astype(int)
    count = int(sizes.prod(axis=-1).max())
    directions, vignettes = [], []
    for v, (width, height) in enumerate(sizes):
        camera = jax.tree.map(lambda x, v=v: x[v], rig.cameras)
        u, w = np.meshgrid(np.arange(width), np.arange(height))
        direction_cam, valid = cameras.unproject(camera, np.stack([u, w], axis=-1).reshape(-1, 2).astype(np.float32))
        falloff = np.where(valid, 0.35 + 0.65 * np.asarray(direction_cam)[:, 2], 0.0)
        padding = count - width * height
        R_headset_cam = np.asarray(rig.T_cam_headset)[v, :3, :3].T
        directions.append(np.pad(np.asarray(direction_cam) @ R_headset_cam.T, ((0, padding), (0, 0)), mode="edge"))
        vignettes.append(np.pad(falloff, (0, padding)))
    return Rays(
        direction_headset=np.stack(directions).astype(np.float32),
        origin_headset_m=np.asarray(transforms.invert(rig.T_cam_headset))[:, :3, 3],
        vignette=np.stack(vignettes).astype(np.float32),
    )


@jax.jit
def render(
    rays: Rays, T_world_headset: jax.Array, solids: Solids, scene: Scene, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns images (F, V, R) uint8 and distances along the rays (F, V, R), metres, `FAR_M` where there is no hit.

    Args:
      rays: of V cameras.
      T_world_headset: (F, 4, 4).
      solids: leading axis F.
      scene: one for all frames.
      key: for the sensor noise; frame i uses fold_in(key, i).
    """
    chex.assert_shape(T_world_headset, (..., 4, 4))
    F, V, R = T_world_headset.shape[0], *rays.vignette.shape
    origins = transforms.apply(T_world_headset, rays.origin_headset_m[None])
    views = jax.vmap(_render_view, in_axes=(0, 0, None, None, None))

    def frame(inputs) -> tuple[jax.Array, jax.Array]:
        return views(rays.direction_headset, *inputs, scene)

    grey, distance_m = each(frame, (origins, T_world_headset[:, :3, :3], solids))
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (V, R)))(jnp.arange(F))
    # Shot noise grows with the light; read noise does not.
    signal = 1.0 - jnp.exp(-scene.exposure * grey * rays.vignette[None])
    signal = signal + scene.noise * (0.5 + signal) * noise * (rays.vignette[None] > 0)
    return jnp.clip(jnp.round(255.0 * signal), 0, 255).astype(jnp.uint8), distance_m


def each(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Maps over the leading axis: on a CPU one after the other, whose arrays fit into the caches, else all at once."""
    return jax.lax.map(function, inputs) if jax.default_backend() == "cpu" else jax.vmap(function)(inputs)


def to_images(flat: jax.Array, rig: Rig) -> list[np.ndarray]:
    """Returns values of rays (F, V, R) as V arrays (F, H_v, W_v)."""
    sizes = np.asarray(rig.cameras.size_px).astype(int)
    return [np.asarray(flat[:, v, : w * h]).reshape(-1, h, w) for v, (w, h) in enumerate(sizes)]


def _render_view(direction_headset, origin, R_world_headset, solids: Solids, scene: Scene):
    """Returns grey values and distances (R,) of one view. Inside, vectors are (3, R): rays along the fast axis."""
    direction = R_world_headset @ direction_headset.T
    shapes = (surfaces.cones, solids), (surfaces.ellipsoids, solids), (surfaces.boxes, scene), (surfaces.walls, scene)
    distance, normal, tone = functools.reduce(_nearer, (hit(origin, direction, shape) for hit, shape in shapes))
    point = origin[:, None] + direction * jnp.minimum(distance, 30.0)[None]
    on_floor = point[1] < 2e-3
    tone = jnp.where(on_floor, scene.floor_tone * _floor_texture(point, scene), tone)
    light = jnp.maximum(scene.light_direction @ normal, 0.0) * jnp.where(on_floor, _lit(point, solids, scene), 1.0)
    sky = 0.85 + 0.15 * normal[1]
    facing = jnp.abs(surfaces.dot(normal, direction))  # darkens the outlines, so that bodies look round
    room = scene.ambient * sky * (0.7 + 0.3 * facing) + (1.0 - scene.ambient) * light
    # The lamps are beside the cameras: they cast no shadow that a camera sees, and near surfaces are the bright ones.
    lamps = scene.lamp * facing / jnp.maximum(distance, _NEAREST_LIT_M) ** 2
    return tone * (room + lamps), distance


def _nearer(a, b):
    """Returns, ray by ray, the nearer of two hits."""
    closer = a[0] <= b[0]
    return tuple(jnp.where(closer if x.ndim == 1 else closer[None], x, y) for x, y in zip(a, b, strict=True))


def _floor_texture(point, scene: Scene):
    """Returns the relative tone (R,), about 1, of tiles or planks of uneven tone with dark joints."""
    x, z = point[0] / scene.floor_tile_m[0], point[2] / scene.floor_tile_m[1]
    column, row = jnp.floor(x), jnp.floor(z)
    uneven = jnp.sin(column * 12.9898 + row * 78.233) * 43.758
    uneven = uneven - jnp.floor(uneven)
    joint = ((x - column) * scene.floor_tile_m[0] < 0.012) | ((z - row) * scene.floor_tile_m[1] < 0.012)
    grain = jnp.sin(61.0 * point[0] + 7.0 * jnp.sin(3.0 * point[2])) * jnp.sin(23.0 * point[2])
    return 1.0 + scene.floor_contrast * (uneven - 0.5 + 0.15 * grain - 0.8 * joint)


def _lit(point, solids: Solids, scene: Scene):
    """Returns the share (R,) of the directed light that reaches floor points. Cones cast shadows with a soft edge."""
    along = scene.light_direction / scene.light_direction[1]
    start = solids.cone_start_m - solids.cone_start_m[:, 1:2] * along[None]
    axis = solids.cone_end_m - solids.cone_end_m[:, 1:2] * along[None] - start
    radius = jnp.mean(solids.cone_radii_m, axis=-1)
    per_length2 = 1.0 / (axis[:, 0] ** 2 + axis[:, 2] ** 2 + 1e-6)

    def narrow(gap, cone):
        start, axis, radius, per_length2 = cone
        px, pz = point[0] - start[0], point[2] - start[2]
        share = jnp.clip((px * axis[0] + pz * axis[2]) * per_length2, 0.0, 1.0)
        # Distance beyond the edge to first order, (s^2 - r^2) / 2r: it needs no square root.
        s2 = (px - share * axis[0]) ** 2 + (pz - share * axis[2]) ** 2
        return jnp.minimum(gap, (s2 - radius**2) * (0.5 / radius)), None

    gap, _ = jax.lax.scan(narrow, jnp.full_like(point[0], surfaces.FAR_M), (start, axis, radius, per_length2))
    return jnp.clip(0.5 + gap / _PENUMBRA_M, 0.15, 1.0)
