"""Rendering in the loop: the same batch for the same step, whoever asks, and clips that are what they say."""

import dataclasses
import functools
import itertools
import pickle

import jax
import numpy as np
import pytest

from epfv2_jax.core import sharding
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.synthetic import renderer, rigs, stream
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.geometry import cameras, transforms

CONFIG = SyntheticConfig(seed=3, frames=6, frame_step=4, clips_per_person=2)
DATA = DataConfig(source="synthetic", clip_frames=3, batch_size=4, read_threads=0)
SIZE = (16, 20)


#: Compiled once.
paint = jax.jit(stream.Painter(SIZE))


def batches(steps, data=DATA, config=CONFIG, **reading):
    """Returns the first batches as a list."""
    found = stream.unpainted_batches(config, data, SIZE, **reading)
    try:
        return list(itertools.islice(found, steps))
    finally:
        found.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def four():
    """The first four batches."""
    return batches(4)


def test_a_step_gives_the_same_batch_after_a_resumption_and_ahead(four):
    assert_equal(batches(2, start_step=2), four[2:])
    assert_equal(batches(4, dataclasses.replace(DATA, read_threads=2)), four)


def test_processes_get_parts_of_the_same_batch(four):
    shares = [batches(4, process_index=i, process_count=2) for i in range(2)]
    for whole, *parts in zip(four, *shares, strict=True):
        assert_equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole)


def test_seeds_of_the_data_and_of_the_run_give_other_clips(four):
    for other in (batches(1, seed=1), batches(1, config=dataclasses.replace(CONFIG, seed=4))):
        poses = other[0].batch.frames.T_world_headset
        assert np.abs(poses - four[0].batch.frames.T_world_headset).max(axis=(1, 2, 3)).min() > 0.01


def test_a_person_stays_for_some_steps_and_no_clip_comes_twice(four):
    rooms = np.array([[scene.room_yaw_rad[row] for scene in (b.scene for b in four)] for row in range(4)])
    # Rows change in turn: row b at the steps where step + b is a multiple of clips_per_person.
    for row, yaws in enumerate(rooms):
        changes = [bool(yaws[i] != yaws[i + 1]) for i in range(3)]
        assert changes == [(i + 1 + row) % 2 == 0 for i in range(3)]
    assert len({float(yaw) for yaw in rooms.ravel()}) == 10
    seeds = np.concatenate([b.noise_seed for b in four])
    assert len(set(seeds.tolist())) == len(np.unique(np.concatenate([b.batch.clip_id for b in four]))) == 16


def test_the_frame_before_a_clip_is_that_of_the_motion():
    """Clips of one person overlap: the frame before one is a frame of another."""
    found = batches(8, dataclasses.replace(DATA, batch_size=1), dataclasses.replace(CONFIG, clips_per_person=64))
    frames = np.concatenate([b.batch.frames.T_world_headset[0] for b in found])
    before = np.concatenate([b.batch.frames.T_world_before for b in found])
    gaps = np.abs(before[:, None] - frames[None]).max((2, 3)).min(axis=1)
    assert (gaps == 0).any()
    steps = [np.abs(b.batch.frames.T_world_headset[0, 0] - b.batch.frames.T_world_before[0]).max() for b in found]
    assert 0 < np.median(steps) < 0.5
    assert found[0].batch.time_s[0] == pytest.approx([0, 4 / 30, 8 / 30])


def test_images_show_the_joints_where_the_cameras_of_the_batch_project_them():
    """With a black room and a bright body, the bright pixels lie around the projected joints."""
    (unpainted,) = batches(1)
    batch = paint(unpainted)
    assert batch.frames.images.shape == (4, 3, 4, *SIZE) and batch.frames.images.dtype == np.uint8
    names = ("wall_tone", "floor_tone", "box_tone", "noise")
    scene = dataclasses.replace(
        unpainted.scene, **{name: np.zeros_like(getattr(unpainted.scene, name)) for name in names}
    )
    solids = dataclasses.replace(
        unpainted.solids,
        cone_tone=np.ones_like(unpainted.solids.cone_tone),
        ellipsoid_tone=np.ones_like(unpainted.solids.ellipsoid_tone),
    )
    images = np.asarray(paint(unpainted.replace(scene=scene, solids=solids)).frames.images)
    rig = jax.tree.map(lambda x: x[:, None], batch.frames.rig)
    points_cam_m = transforms.apply(rig.T_cam_headset, np.asarray(batch.targets.joints_headset_m)[:, :, None])
    uv_px, valid = cameras.project(rig.cameras, points_cam_m)
    inside = np.asarray(valid & cameras.inside_image(rig.cameras, uv_px))
    column, row = (np.clip(np.round(np.asarray(uv_px)[..., i]).astype(int), 0, SIZE[1 - i] - 1) for i in range(2))
    clip, frame, view, _ = np.indices(column.shape)
    own, others = (
        np.mean([np.roll(images, i, axis=0)[clip, frame, view, row, column][inside] > 25 for i in shifts])
        for shifts in ((0,), (1, 2, 3))
    )
    assert inside.sum() > 100
    assert own > 0.75 and others < 0.6, (own, others)


def test_other_devices_paint_all_frames_at_once_and_alike(four, monkeypatch):
    expected = np.asarray(paint(four[0]).frames.images, int)
    one_by_one = str(jax.make_jaxpr(stream.Painter(SIZE))(four[0])).count("scan[")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(renderer, "render", jax.jit(functools.partial(renderer.render.__wrapped__)))  # traced anew
    at_once = str(jax.make_jaxpr(stream.Painter(SIZE))(four[0])).count("scan[")
    assert one_by_one == at_once + 2, "on a CPU, clips and frames are mapped one after the other"
    images = jax.jit(stream.Painter(SIZE))(four[0]).frames.images
    # Another program may round a value otherwise.
    assert np.abs(np.asarray(images, int) - expected).max() <= 1


def test_devices_paint_their_own_rows():
    (unpainted,) = batches(1)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:4])
    split = sharding.BATCH_SPEC
    spread = jax.jit(jax.shard_map(paint, mesh=mesh, in_specs=(split,), out_specs=split, check_vma=False))
    images = spread(sharding.put_batch(unpainted, mesh)).frames.images
    assert len({shard.device for shard in images.addressable_shards}) == 4
    # Another number of clips is another program, which may round a value otherwise.
    difference = np.abs(np.asarray(images, int) - np.asarray(paint(unpainted).frames.images, int))
    assert difference.max() <= 1 and difference.mean() < 1e-3


def test_the_sampler_survives_a_pickle_for_worker_processes(four):
    sampler = stream._Sampler(CONFIG, 0, rigs.open_headset(None).upright(SIZE), DATA, range(4))
    assert_equal(pickle.loads(pickle.dumps(sampler))(1), four[1])


def test_clips_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"clip_frames.* 7"):
        batches(1, dataclasses.replace(DATA, clip_frames=7))
    with pytest.raises(ValueError, match="batch_size"):
        batches(1, process_index=0, process_count=3)
