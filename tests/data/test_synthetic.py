import dataclasses
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epfv2_jax.core import tasks
from epfv2_jax.data import images
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.data.synthetic import body, motion, renderer, writer
from epfv2_jax.geometry import cameras, kinematics, skeleton

JOINT = {name: i for i, name in enumerate(skeleton.JOINT_NAMES)}
CONFIG = writer.SyntheticConfig(
    seed=3, train_sequences=2, validation_sequences=1, test_sequences=0, frames=14, image_width=40
)


def offsets_of(seed: int) -> np.ndarray:
    return body.sample_person(np.random.default_rng(seed)).offsets_m


@pytest.fixture(scope="module")
def motions() -> list[motion.MotionClip]:
    return [motion.sample_motion(np.random.default_rng([7, i]), offsets_of(i), 90) for i in range(12)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[pathlib.Path, dict[str, float]]:
    directory = tmp_path_factory.mktemp("synthetic")
    return directory, writer.write_dataset(CONFIG, directory, progress=False)


# Motion and body.


def test_world_pose_is_forward_kinematics(motions):
    clip = motions[0]
    joints = kinematics.forward_kinematics(
        clip.root_rotation,
        clip.root_position_m,
        clip.joint_rotations,
        jnp.broadcast_to(clip.offsets_m, (clip.num_frames, skeleton.NUM_JOINTS, 3)),
    )
    np.testing.assert_allclose(motion.world_pose(clip)[1], joints, atol=2e-6)


def test_rotations_are_rotations(motions):
    for clip in motions:
        rotations = clip.joint_rotations
        gram = rotations @ np.swapaxes(rotations, -1, -2)
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=2e-6)
        np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-5)


def test_bone_lengths_are_constant_and_those_of_the_person(motions):
    for i, clip in enumerate(motions):
        joints = motion.world_pose(clip)[1]
        for joint, parent in enumerate(skeleton.PARENTS):
            if parent >= 0:
                lengths = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=-1)
                np.testing.assert_allclose(lengths, np.linalg.norm(offsets_of(i)[joint]), atol=1e-6)


def test_people_are_symmetric_and_differ():
    lengths = np.stack([np.linalg.norm(offsets_of(i), axis=-1) for i in range(20)])
    np.testing.assert_allclose(lengths, lengths[:, list(skeleton.MIRROR)], atol=1e-12)
    bones = lengths.mean(axis=0) > 0
    assert (lengths[:, bones].std(axis=0) > 0.03 * lengths[:, bones].mean(axis=0)).all()


def test_lowest_foot_is_on_the_floor_in_every_frame(motions):
    for clip in motions:
        np.testing.assert_allclose(motion.sole_heights(clip), 0.0, atol=1e-5)


def test_standing_foot_of_a_walker_does_not_slide(monkeypatch):
    """While the pelvis travels straight and the other foot is in the air, the standing ankle stays where it is."""
    monkeypatch.setattr(motion, "ACTIVITIES", {"walk": motion.ACTIVITIES["walk"]})
    slides, travels = [], []
    for i in range(8):
        clip = motion.sample_motion(np.random.default_rng(i), offsets_of(i), 90)
        joints = motion.world_pose(clip)[1]
        ankles = joints[:, [JOINT["b_l_foot_twist"], JOINT["b_r_foot_twist"]]]
        heading = np.unwrap(np.arctan2(clip.root_rotation[:, 0, 2], clip.root_rotation[:, 2, 2]))
        travel = np.linalg.norm(np.diff(clip.root_position_m[:, ::2], axis=0), axis=-1)
        walks = (np.abs(np.diff(heading)) < 0.015) & (travel > 0.012)
        for stands, other in ((0, 1), (1, 0)):
            held = (ankles[:, other, 1] - ankles[:, stands, 1] > 0.04)[1:] & walks
            slides.append(np.linalg.norm(np.diff(ankles[:, stands, ::2], axis=0), axis=-1)[held])
            travels.append(travel[held])
    slides, travels = np.concatenate(slides), np.concatenate(travels)
    assert len(slides) > 50
    assert np.quantile(slides / travels, 0.8) < 0.15


def test_motion_is_smooth_and_various(motions):
    joints = np.stack([motion.world_pose(clip)[1] for clip in motions])
    speed = np.linalg.norm(np.diff(joints, axis=1), axis=-1) * motion.FPS
    assert speed.max() < 9.0  # metres a second
    T_head = joints[:, :, JOINT["b_head"]]
    for name in ("b_l_wrist", "b_r_wrist", "b_l_leg", "b_r_leg"):
        assert (joints[:, :, JOINT[name]] - T_head).reshape(-1, 3).std(axis=0).min() > 0.08, name


def test_motion_is_deterministic_and_seeded():
    first, again, other = (motion.sample_motion(np.random.default_rng([1, s]), offsets_of(0), 40) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.joint_rotations, again.joint_rotations)
    np.testing.assert_array_equal(first.root_position_m, again.root_position_m)
    assert np.abs(first.joint_rotations - other.joint_rotations).max() > 0.1


@pytest.mark.parametrize("name", sorted(motion.ACTIVITIES))
def test_every_activity_gives_known_curves_of_the_right_shape(name):
    time_s = np.arange(50) / motion.FPS
    posture = motion._neutral(np.random.default_rng(0), time_s)
    changed = motion.ACTIVITIES[name](np.random.default_rng(1), time_s, posture)
    assert set(changed) <= set(posture)
    for key, curve in changed.items():
        assert curve.shape == posture[key].shape, key
        assert np.isfinite(curve).all(), key


# Renderer.


@pytest.fixture(scope="module")
def rig():
    return renderer.scaled_rig(160)


@pytest.fixture(scope="module")
def rays(rig):
    return renderer.make_rays(rig)


def bright_ball_scene() -> renderer.Scene:
    """A dark, noiseless, huge room around the world's origin."""
    scene = renderer.sample_scene(np.random.default_rng(0), np.zeros((1, 2)))
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
    """Solids of one frame; a shape is (start, end, radius 0, radius 1, tone)."""
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
    found, normal, tone = renderer._cones(jnp.zeros(3), jnp.asarray(direction.T, jnp.float32), solids)

    share = np.linspace(0, 1, 200)[:, None]  # a round cone is the union of the balls along its axis
    balls = [
        (a + share * (b - a), (r[0] + share[:, 0] * (r[1] - r[0]))) for a, b, r in zip(start, end, radii, strict=True)
    ]
    nearest, which = np.full(400, renderer.FAR_M), np.zeros(400)
    for i, (centres, radius) in enumerate(balls):
        b = direction @ centres.T
        h = b**2 - (centres**2).sum(-1) + radius**2
        hit = np.where(h > 0, b - np.sqrt(np.maximum(h, 0)), renderer.FAR_M).min(axis=1)
        which, nearest = np.where(hit < nearest, i, which), np.minimum(hit, nearest)
    clear = (nearest < renderer.FAR_M) & (np.asarray(found) < renderer.FAR_M)
    assert clear.sum() > 150
    assert (nearest < renderer.FAR_M).sum() == pytest.approx(clear.sum(), abs=3)
    np.testing.assert_allclose(np.asarray(found)[clear], nearest[clear], atol=5e-3)
    assert (np.asarray(tone)[clear] == which[clear]).mean() > 0.98
    assert (np.sum(np.asarray(normal).T[clear] * direction[clear], axis=-1) < 0.05).all()


def test_pixels_beyond_the_lens_are_black(rig, rays):
    scene = dataclasses.replace(
        renderer.sample_scene(np.random.default_rng(1), np.zeros((1, 2))), noise=np.float32(0.1)
    )
    wide = rig.replace(cameras=dataclasses.replace(rig.cameras, max_angle_rad=np.full(4, 0.8, np.float32)))
    narrow = renderer.make_rays(wide)
    solids = cones(((0, 1, 1), (0, 1, 1), 0.1, 0.1, 1.0))
    grey, _ = renderer.render(narrow, pose_at(1.6), solids, scene, jax.random.key(0))
    assert (np.asarray(grey)[0][narrow.vignette == 0] == 0).all()
    assert (np.asarray(grey)[0][narrow.vignette > 0] > 0).mean() > 0.9
    assert 0.05 < (narrow.vignette == 0).mean() < 0.9


def test_image_width_must_give_whole_heights():
    with pytest.raises(ValueError, match=r"image_width is 50; it must be a positive multiple of 20"):
        renderer.scaled_rig(50)


# Data sets.


def test_files_are_the_same_byte_for_byte(dataset, tmp_path):
    directory, _ = dataset
    writer.write_dataset(CONFIG, tmp_path, progress=False)
    paths = sorted(path.relative_to(directory) for path in directory.rglob("*.zip"))
    assert len(paths) == 6
    for path in paths:
        assert (directory / path).read_bytes() == (tmp_path / path).read_bytes(), path
    first, second = (directory / "train" / f"synthetic_train_0000{i}.images.zip" for i in range(2))
    assert first.read_bytes() != second.read_bytes()


def test_a_sequence_does_not_depend_on_how_many_there_are(dataset):
    more = dataclasses.replace(CONFIG, train_sequences=50, test_sequences=4)
    first, same = (writer.sample_sequence(config, "train", 1) for config in (CONFIG, more))
    np.testing.assert_array_equal(first.joints_world_m, same.joints_world_m)


def test_finished_sequences_are_kept_and_missing_ones_made(dataset, tmp_path):
    directory, _ = dataset
    writer.write_dataset(CONFIG, tmp_path, progress=False)
    missing = tmp_path / "train" / "synthetic_train_00001.metadata.zip"
    missing.unlink()
    kept = tmp_path / "train" / "synthetic_train_00000.metadata.zip"
    before = kept.stat().st_mtime_ns
    figures = writer.write_dataset(CONFIG, tmp_path, progress=False)
    assert (figures["sequences_made"], figures["sequences_found"]) == (1, 2)
    assert missing.read_bytes() == (directory / "train" / missing.name).read_bytes()
    assert kept.stat().st_mtime_ns == before


def test_shares_make_the_same_files(dataset, tmp_path):
    directory, _ = dataset
    figures = [
        writer.write_dataset(CONFIG, tmp_path, progress=False, engine=tasks.Engine(index=index, count=2))
        for index in (0, 1)
    ]
    counts = [(f["sequences_made"], f["sequences_found"], f["sequences_missing"]) for f in figures]
    assert counts == [(2, 0, 1), (1, 0, 0)]
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path: (directory / path).read_bytes() for path in files} and len(files) == 7


def test_other_settings_are_refused_in_the_same_directory(dataset):
    directory, _ = dataset
    with pytest.raises(ValueError, match=r"made with frames = 14, asked for 7; give another directory"):
        writer.write_dataset(dataclasses.replace(CONFIG, frames=7), directory, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"test_sequences": -2}, "test_sequences is -2"),
        ({"frames": 0}, "frames is 0"),
        ({"image_width": 30}, "image_width is 30"),
    ],
)
def test_impossible_settings_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        writer.SyntheticConfig(**change)


def test_the_real_reader_reads_it_and_its_cameras_calibrate(dataset):
    directory, _ = dataset
    (first, *_) = egobody3m.find_sequences(directory)
    expected = writer.sample_sequence(CONFIG, "train", 0)
    rig = renderer.scaled_rig(CONFIG.image_width)
    with egobody3m.SequenceReader(first) as reader:
        assert reader.frames == tuple(range(CONFIG.frames))
        assert reader.view_sizes_px() == [(40, 30), (40, 32), (40, 32), (40, 30)]
        frames = [reader.metadata(frame) for frame in reader.frames]
        image = images.decode_grey(reader.jpeg(2, 1))
    grey, _ = writer.render_sequence(expected, rig, renderer.make_rays(rig))
    assert np.abs(image.astype(int) - grey[1][2].astype(int)).mean() < 6  # JPEG of a noisy image
    joints = np.stack([f.joints_world_m for f in frames])
    np.testing.assert_allclose(joints, expected.joints_world_m, atol=1e-7)
    T_headset_world = np.linalg.inv(np.stack([f.T_world_headset for f in frames]))
    points = joints @ np.swapaxes(T_headset_world[:, :3, :3], -1, -2) + T_headset_world[:, None, :3, 3]
    uvz = np.stack([f.uvz for f in frames])
    for fit in calibration.calibrate_sequence(points, uvz, np.asarray(rig.cameras.size_px), rig):
        assert fit.rms_px < 1e-3, fit


def test_the_headset_sits_on_the_head(dataset):
    sequence = writer.sample_sequence(CONFIG, "train", 0)
    head = (
        np.linalg.inv(sequence.T_world_headset)
        @ np.append(sequence.joints_world_m[:, 0], np.ones((CONFIG.frames, 1)), axis=1)[..., None]
    )
    expected = -np.asarray(writer.HEADSET_FROM_HEAD_M)
    np.testing.assert_allclose(head[:, :3, 0], np.tile(expected, (CONFIG.frames, 1)), atol=1e-5)


def test_zips_hold_no_time_of_day(dataset):
    directory, _ = dataset
    with zipfile.ZipFile(directory / "train" / "synthetic_train_00000.images.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_joints_fall_inside_the_images_as_in_the_real_rig(tmp_path):
    """The calm sample clip has 20 of 26 in a side image and 7 to 8 in a front image; here people also squat and sit."""
    config = writer.SyntheticConfig(
        train_sequences=24, validation_sequences=0, test_sequences=0, frames=8, image_width=40
    )
    figures = writer.write_dataset(config, tmp_path, progress=False)
    assert 16 < figures["joints_in_side_image"] < 22
    assert 6 < figures["joints_in_front_image"] < 13
    assert 0.5 < figures["leg_joints_hidden"] < 0.95
    assert figures["leg_joints_unseen"] < 0.95


def test_real_clips_are_worn_and_cut_into_parts(shared_data, tmp_path):
    files = tuple(str(shared_data / "mocap_cmu" / f"{name}.amc") for name in ("02_01", "02_02"))
    config = dataclasses.replace(
        CONFIG, train_sequences=0, validation_sequences=0, frames=60, train_motion=files, image_width=20
    )
    parts = writer._parts(config, "train")
    assert [pathlib.Path(part.path).stem for part in parts[:2]] == ["02_01", "02_02"]
    for path in files:
        covered = [frame for part in parts if part.path == path for frame in range(part.start, part.stop)]
        total = writer._load_clip(path).num_frames
        assert len(covered) == len(set(covered)) > total - 8
    sequence = writer.sample_sequence(config, "train", 0, parts[0])
    assert len(sequence.T_world_headset) == 60
    assert np.quantile(motion.sole_heights(writer._load_clip(files[0])), 0.1) == pytest.approx(0.0, abs=1e-5)


def test_a_lower_frame_rate_takes_every_nth_frame_of_the_motion(motions):
    part = motion.cut(motions[0], 6, 30, 4)
    assert part.fps == motions[0].fps / 4 and part.num_frames == 6
    np.testing.assert_array_equal(part.joint_rotations, motions[0].joint_rotations[[6, 10, 14, 18, 22, 26]])
    slow = dataclasses.replace(CONFIG, frame_step=4)
    steps = [
        np.linalg.norm(np.diff(writer.sample_sequence(config, "train", 0).joints_world_m, axis=0), axis=-1).mean()
        for config in (CONFIG, slow)
    ]
    assert steps[1] > 2 * steps[0]
