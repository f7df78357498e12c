"""Augmentation: the flip mirrors everything, and the random parts are per clip, in range and reproducible."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from epfv2_jax import structs
from epfv2_jax.data import rig
from epfv2_jax.geometry import cameras, transforms
from epfv2_jax.geometry import layout as layouts
from epfv2_jax.geometry.skeleton import EGOBODY3M, Skeleton
from epfv2_jax.testing import fakes
from epfv2_jax.training import augment as augment_lib
from epfv2_jax.training.augment import AugmentConfig

B, T, V, H, W = 8, 3, 4, 12, 16
OFF = dict(brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0, blur_px=0.0, flip=0.0, view_dropout=0.0, erase=0.0)
KEY = jax.random.key(7)


def augment(key, batch, config):
    return augment_lib.augment(key, batch, config, EGOBODY3M, layouts.EGOBODY3M)


@jax.jit
def flip_left_right(batch):
    return augment_lib.flip_left_right(batch, EGOBODY3M, layouts.EGOBODY3M)


@jax.jit
def to_float(batch):
    return augment_lib.to_float(batch)


run = jax.jit(augment, static_argnums=2)


def make_batch() -> structs.Batch:
    rng = np.random.default_rng(0)
    frame_valid = np.arange(T) < rng.integers(1, T + 1, (B, 1))
    view_valid = (rng.random((B, T, V)) > 0.2) & frame_valid[..., None]
    images = rng.integers(0, 256, (B, T, V, H, W), dtype=np.uint8) * view_valid[..., None, None]
    T_world_headset = np.tile(np.eye(4, dtype=np.float32), (B, T, 1, 1))
    q = np.linalg.qr(rng.normal(size=(B, T, 3, 3)))[0]
    T_world_headset[..., :3, :3] = q * np.linalg.det(q)[..., None, None]
    T_world_headset[..., :3, 3] = rng.normal(size=(B, T, 3))
    one = rig.upright(rig.default_rig(), layouts.EGOBODY3M, (H, W))
    frames = structs.Frames(
        images=images.astype(np.uint8),
        rig=jax.tree.map(lambda leaf: np.tile(leaf, (B,) + (1,) * leaf.ndim), one),
        T_world_headset=T_world_headset,
        view_valid=view_valid,
        frame_valid=frame_valid,
        frame_gap=np.ones((B, T), np.int32),
    )
    targets = structs.Targets(
        joints_headset_m=rng.normal([0.0, -0.5, 0.5], 0.6, (B, T, EGOBODY3M.num_joints, 3)),
        joint_valid=(rng.random((B, T, EGOBODY3M.num_joints)) > 0.1) & frame_valid[..., None],
    )
    batch = structs.Batch(
        frames=frames,
        targets=targets,
        clip_id=np.array([5, 3, 900, 12, 0, 7, 44, -1], np.int32),
        time_s=np.tile(np.arange(T, dtype=np.float32) / 30, (B, 1)),
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32 if leaf.dtype == np.float64 else None), batch)


@pytest.fixture(scope="module")
def batch() -> structs.Batch:
    return make_batch()


def assert_close(a, b, atol=0.0):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=atol), a, b)


def test_identity_configuration_gives_float_images(batch):
    out = run(KEY, batch, AugmentConfig(**OFF))
    assert out.frames.images.dtype == jnp.float32
    np.testing.assert_allclose(out.frames.images, np.asarray(batch.frames.images) / 255.0, atol=1e-7)
    assert_close(out.replace(frames=out.frames.replace(images=batch.frames.images)), batch)
    assert_close(to_float(out), out)


def test_flip_twice_is_identity(batch):
    assert_close(flip_left_right(flip_left_right(batch)), batch, atol=1e-6)


@jax.jit
def pixels(batch):
    points = transforms.apply(batch.frames.rig.T_cam_headset[:, None], batch.targets.joints_headset_m[:, :, None])
    lens = jax.tree.map(lambda leaf: leaf[:, None], batch.frames.rig.cameras)
    return cameras.project(lens, points)


def test_flipped_joints_fall_on_mirrored_pixels(batch):
    uv_px, valid = map(np.asarray, pixels(batch))
    mirrored_px, mirrored_valid = map(np.asarray, pixels(flip_left_right(batch)))
    order, mirror = list(layouts.EGOBODY3M.mirror), list(EGOBODY3M.mirror)
    uv_px, valid = uv_px[:, :, order][:, :, :, mirror], valid[:, :, order][:, :, :, mirror]
    assert valid.mean() > 0.3
    np.testing.assert_array_equal(mirrored_valid, valid)
    expected = np.stack([W - 1 - uv_px[..., 0], uv_px[..., 1]], axis=-1)
    np.testing.assert_allclose(mirrored_px[valid], expected[valid], atol=2e-4)


def test_flipped_images_are_mirrored_with_their_masks(batch):
    out = flip_left_right(batch)
    order = list(layouts.EGOBODY3M.mirror)
    np.testing.assert_array_equal(out.frames.images, batch.frames.images[:, :, order][..., ::-1])
    np.testing.assert_array_equal(out.frames.view_valid, batch.frames.view_valid[:, :, order])
    np.testing.assert_array_equal(out.targets.joint_valid, batch.targets.joint_valid[..., list(EGOBODY3M.mirror)])


def test_flip_mirrors_the_world(batch):
    out = flip_left_right(batch)
    apply = jax.jit(transforms.apply)
    world = apply(batch.frames.T_world_headset, batch.targets.joints_headset_m)
    flipped = apply(out.frames.T_world_headset, out.targets.joints_headset_m)
    expected = np.asarray(world)[..., list(EGOBODY3M.mirror), :] * [-1.0, 1.0, 1.0]
    np.testing.assert_allclose(flipped, expected, atol=1e-6)
    transforms.check_rigid(np.asarray(out.frames.T_world_headset))
    transforms.check_rigid(np.asarray(out.frames.rig.T_cam_headset))


def test_flip_mirrors_the_teachers_covariance(batch):
    rng = np.random.default_rng(1)
    lower = np.tril(rng.normal(size=(*batch.targets.joint_valid.shape, 3, 3)), -1) + 2 * np.eye(3)
    lower = lower.astype(np.float32)
    mixed = batch.replace(targets=batch.targets.replace(cholesky_m=lower, pseudo=np.ones(B, bool)))
    out = np.asarray(flip_left_right(mixed).targets.cholesky_m)
    assert_close(np.triu(out, 1), np.zeros_like(out))
    M = np.diag([-1.0, 1.0, 1.0])
    before = lower[:, :, list(EGOBODY3M.mirror)]
    covariance = M @ before @ before.swapaxes(-1, -2) @ M
    np.testing.assert_allclose(out @ out.swapaxes(-1, -2), covariance, atol=1e-5)
    assert_close(flip_left_right(flip_left_right(mixed)), mixed, atol=1e-6)


def test_erased_patches_are_rectangles_in_the_stated_share_of_views(batch):
    many = jax.tree.map(lambda leaf: np.concatenate([leaf] * 16), batch).replace(clip_id=np.arange(16 * B))
    many = many.replace(frames=many.frames.replace(view_valid=np.ones_like(many.frames.view_valid)))
    out = run(KEY, many, AugmentConfig(**{**OFF, "erase": 0.4}))
    images = np.asarray(out.frames.images)
    changed = images != np.asarray(to_float(many).frames.images)
    touched = changed.any(axis=(1, 3, 4))
    assert 0.3 < touched.mean() < 0.5
    for clip, view in np.argwhere(touched)[:20]:
        patches = changed[clip, :, view]
        rows, columns = patches.any(axis=(0, 2)), patches.any(axis=(0, 1))
        assert not patches[:, ~rows].any() and not patches[:, :, ~columns].any()
        assert patches[:, rows][:, :, columns].mean() > 0.95  # noise may hit the old value
        assert rows.sum() * columns.sum() <= 0.35 * H * W  # 0.2, and a row and a column of rounding
    assert images.min() >= 0 and images.max() <= 1


def test_clips_are_flipped_whole_and_with_the_stated_probability(batch):
    out = jax.device_get(run(KEY, batch, AugmentConfig(**{**OFF, "flip": 0.5})))
    plain, flipped = jax.device_get((to_float(batch), to_float(flip_left_right(batch))))
    choices = []
    for b in range(B):
        pick = functools.partial(jax.tree.map, lambda leaf, b=b: leaf[b])
        got = pick(out)
        same = [np.array_equal(got.frames.images, pick(other).frames.images) for other in (plain, flipped)]
        assert sum(same) == 1
        choices.append(same[1])
        assert_close(got, pick(flipped if same[1] else plain))
    assert 0 < sum(choices) < B


def test_mirror_pairs_hold_each_clip_and_its_mirror_image(batch):
    pairs = jax.device_get(run(KEY, batch, AugmentConfig(**{**OFF, "mirror_pairs": True})))
    plain = jax.device_get(to_float(batch))
    assert_close(jax.tree.map(lambda leaf: leaf[::2], pairs), plain)
    assert_close(jax.tree.map(lambda leaf: leaf[1::2], pairs), flip_left_right(plain), atol=1e-6)
    lit = np.asarray(run(KEY, batch, AugmentConfig(mirror_pairs=True)).frames.images)
    assert np.isfinite(lit).all()


def test_a_clip_and_its_mirror_image_get_light_of_their_own(batch):
    frames = batch.frames.replace(
        images=np.full_like(batch.frames.images, 128), view_valid=np.ones_like(batch.frames.view_valid)
    )
    config = AugmentConfig(**{**OFF, "mirror_pairs": True, "gamma": 0.3})
    images = np.asarray(run(KEY, batch.replace(frames=frames), config).frames.images)[:, 0, :, 0, 0]
    one, other = images[::2].ravel(), images[1::2].ravel()
    assert np.ptp(one) > 0.05 and np.ptp(other) > 0.05
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.6


def test_dropped_views_are_black_and_marked(batch):
    out = run(KEY, batch, AugmentConfig(**{**OFF, "view_dropout": 0.4}))
    before, after = np.asarray(batch.frames.view_valid), np.asarray(out.frames.view_valid)
    assert not (after & ~before).any()
    dropped = before & ~after
    assert dropped.any() and after.any()
    assert not np.asarray(out.frames.images)[~after].any()
    kept = np.asarray(to_float(batch).frames.images)[after]
    np.testing.assert_array_equal(np.asarray(out.frames.images)[after], kept)
    for b in range(B):  # for a whole clip, never for some of its frames
        for v in range(V):
            assert not (dropped[b, :, v].any() and after[b, :, v].any())


def test_all_views_can_be_dropped(batch):
    out = run(KEY, batch, AugmentConfig(view_dropout=1.0))
    assert not np.asarray(out.frames.view_valid).any() and not np.asarray(out.frames.images).any()


def test_masks_and_padding_are_left_alone(batch):
    out = run(KEY, batch, AugmentConfig(flip=0.0, view_dropout=0.0))
    for name in ("frame_valid", "frame_gap", "view_valid", "T_world_headset", "rig"):
        assert_close(getattr(out.frames, name), getattr(batch.frames, name))
    assert_close(out.targets, batch.targets)
    images = np.asarray(out.frames.images)
    assert not images[~np.asarray(batch.frames.view_valid)].any()
    assert images.min() >= 0.0 and images.max() <= 1.0 and np.isfinite(images).all()
    assert np.abs(images - np.asarray(to_float(batch).frames.images)).max() > 0.05


def test_same_key_same_batch_other_key_other_batch(batch):
    config = AugmentConfig()
    first = run(KEY, batch, config)
    assert_close(run(KEY, batch, config), first)
    assert not np.array_equal(run(jax.random.key(8), batch, config).frames.images, first.frames.images)


def test_a_clip_looks_the_same_wherever_it_is(batch):
    config = AugmentConfig()
    whole = run(KEY, batch, config)
    order = np.array([6, 2, 5, 0, 1, 7, 4, 3])
    pick = functools.partial(jax.tree.map, lambda leaf: leaf[order])
    assert_close(run(KEY, pick(batch), config), pick(whole), atol=1e-6)


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(mirror_pairs=True)], ids=["flips", "mirror pairs"])
def test_data_parallel_devices_see_what_one_device_sees(batch, config):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(lambda b: augment(KEY, b, config), in_shardings=(split,), out_shardings=split)(batch)
    assert len(sharded.frames.images.sharding.device_set) == jax.device_count() > 1
    assert_close(sharded, run(KEY, batch, config), atol=1e-6)


def grey(value: int, clips: int) -> structs.Batch:
    """One-frame clips of uniform images in which nothing is masked."""
    batch = jax.tree.map(lambda leaf: np.repeat(leaf[:1, :1] if leaf.ndim > 1 else leaf[:1], clips, 0), make_batch())
    frames = batch.frames.replace(
        images=np.full((clips, 1, V, H, W), value, np.uint8), view_valid=np.ones((clips, 1, V), bool)
    )
    return batch.replace(frames=frames, clip_id=np.arange(clips, dtype=np.int32))


def test_brightness_and_gamma_stay_in_range_and_fill_it():
    level = 128 / 255
    images = run(KEY, grey(128, 256), AugmentConfig(**{**OFF, "brightness": 0.2})).frames.images
    shifts = np.asarray(images)[:, 0, :, 0, 0] - level
    assert np.abs(shifts).max() <= 0.2 + 1e-6
    assert shifts.min() < -0.19 and shifts.max() > 0.19 and abs(shifts.mean()) < 0.02
    assert len(np.unique(shifts.round(6))) > 1000  # every clip and view has its own

    images = run(KEY, grey(128, 256), AugmentConfig(**{**OFF, "gamma": 0.5})).frames.images
    exponents = np.log(np.asarray(images)[:, 0, :, 0, 0]) / np.log(level)
    assert exponents.min() >= np.exp(-0.5) - 1e-4 and exponents.max() <= np.exp(0.5) + 1e-4
    assert exponents.min() < 0.63 and exponents.max() > 1.6


def test_contrast_scales_about_the_mean():
    base = grey(128, 128)
    pattern = np.where(np.arange(W) % 2 == 0, 0.4, 0.6).astype(np.float32)
    images = np.broadcast_to(pattern, base.frames.images.shape)
    base = base.replace(frames=base.frames.replace(images=images))
    out = np.asarray(run(KEY, base, AugmentConfig(**{**OFF, "contrast": 0.3})).frames.images)
    np.testing.assert_allclose(out.mean((-2, -1)), 0.5, atol=1e-5)
    factors = (out[..., 0, 1] - out[..., 0, 0]) / 0.2
    assert factors.min() >= 0.7 - 1e-4 and factors.max() <= 1.3 + 1e-4 and factors.std() > 0.15


def test_noise_is_gaussian_of_the_stated_strength():
    out = np.asarray(run(KEY, grey(128, 256), AugmentConfig(**{**OFF, "noise": 0.05})).frames.images) - 128 / 255
    sigma = out.reshape(256, -1).std(-1)
    assert sigma.max() <= 0.05 * 1.15 and sigma.max() > 0.045 and sigma.min() < 0.005
    standard = (out.reshape(256, -1) / sigma[:, None])[sigma > 0.01]
    assert abs(standard.mean()) < 0.01 and abs((standard**4).mean() - 3.0) < 0.1
    frames = out[0, 0]
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.3  # views differ


def test_blur_keeps_uniform_images_and_smooths_others(batch):
    config = AugmentConfig(**{**OFF, "blur_px": 1.0})
    np.testing.assert_allclose(run(KEY, grey(128, 4), config).frames.images, 128 / 255, atol=1e-6)
    spot = np.zeros((B, T, V, 13, 13), np.float32)
    spot[..., 6, 6] = 1.0
    base = batch.replace(frames=batch.frames.replace(images=spot, view_valid=np.ones((B, T, V), bool)))
    out = np.asarray(run(KEY, base, config).frames.images)[:, 0, 0]
    np.testing.assert_allclose(out.sum((-2, -1)), 1.0, atol=1e-5)
    variance = (out * (np.arange(13) - 6.0) ** 2).sum((-2, -1))  # of the mixture: between none and the full blur's
    assert (variance > 0).all() and (variance < 1.0).all() and variance.max() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": 1.5}, r"flip: must be in \[0, 1\], got 1.5"),
        ({"noise": -0.1}, "noise: must be at least 0"),
        ({"contrast": 2.0}, "contrast"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**changes)


def test_flip_refuses_a_rig_without_mirror_partners(batch):
    lone = dataclasses.replace(layouts.EGOBODY3M, name="lone", mirror=None)
    with pytest.raises(
        ValueError,
        match=r"augment\.flip: .*'lone' \(left_side, .*\).*set augment\.flip=0 and augment\.mirror_pairs=False",
    ):
        augment_lib.flip_left_right(batch, EGOBODY3M, lone)
    unchanged = jax.jit(lambda batch: augment_lib.augment(KEY, batch, AugmentConfig(**OFF), EGOBODY3M, lone))
    out = unchanged(batch)  # not flipped, not refused
    assert_close(out, to_float(batch), atol=1e-7)


def test_flip_follows_the_rig_and_the_skeleton_that_are_given(batch):
    frames = batch.frames
    narrow = batch.replace(
        frames=frames.replace(
            images=frames.images[:, :, :2],
            rig=jax.tree.map(lambda leaf: leaf[:, :2], frames.rig),
            view_valid=frames.view_valid[:, :, :2],
        )
    )
    still = dataclasses.replace(EGOBODY3M, mirror=tuple(range(EGOBODY3M.num_joints)))
    few = Skeleton(
        name="few",
        joint_names=("a", "b"),
        parents=(-1, 0),
        mirror=(0, 1),
        root_between=(0,),
        groups=(),
        rest_offsets_m=((0.0, 0.1, 0.0),) * 2,
        rest_root_headset_m=(0.0, 0.0, 0.0),
    )
    out = jax.jit(lambda batch: augment_lib.flip_left_right(batch, still, fakes.TWO_VIEWS))(narrow)
    np.testing.assert_array_equal(out.frames.images, narrow.frames.images[:, :, ::-1, :, ::-1])
    np.testing.assert_array_equal(out.frames.view_valid, narrow.frames.view_valid[:, :, ::-1])
    np.testing.assert_array_equal(out.targets.joint_valid, batch.targets.joint_valid)
    joints = batch.targets.joints_headset_m
    np.testing.assert_array_equal(out.targets.joints_headset_m, joints * np.float32([-1, 1, 1]))
    for other in ((EGOBODY3M, layouts.EGOBODY3M), (few, fakes.TWO_VIEWS)):
        with pytest.raises(AssertionError):
            augment_lib.flip_left_right(narrow, *other)
