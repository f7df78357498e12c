"""Rendering: what is drawn is where the cameras project it, and the nearest surface is visible."""

import dataclasses

import jax
import numpy as np
import pytest

from epfv2_jax.data.synthetic import body, renderer, rigs, surfaces
from epfv2_jax.data.synthetic import scene as scene_lib
from epfv2_jax.geometry import cameras


@pytest.fixture(scope="module")
def rig():
    return rigs.open_headset(None).scaled(160)


@pytest.fixture(scope="module")
def rays(rig):
    return renderer.make_rays(rig)


def bright_ball_scene() -> scene_lib.Scene:
    """A dark, noiseless, huge room around the world's origin."""
    scene = scene_lib.sample_scene(np.random.default_rng(0), np.zeros((1, 2)))
    dark = {"wall_tone": 0.0, "floor_tone": 0.0, "noise": 0.0, "exposure": 3.0, "ambient": 1.0}
    return dataclasses.replace(
        scene,
        room_low_m=np.float32([-40, 0, -40]),
        room_high_m=np.float32([40, 40, 40]),
        box_tone=np.zeros_like(scene.box_tone),
        box_low_m=scene.box_low_m - np.float32([0, 5, 0]),
        box_high_m=scene.box_low_m - np.float32([0, 4, 0]),
        **{name: np.float32(value) for name, value in dark.items()},
    )


def cones(*shapes) -> body.Solids:
    """Solids of one frame; a shape is (start, end, radius 0, radius 1, tone). One alone is doubled.

    So one program draws one or two.
    """
    shapes = shapes * 2 if len(shapes) == 1 else shapes
    start, end, r0, r1, tone = (np.asarray(x, np.float32)[None] for x in zip(*shapes, strict=True))
    return body.Solids(
        cone_start_m=start,
        cone_end_m=end,
        cone_radii_m=np.stack([r0, r1], axis=-1),
        cone_tone=tone,
        ellipsoid_centre_m=np.full((1, 1, 3), 35.0, np.float32),
        ellipsoid_from_world=np.eye(3, dtype=np.float32)[None, None] * 100,
        ellipsoid_tone=np.zeros((1, 1), np.float32),
    )


def pose_at(height_m: float) -> np.ndarray:
    T_world_headset = np.eye(4, dtype=np.float32)[None]
    T_world_headset[:, 1, 3] = height_m
    return T_world_headset


def draw(solids: body.Solids, rig, rays, T_world_headset=None) -> list[np.ndarray]:
    pose = pose_at(20.0) if T_world_headset is None else T_world_headset
    grey, _ = renderer.render(rays, pose, solids, bright_ball_scene(), jax.random.key(0))
    return [image[0].astype(float) for image in renderer.to_images(grey, rig)]


@pytest.mark.parametrize("view", range(4))
def test_centroid_of_a_drawn_ball_is_where_the_camera_projects_it(rig, rays, view):
    camera = jax.tree.map(lambda x: x[view], rig.cameras)
    R_headset_cam = np.asarray(rig.T_cam_headset)[view, :3, :3].T
    for across, down in ((0.0, 0.0), (0.5, 0.3), (-0.6, 0.2), (0.2, -0.7)):
        direction = np.array([across, down, 1.0]) / np.linalg.norm([across, down, 1.0])
        centre = rays.origin_headset_m[view] + R_headset_cam @ direction + [0.0, 20.0, 0.0]
        image = draw(cones((centre, centre, 0.04, 0.04, 1.0)), rig, rays)[view]
        rows, columns = np.nonzero(image > 40)
        assert len(rows) >= 4
        point_cam = np.asarray(rig.T_cam_headset)[view] @ np.append(centre - [0.0, 20.0, 0.0], 1.0)
        uv, valid = cameras.project(camera, point_cam[None, :3].astype(np.float32))
        assert valid.all()
        # A ball of a few pixels: its centroid is known to a fraction of one.
        np.testing.assert_allclose([columns.mean(), rows.mean()], np.asarray(uv)[0], atol=0.35)


def test_nearer_solids_hide_farther_ones(rig, rays):
    view = 1
    forward = np.asarray(rig.T_cam_headset)[view, 2, :3]
    eye = rays.origin_headset_m[view] + np.float32([0.0, 20.0, 0.0])
    across = np.float32([0.3, 0.0, 0.0])
    limb = (eye + 1.5 * forward - across, eye + 1.5 * forward + across, 0.05, 0.04, 1.0)
    trunk = (eye + 0.8 * forward, eye + 0.8 * forward, 0.3, 0.3, 0.15)
    bright = [(draw(cones(*shapes), rig, rays)[view] > 120).sum() for shapes in ((limb,), (limb, trunk), (trunk, limb))]
    assert bright[0] > 30
    assert bright[1] == bright[2] == 0
    ball = np.float32(np.eye(3) / 0.3)[None, None]
    for distance_m, hides in ((0.8, True), (2.5, False)):  # an ellipsoid before and behind the limb
        centre = np.float32(eye + distance_m * forward)[None, None]
        both = cones(limb).replace(ellipsoid_centre_m=centre, ellipsoid_from_world=ball)
        assert ((draw(both, rig, rays)[view] > 120).sum() == 0) == hides


def test_distances_of_cones_agree_with_marching_along_the_ray():
    rng = np.random.default_rng(0)
    start, end = rng.normal(0, 0.3, (2, 5, 3)) + np.array([0, 0, 1.5])
    radii = rng.uniform(0.05, 0.2, (5, 2))
    solids = jax.tree.map(
        lambda x: x[0],
        cones(*[(a, b, r[0], r[1], i) for i, (a, b, r) in enumerate(zip(start, end, radii, strict=True))]),
    )
    direction = rng.normal(0, 0.25, (400, 3)) + np.array([0, 0, 1])
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    found, normal, tone = jax.jit(surfaces.cones)(np.zeros(3, np.float32), direction.T.astype(np.float32), solids)

    share = np.linspace(0, 1, 200)[:, None]  # a round cone is the union of the balls along its axis
    balls = [
        (a + share * (b - a), (r[0] + share[:, 0] * (r[1] - r[0]))) for a, b, r in zip(start, end, radii, strict=True)
    ]
    nearest, which = np.full(400, surfaces.FAR_M), np.zeros(400)
    for i, (centres, radius) in enumerate(balls):
        b = direction @ centres.T
        h = b**2 - (centres**2).sum(-1) + radius**2
        hit = np.where(h > 0, b - np.sqrt(np.maximum(h, 0)), surfaces.FAR_M).min(axis=1)
        which, nearest = np.where(hit < nearest, i, which), np.minimum(hit, nearest)
    clear = (nearest < surfaces.FAR_M) & (np.asarray(found) < surfaces.FAR_M)
    assert clear.sum() > 150
    assert (nearest < surfaces.FAR_M).sum() == pytest.approx(clear.sum(), abs=3)
    np.testing.assert_allclose(np.asarray(found)[clear], nearest[clear], atol=5e-3)
    assert (np.asarray(tone)[clear] == which[clear]).mean() > 0.98
    assert (np.sum(np.asarray(normal).T[clear] * direction[clear], axis=-1) < 0.05).all()


def test_light_of_the_lamps_falls_with_the_square_of_the_distance(rig, rays):
    view = 1
    middle = np.argmax(rays.vignette[view])  # the optical axis, where a ball faces its camera
    forward = np.asarray(rig.T_cam_headset)[view, 2, :3]
    eye = rays.origin_headset_m[view] + np.float32([0.0, 20.0, 0.0])

    def light(distance_m: float, lamp: float) -> float:
        centre = eye + (distance_m + 0.3) * forward
        scene = bright_ball_scene().replace(lamp=np.float32(lamp), exposure=np.float32(0.8))
        grey, found_m = renderer.render(
            rays, pose_at(20.0), cones((centre, centre, 0.3, 0.3, 0.5)), scene, jax.random.key(0)
        )
        assert np.asarray(found_m)[0, view, middle] == pytest.approx(distance_m, rel=1e-3)
        return float(-np.log(1.0 - np.asarray(grey)[0, view, middle] / 255.0) / (0.8 * rays.vignette[view, middle]))

    added = [light(distance_m, 1.0) - light(distance_m, 0.0) for distance_m in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(added, [2.0, 0.5, 0.125], atol=0.025)  # half the light of the lamps is reflected
    # Nearer than the lamps are wide, nothing gets brighter.
    assert light(0.1, 0.1) == pytest.approx(light(0.2, 0.1), abs=0.02)


def test_pixels_beyond_the_lens_are_black(rig, rays):
    scene = dataclasses.replace(
        scene_lib.sample_scene(np.random.default_rng(1), np.zeros((1, 2))), noise=np.float32(0.1)
    )
    wide = rig.replace(cameras=dataclasses.replace(rig.cameras, max_angle_rad=np.full(4, 0.8, np.float32)))
    narrow = renderer.make_rays(wide)
    solids = cones(((0, 1, 1), (0, 1, 1), 0.1, 0.1, 1.0))
    grey, _ = renderer.render(narrow, pose_at(1.6), solids, scene, jax.random.key(0))
    assert (np.asarray(grey)[0][narrow.vignette == 0] == 0).all()
    assert (np.asarray(grey)[0][narrow.vignette > 0] > 0).mean() > 0.9
    assert 0.05 < (narrow.vignette == 0).mean() < 0.9


def test_image_width_must_give_whole_heights():
    with pytest.raises(ValueError, match=r"image_width: must be a positive multiple of 20, such as 80 or 640, got 50"):
        rigs.open_headset(None).scaled(50)
