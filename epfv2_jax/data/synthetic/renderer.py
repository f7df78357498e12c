"""Images of a scene by ray casting: the body's solids, a floor, boxes, the walls of a room, light and a soft shadow.

Every pixel has one ray, whose direction in the headset frame is computed once for a rig. A ray meets each solid in
closed form; the nearest hit is seen, so occlusion is exact.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.synthetic.body import Solids
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.structs import Rig

#: Distance given to a ray that meets nothing, metres.
FAR_M = 1e3
_NEAR_M = 0.01
_PENUMBRA_M = 0.08


class Rays(struct.PyTreeNode):
    """Rays of the pixels of V images, row by row, padded to one length R."""

    direction_headset: jax.Array  # (V, R, 3) unit
    origin_headset_m: jax.Array  # (V, 3) the optical centres
    vignette: jax.Array  # (V, R) light that arrives, 0 beyond the valid angle of the lens


class Scene(struct.PyTreeNode):
    """What stands round the person, and the light. Boxes and walls are upright in room axes, turned about y."""

    room_yaw_rad: jax.Array  # ()
    room_low_m: jax.Array  # (3,) corner of the room, room axes
    room_high_m: jax.Array  # (3,)
    box_low_m: jax.Array  # (C, 3) room axes
    box_high_m: jax.Array  # (C, 3)
    box_tone: jax.Array  # (C,)
    wall_tone: jax.Array  # ()
    floor_tone: jax.Array  # ()
    floor_contrast: jax.Array  # ()
    floor_tile_m: jax.Array  # (2,) size of a plank or tile
    light_direction: jax.Array  # (3,) unit, toward the light
    ambient: jax.Array  # () share of the light that comes from everywhere
    exposure: jax.Array  # ()
    noise: jax.Array  # () standard deviation of the sensor noise


def scaled_rig(image_width: int) -> Rig:
    """Returns the measured rig, stored orientation, with images `image_width` wide; numpy, leading axis V.

    Raises:
      ValueError: the width does not give whole heights (side images are 4:3, front images 5:4).
    """
    if image_width < 20 or image_width % 20:
        raise ValueError(f"image_width is {image_width}; it must be a positive multiple of 20, such as 80 or 640")
    native = rig_lib.default_rig()
    views = []
    for v in range(len(rig_lib.VIEW_NAMES)):
        camera = jax.tree.map(lambda x, v=v: x[v], native.cameras)
        width, height = camera.size_px
        views.append(cameras.resize(camera, image_width, round(image_width * float(height) / float(width))))
    return native.replace(cameras=cameras.stack(views))


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


def sample_scene(rng: np.random.Generator, path_xz_m: np.ndarray) -> Scene:
    """Returns a random room with furniture that keeps clear of a person's path (F, 2), floor coordinates in metres."""
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
            size[1] = 1e-3  # a sheet on the floor instead
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
        "exposure": rng.uniform(1.3, 2.6),
        "noise": rng.uniform(0.004, 0.025),
    }
    return Scene(**{name: np.asarray(value, np.float32) for name, value in values.items()})


@jax.jit
def render(
    rays: Rays, T_world_headset: jax.Array, solids: Solids, scene: Scene, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns images (F, V, R) uint8 and distances along the rays (F, V, R) in metres, `FAR_M` where nothing is hit.

    Args:
      rays: of V cameras.
      T_world_headset: (F, 4, 4).
      solids: leading axis F.
      scene: one for all frames.
      key: of the sensor noise; frame i uses fold_in(key, i).
    """
    chex.assert_shape(T_world_headset, (..., 4, 4))
    F, V, R = T_world_headset.shape[0], *rays.vignette.shape
    origins = transforms.apply(T_world_headset, rays.origin_headset_m[None])
    view = jax.vmap(_render_view, in_axes=(0, 0, None, None, None))
    grey, distance_m = jax.vmap(view, in_axes=(None, 0, 0, 0, None))(
        rays.direction_headset, origins, T_world_headset[:, :3, :3], solids, scene
    )
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (V, R)))(jnp.arange(F))
    # Shot noise grows with the light, read noise does not.
    signal = 1.0 - jnp.exp(-scene.exposure * grey * rays.vignette[None])
    signal = signal + scene.noise * (0.5 + signal) * noise * (rays.vignette[None] > 0)
    return jnp.clip(jnp.round(255.0 * signal), 0, 255).astype(jnp.uint8), distance_m


def to_images(flat: jax.Array, rig: Rig) -> list[np.ndarray]:
    """Returns V arrays (F, H_v, W_v) of per-ray values (F, V, R)."""
    sizes = np.asarray(rig.cameras.size_px).astype(int)
    return [np.asarray(flat[:, v, : w * h]).reshape(-1, h, w) for v, (w, h) in enumerate(sizes)]


def _render_view(direction_headset, origin, R_world_headset, solids: Solids, scene: Scene):
    """Grey values and distances (R,) of one view. Inside, vectors of rays are (3, R): rays along the fast axis."""
    direction = R_world_headset @ direction_headset.T
    surfaces = (_cones, solids), (_ellipsoids, solids), (_boxes, scene), (_walls, scene)
    distance, normal, tone = functools.reduce(_nearer, (hit(origin, direction, what) for hit, what in surfaces))
    point = origin[:, None] + direction * jnp.minimum(distance, 30.0)[None]
    on_floor = point[1] < 2e-3
    tone = jnp.where(on_floor, scene.floor_tone * _floor_texture(point, scene), tone)
    light = jnp.maximum(scene.light_direction @ normal, 0.0) * jnp.where(on_floor, _lit(point, solids, scene), 1.0)
    sky = 0.85 + 0.15 * normal[1]
    facing = jnp.abs(jnp.sum(normal * direction, axis=0))  # rounds the outlines
    return tone * (scene.ambient * sky * (0.7 + 0.3 * facing) + (1.0 - scene.ambient) * light), distance


def _nearer(a, b):
    closer = a[0] <= b[0]
    return tuple(jnp.where(closer if x.ndim == 1 else closer[None], x, y) for x, y in zip(a, b, strict=True))


def _nearest(hit, shapes, count: int):
    """Distance (R,) of the nearest hit and the number of its shape; `hit` maps one of `shapes` (leading axis) to (R,).

    A scan, because one large kernel over shapes and rays is several times slower on a CPU.
    """

    def step(best, numbered):
        i, shape = numbered
        distance = hit(shape)
        distance = jnp.where(distance > _NEAR_M, distance, FAR_M)
        closer = distance < best[0]
        return (jnp.where(closer, distance, best[0]), jnp.where(closer, i, best[1])), None

    empty = jnp.full(jax.eval_shape(hit, jax.tree.map(lambda x: x[0], shapes)).shape, FAR_M)
    (distance, i), _ = jax.lax.scan(step, (empty, jnp.zeros(empty.shape, jnp.int32)), (jnp.arange(count), shapes))
    return distance, i


def _cones(origin, direction, solids: Solids):
    """Round cones, after Quilez' closed form: the cone that touches two spheres, and the spheres themselves."""
    start, r0, r1 = solids.cone_start_m, solids.cone_radii_m[:, 0], solids.cone_radii_m[:, 1]
    axis, to_start, dr = solids.cone_end_m - start, origin[None] - start, r0 - r1
    m0, m1, m5, m7 = (
        jnp.sum(a * b, axis=-1)
        for a, b in ((axis, axis), (axis, to_start), (to_start, to_start), (to_start - axis, to_start - axis))
    )
    d2, m1 = m0 - dr**2, m1 - r0 * dr
    k0 = d2 * m5 - m1**2 + (r0 * dr) ** 2 - m0 * r0**2

    def hit(cone):
        axis, to_start, d2, m1, k0, ball0, ball1 = cone
        m2, m3 = _dot(axis, direction), _dot(to_start, direction)
        k1, k2 = d2 * m3 - m1 * m2, d2 - m2**2
        h = k1**2 - k0 * k2
        side = (-_root(h) - k1) / jnp.where(jnp.abs(k2) > 1e-9, k2, 1e-9)
        y = m1 + side * m2
        m6 = m3 - m2
        h0, h1 = m3**2 - ball0, m6**2 - ball1
        ends = jnp.minimum(jnp.where(h0 > 0, -m3 - _root(h0), FAR_M), jnp.where(h1 > 0, -m6 - _root(h1), FAR_M))
        return jnp.where((h > 0) & (y > 0) & (y < d2), side, ends)

    distance, i = _nearest(hit, (axis, to_start, d2, m1, k0, m5 - r0**2, m7 - r1**2), len(d2))
    # The surface belongs to the sphere whose centre lies this share along the axis.
    offset = to_start.T[:, i] + direction * distance[None]
    share = (jnp.sum(axis.T[:, i] * offset, axis=0) - (r0 * dr)[i]) / jnp.maximum(d2[i], 1e-9)
    normal = offset - axis.T[:, i] * jnp.clip(share, 0.0, 1.0)[None]
    return distance, _unit(normal), solids.cone_tone[i]


def _ellipsoids(origin, direction, solids: Solids):
    to_sphere = solids.ellipsoid_from_world
    start = jnp.sum(to_sphere * (origin[None] - solids.ellipsoid_centre_m)[:, None], axis=-1)  # (E, 3)

    def hit(ellipsoid):
        to_sphere, start = ellipsoid
        d = [_dot(row, direction) for row in to_sphere]
        a, b = sum(x**2 for x in d), sum(x * start[axis] for axis, x in enumerate(d))
        h = b**2 - a * (jnp.sum(start**2) - 1.0)
        return jnp.where(h > 0, (-b - _root(h)) / a, FAR_M)

    distance, i = _nearest(hit, (to_sphere, start), len(start))
    # On the sphere the normal is the point itself; a gradient goes back through the transposed map.
    m = to_sphere.reshape(-1, 9).T[:, i]
    on_sphere = [start[i, k] + distance * _dot(m[3 * k : 3 * k + 3], direction) for k in range(3)]
    normal = jnp.stack([sum(m[3 * k + axis] * on_sphere[k] for k in range(3)) for axis in range(3)])
    return distance, _unit(normal), solids.ellipsoid_tone[i]


def _boxes(origin, direction, scene: Scene):
    R_room_world = _R_room_world(scene)
    o, d = R_room_world @ origin, R_room_world @ direction
    inverse = _inverse(d)

    def hit(box):
        low, high = ([(corner[k] - o[k]) * inverse[k] for k in range(3)] for corner in box)
        enter = functools.reduce(jnp.maximum, map(jnp.minimum, low, high))
        leave = functools.reduce(jnp.minimum, map(jnp.maximum, low, high))
        return jnp.where(enter < leave, enter, FAR_M)

    distance, i = _nearest(hit, (scene.box_low_m, scene.box_high_m), len(scene.box_tone))
    point = o[:, None] + d * distance[None]
    centre, half = 0.5 * (scene.box_low_m + scene.box_high_m).T, 0.5 * (scene.box_high_m - scene.box_low_m).T
    normal = _face((point - centre[:, i]) / half[:, i])
    return distance, R_room_world.T @ normal, scene.box_tone[i]


def _walls(origin, direction, scene: Scene):
    """Walls, ceiling and floor: a box seen from inside."""
    R_room_world = _R_room_world(scene)
    o, d = R_room_world @ origin, R_room_world @ direction
    low, high = scene.room_low_m - o, scene.room_high_m - o
    inverse = _inverse(d)
    distance = jnp.min(jnp.maximum(low[:, None] * inverse, high[:, None] * inverse), axis=0)
    point = d * distance[None]
    normal = -_face((point - 0.5 * (low + high)[:, None]) / (0.5 * (high - low))[:, None])
    skirting = jnp.where(point[1] + o[1] < 0.08, 0.6, 1.0)
    return distance, R_room_world.T @ normal, scene.wall_tone * skirting


def _dot(vector: jax.Array, rays: jax.Array) -> jax.Array:
    return vector[0] * rays[0] + vector[1] * rays[1] + vector[2] * rays[2]


def _root(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(x, 0.0))


def _R_room_world(scene: Scene) -> jax.Array:
    c, s, zero, one = jnp.cos(scene.room_yaw_rad), jnp.sin(scene.room_yaw_rad), jnp.float32(0.0), jnp.float32(1.0)
    return jnp.stack([c, zero, -s, zero, one, zero, s, zero, c]).reshape(3, 3)


def _inverse(x: jax.Array) -> jax.Array:
    return 1.0 / jnp.where(jnp.abs(x) > 1e-6, x, 1e-6)


def _face(cube: jax.Array) -> jax.Array:
    """Outward normals (3, R) of points on the surface of the cube [-1, 1]^3."""
    size = jnp.abs(cube)
    # The margin is for sizes that the compiler computes twice, rounded differently.
    return jnp.sign(cube) * (size >= (1.0 - 1e-5) * jnp.max(size, axis=0, keepdims=True))


def _floor_texture(point, scene: Scene):
    """Tiles or planks of uneven tone with dark joints, about 1."""
    x, z = point[0] / scene.floor_tile_m[0], point[2] / scene.floor_tile_m[1]
    column, row = jnp.floor(x), jnp.floor(z)
    uneven = jnp.sin(column * 12.9898 + row * 78.233) * 43.758
    uneven = uneven - jnp.floor(uneven)
    joint = ((x - column) * scene.floor_tile_m[0] < 0.012) | ((z - row) * scene.floor_tile_m[1] < 0.012)
    grain = jnp.sin(61.0 * point[0] + 7.0 * jnp.sin(3.0 * point[2])) * jnp.sin(23.0 * point[2])
    return 1.0 + scene.floor_contrast * (uneven - 0.5 + 0.15 * grain - 0.8 * joint)


def _lit(point, solids: Solids, scene: Scene):
    """Share of the directed light that reaches floor points past the body: cones thrown along the light, soft edge."""
    along = scene.light_direction / scene.light_direction[1]
    start = solids.cone_start_m - solids.cone_start_m[:, 1:2] * along[None]
    axis = solids.cone_end_m - solids.cone_end_m[:, 1:2] * along[None] - start
    radius = jnp.mean(solids.cone_radii_m, axis=-1)
    per_length2 = 1.0 / (axis[:, 0] ** 2 + axis[:, 2] ** 2 + 1e-6)

    def narrow(gap, cone):
        start, axis, radius, per_length2 = cone
        px, pz = point[0] - start[0], point[2] - start[2]
        share = jnp.clip((px * axis[0] + pz * axis[2]) * per_length2, 0.0, 1.0)
        # Distance beyond the edge, to first order: (s^2 - r^2) / 2r needs no root.
        s2 = (px - share * axis[0]) ** 2 + (pz - share * axis[2]) ** 2
        return jnp.minimum(gap, (s2 - radius**2) * (0.5 / radius)), None

    gap, _ = jax.lax.scan(narrow, jnp.full_like(point[0], FAR_M), (start, axis, radius, per_length2))
    return jnp.clip(0.5 + gap / _PENUMBRA_M, 0.15, 1.0)


def _unit(v: jax.Array) -> jax.Array:
    return v * jax.lax.rsqrt(jnp.maximum(jnp.sum(v**2, axis=0, keepdims=True), 1e-12))
