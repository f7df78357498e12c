"""Hits of rays on round cones, ellipsoids, boxes and the walls of a room, in closed form.

Each function takes an origin (3,) and unit directions (3, R) in the world. It returns the distances (R,) of the nearest
hits, metres, `FAR_M` where there is none; the normals (3, R) toward the ray; and the grey values (R,).
"""

import functools

import jax
import jax.numpy as jnp

from epfv2_jax.data.synthetic.body import Solids
from epfv2_jax.data.synthetic.scene import Scene

#: Distance of a ray that hits nothing, metres.
FAR_M = 1e3
_NEAR_M = 0.01


def cones(origin, direction, solids: Solids):
    """Hits round cones (Quilez' closed form): the cone that touches two spheres, and the spheres themselves."""
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
        m2, m3 = dot(axis, direction), dot(to_start, direction)
        k1, k2 = d2 * m3 - m1 * m2, d2 - m2**2
        h = k1**2 - k0 * k2
        side = (-_root(h) - k1) / jnp.where(jnp.abs(k2) > 1e-9, k2, 1e-9)
        y = m1 + side * m2
        m6 = m3 - m2
        h0, h1 = m3**2 - ball0, m6**2 - ball1
        ends = jnp.minimum(jnp.where(h0 > 0, -m3 - _root(h0), FAR_M), jnp.where(h1 > 0, -m6 - _root(h1), FAR_M))
        return jnp.where((h > 0) & (y > 0) & (y < d2), side, ends)

    distance, i = _nearest(hit, (axis, to_start, d2, m1, k0, m5 - r0**2, m7 - r1**2), len(d2))
    # The hit is on the sphere whose centre lies this share along the axis.
    offset = to_start.T[:, i] + direction * distance[None]
    share = (dot(axis.T[:, i], offset) - (r0 * dr)[i]) / jnp.maximum(d2[i], 1e-9)
    normal = offset - axis.T[:, i] * jnp.clip(share, 0.0, 1.0)[None]
    return distance, _unit(normal), solids.cone_tone[i]


def ellipsoids(origin, direction, solids: Solids):
    """Hits ellipsoids, as unit spheres in their own coordinates."""
    to_sphere = solids.ellipsoid_from_world
    start = jnp.sum(to_sphere * (origin[None] - solids.ellipsoid_centre_m)[:, None], axis=-1)  # (E, 3)

    def hit(ellipsoid):
        to_sphere, start = ellipsoid
        d = [dot(row, direction) for row in to_sphere]
        a, b = sum(x**2 for x in d), sum(x * start[axis] for axis, x in enumerate(d))
        h = b**2 - a * (jnp.sum(start**2) - 1.0)
        return jnp.where(h > 0, (-b - _root(h)) / a, FAR_M)

    distance, i = _nearest(hit, (to_sphere, start), len(start))
    # On the unit sphere the normal is the point itself; the transposed map takes it back to the world.
    m = _pick(to_sphere.reshape(-1, 9).T, i)
    nearest_start = _pick(start.T, i)
    on_sphere = [nearest_start[k] + distance * dot(m[3 * k : 3 * k + 3], direction) for k in range(3)]
    normal = jnp.stack([sum(m[3 * k + axis] * on_sphere[k] for k in range(3)) for axis in range(3)])
    return distance, _unit(normal), _pick(solids.ellipsoid_tone[None], i)[0]


def boxes(origin, direction, scene: Scene):
    """Hits the furniture, boxes that are aligned with the room."""
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
    normal = _face((point - _pick(centre, i)) / _pick(half, i))
    return distance, R_room_world.T @ normal, _pick(scene.box_tone[None], i)[0]


def walls(origin, direction, scene: Scene):
    """Hits walls, ceiling and floor: the room as a box, seen from inside."""
    R_room_world = _R_room_world(scene)
    o, d = R_room_world @ origin, R_room_world @ direction
    low, high = scene.room_low_m - o, scene.room_high_m - o
    inverse = _inverse(d)
    distance = jnp.min(jnp.maximum(low[:, None] * inverse, high[:, None] * inverse), axis=0)
    point = d * distance[None]
    normal = -_face((point - 0.5 * (low + high)[:, None]) / (0.5 * (high - low))[:, None])
    skirting = jnp.where(point[1] + o[1] < 0.08, 0.6, 1.0)
    return distance, R_room_world.T @ normal, scene.wall_tone * skirting


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the dot products (R,) of vectors (3,) or (3, R). On a CPU, reducing along the first axis takes longer."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _nearest(hit, shapes, count: int):
    """Returns the distance (R,) of the nearest hit and the index of its shape.

    `hit` maps one of `shapes` (leading axis) to distances (R,). A scan is several times faster on a CPU than one large
    kernel over shapes and rays.
    """

    def step(best, indexed):
        i, shape = indexed
        distance = hit(shape)
        distance = jnp.where(distance > _NEAR_M, distance, FAR_M)
        closer = distance < best[0]
        return (jnp.where(closer, distance, best[0]), jnp.where(closer, i, best[1])), None

    empty = jnp.full(jax.eval_shape(hit, jax.tree.map(lambda x: x[0], shapes)).shape, FAR_M)
    (distance, i), _ = jax.lax.scan(step, (empty, jnp.zeros(empty.shape, jnp.int32)), (jnp.arange(count), shapes))
    return distance, i


def _pick(values: jax.Array, i: jax.Array) -> jax.Array:
    """Returns values[:, i] (k, R) of few columns (k, N). A sum over columns is faster on a CPU than a gather."""
    return sum(values[:, n, None] * (i == n)[None] for n in range(values.shape[1]))


def _root(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(x, 0.0))


def _R_room_world(scene: Scene) -> jax.Array:
    c, s, zero, one = jnp.cos(scene.room_yaw_rad), jnp.sin(scene.room_yaw_rad), jnp.float32(0.0), jnp.float32(1.0)
    return jnp.stack([c, zero, -s, zero, one, zero, s, zero, c]).reshape(3, 3)


def _inverse(x: jax.Array) -> jax.Array:
    return 1.0 / jnp.where(jnp.abs(x) > 1e-6, x, 1e-6)


def _face(cube: jax.Array) -> jax.Array:
    """Returns the outward normals (3, R) of points on the surface of the cube [-1, 1]^3."""
    size = jnp.abs(cube)
    # With a margin, because the compiler may compute a size twice and round it differently.
    return jnp.sign(cube) * (size >= (1.0 - 1e-5) * jnp.max(size, axis=0, keepdims=True))


def _unit(v: jax.Array) -> jax.Array:
    return v * jax.lax.rsqrt(jnp.maximum(dot(v, v), 1e-12))[None]
