"""The stream of clips: complete, reproducible, and independent of shards, threads and processes."""

import dataclasses
import itertools
import pickle
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epfv2_jax.data import images, pipeline, records, rig
from epfv2_jax.data.pipeline.cache import RunCache
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.testing import fakes

HW = (16, 24)
LENGTHS = (7, 4, 9, 1, 8, 5)  # frames of the records: 2 + 1 + 3 + 1 + 2 + 2 clips of four frames
NUM_CLIPS = 11
J = skeleton.EGOBODY3M.num_joints
SPEC = fakes.record_spec(HW)


def make_run(i: int, num_frames: int) -> records.FrameRun:
    rng = np.random.default_rng([3, i])
    grey = rng.integers(20, 230, (num_frames, 4))
    jpegs = [[images.encode_grey(np.full(HW, value, np.uint8)) for value in frame] for frame in grey]
    view_valid = np.ones((num_frames, 4), bool)
    jpegs[0][2], view_valid[0, 2] = b"", False
    jpegs[-1][1] = jpegs[-1][1][:-3]  # cut short
    T_world_headset = np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1))
    T_world_headset[:, :3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    T_world_headset[:, :3, 3] = rng.normal([300.0, 1.5, 0.0], 1.0, (num_frames, 3))
    joint_valid = rng.random((num_frames, J)) > 0.2
    joints_world_m = T_world_headset[:, None, :3, 3] + rng.normal(size=(num_frames, J, 3))
    joints_world_m[~joint_valid] = np.nan
    return records.FrameRun(
        sequence=f"sequence{i}",
        split="train",
        frame_index=np.arange(num_frames, dtype=np.int32) + 100 * i,
        time_s=(np.arange(num_frames) + 100 * i) / 30,
        jpegs=tuple(tuple(frame) for frame in jpegs),
        T_world_headset=T_world_headset,
        joints_world_m=joints_world_m.astype(np.float32),
        joint_valid=joint_valid,
        view_valid=view_valid,
        rig=rig.upright(rig.default_rig(), layout.EGOBODY3M, HW),
    )


def write(directory, num_shards: int = 2, lengths=LENGTHS) -> records.Records:
    runs = [make_run(i, n) for i, n in enumerate(lengths)]
    shards = [
        records.write_shard(directory / f"part-{s}.arrayrecord", [runs[i] for i in chunk])
        for s, chunk in enumerate(np.array_split(np.arange(len(runs)), num_shards))
    ]
    manifest = records.Manifest(split="train", spec=SPEC, shards=tuple(shards))
    records.write_manifest(directory, manifest)
    return records.open_records(directory)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> records.Records:
    return write(tmp_path_factory.mktemp("records"))


def take(batches, count):
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def ids(batches) -> np.ndarray:
    return np.concatenate([batch.clip_id for batch in batches])


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def make_config(**changes):
    return pipeline.DataConfig(**{"clip_frames": 4, "batch_size": 4, "read_threads": 0, **changes})


def test_index_tiles_every_record(data):
    index = pipeline.build_index(data, 4)
    assert len(index) == NUM_CLIPS
    seen = [[] for _ in LENGTHS]
    for clip in map(index.tile, range(len(index))):
        assert 1 <= clip.stop - clip.start <= 4
        seen[clip.record] += range(clip.start, clip.stop)
    assert seen == [list(range(n)) for n in LENGTHS]
    assert index.describe(1) == "sequence0 frames 4-6"
    assert index.describe(pipeline.PADDING_CLIP_ID) == "padding"


@given(num_frames=st.integers(1, 70), clip_frames=st.integers(1, 20), epoch=st.integers(0, 2**40))
def test_an_epoch_leaves_out_less_than_a_clip_at_the_ends_of_a_record(num_frames, clip_frames, epoch):
    entry = SimpleNamespace(num_frames=num_frames)
    index = pipeline.build_index(SimpleNamespace(entries=(entry, entry), directory="x"), clip_frames)
    second = [clip for clip in (index.draw(i, epoch, seed=3) for i in range(len(index))) if clip.record == 1]
    assert len(second) == -(-num_frames // clip_frames)
    assert {clip.stop - clip.start for clip in second} == {min(num_frames, clip_frames)}
    assert second[0].start >= 0 and second[-1].stop <= num_frames
    for one, following in itertools.pairwise(second):
        assert one.start < following.start <= one.stop
    assert second[0].start + num_frames - second[-1].stop < clip_frames


def test_each_frame_has_its_turn_and_starts_differ(data):
    index = pipeline.build_index(data, 4)
    longest = int(np.argmax(LENGTHS))
    clips = [index.draw(i, epoch, seed=1) for epoch in range(60) for i in np.flatnonzero(index.record == longest)]
    counts = np.zeros(LENGTHS[longest], int)
    for clip in clips:
        counts[clip.start : clip.stop] += 1
    assert counts.min() > 0
    assert {clip.start for clip in clips} == set(range(LENGTHS[longest] - 3))
    shifts = [[index.draw(int(i), 0, seed).start for i in np.flatnonzero(index.place == 0)] for seed in range(8)]
    assert len(set(map(tuple, shifts))) > 1
    assert index.draw(0, 5, seed=1) == index.draw(0, 5, seed=1)


@pytest.mark.parametrize("num_shards", [1, 3, 6])
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_epoch_visits_every_clip_once(tmp_path, num_shards, process_count):
    found = write(tmp_path, num_shards)
    # Eleven steps of four clips are four epochs exactly.
    parts = [
        take(
            pipeline.train_batches(found, make_config(), seed=5, process_index=p, process_count=process_count),
            NUM_CLIPS,
        )
        for p in range(process_count)
    ]
    order = np.concatenate([np.concatenate([part[s].clip_id for part in parts]) for s in range(NUM_CLIPS)])
    epochs = order.reshape(4, NUM_CLIPS)
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_CLIPS))
    assert not np.array_equal(epochs[0], epochs[1])
    whole = ids(take(pipeline.train_batches(found, make_config(), seed=5), NUM_CLIPS))
    np.testing.assert_array_equal(order, whole)


def test_neighbouring_seeds_share_no_epoch(data):
    orders = [ids(take(pipeline.train_batches(data, make_config(), seed=s), NUM_CLIPS)).reshape(4, -1) for s in (0, 1)]
    assert not any(np.array_equal(a, b) for a in orders[0] for b in orders[1])


@pytest.mark.parametrize(
    "changes", [{"read_threads": 1}, {"read_threads": 3}, {"cache_bytes": 0}, {"cache_bytes": 4000}], ids=str
)
def test_reading_options_do_not_change_the_batches(data, changes):
    expected = take(pipeline.train_batches(data, make_config(), seed=1), 6)
    assert_same(take(pipeline.train_batches(data, make_config(**changes), seed=1), 6), expected)


def test_too_little_shared_memory_is_told_before_a_worker_is_killed(data, monkeypatch):
    monkeypatch.setattr(pipeline.training.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    config = make_config(worker_processes=2, prefetch_batches=8)
    with pytest.raises(ValueError, match=r"/dev/shm: 0 MiB are free.*worker_processes = 2 .*--shm-size.*= 0"):
        pipeline.train_batches(data, config, seed=0)
    assert take(pipeline.train_batches(data, make_config(), seed=0), 1), "threads need none"


def test_worker_processes_do_not_change_the_batches(data):
    expected = take(pipeline.train_batches(data, make_config(), seed=1), 5)
    config = make_config(worker_processes=2, read_threads=1)
    assert_same(take(pipeline.train_batches(data, config, seed=1), 5), expected)


def test_start_step_continues_the_stream(data):
    config = make_config(read_threads=2)
    whole = take(pipeline.train_batches(data, config, seed=2), 9)
    assert_same(take(pipeline.train_batches(data, config, seed=2, start_step=4), 5), whole[4:])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"read_threads": 2},
        pytest.param({"worker_processes": 1, "read_threads": 1}, marks=pytest.mark.slow),  # starts Python twice
    ],
    ids=str,
)
def test_batches_of_one_clip(data, changes):
    config = make_config(batch_size=1, **changes)
    whole = take(pipeline.train_batches(data, config, seed=2), 2 * NUM_CLIPS)
    assert {len(batch.clip_id) for batch in whole} == {1}
    epochs = ids(whole).reshape(2, NUM_CLIPS)
    assert all(sorted(epoch) == list(range(NUM_CLIPS)) for epoch in epochs)
    assert_same(take(pipeline.train_batches(data, config, seed=2, start_step=15), 3), whole[15:18])
    fours = take(pipeline.train_batches(data, make_config(), seed=2), 5)
    np.testing.assert_array_equal(ids(fours), ids(whole)[:20])


def test_resume_on_another_number_of_processes(data):
    whole = take(pipeline.train_batches(data, make_config(), seed=2), 6)
    halves = [
        take(pipeline.train_batches(data, make_config(), seed=2, start_step=4, process_index=p, process_count=2), 2)
        for p in range(2)
    ]
    joined = [jax.tree.map(lambda a, b: np.concatenate([a, b]), *pair) for pair in zip(*halves, strict=True)]
    assert_same(joined, whole[4:])


def test_batch_holds_what_the_records_say(data):
    index = pipeline.build_index(data, 4)
    for batch in pipeline.eval_batches(data, 4, batch_size=3, read_threads=0):
        frames, targets = batch.frames, batch.targets
        assert frames.images.shape == (3, 4, 4, *HW) and frames.images.dtype == np.uint8
        assert frames.rig.cameras.focal_px.shape == (3, 4, 2)
        for b, clip in enumerate(batch.clip_id):
            tile = index.tile(int(clip)) if clip >= 0 else None
            n = tile.stop - tile.start if tile else 0
            np.testing.assert_array_equal(frames.frame_valid[b], np.arange(4) < n)
            assert not frames.view_valid[b, n:].any() and not targets.joint_valid[b, n:].any()
            assert not frames.images[b][~frames.view_valid[b]].any()
            assert not targets.joints_headset_m[b][~targets.joint_valid[b]].any()
            assert (frames.frame_gap[b] == 1).all()
            np.testing.assert_allclose(batch.time_s[b], np.arange(4) / 30, atol=1e-6)  # also on padding
            assert batch.time_s.dtype == np.float32
            if n == 0:
                continue
            run, part = data[tile.record], slice(tile.start, tile.stop)
            before = run.T_world_headset[tile.start - 1] if tile.start else np.zeros((4, 4))
            np.testing.assert_array_equal(frames.T_world_before[b], before)
            expected_images, expected_valid = records.decode_images(run, part.start, part.stop)
            np.testing.assert_array_equal(frames.images[b, :n], expected_images)
            np.testing.assert_array_equal(frames.view_valid[b, :n], expected_valid)
            assert_same(jax.tree.map(lambda leaf, b=b: leaf[b], frames.rig), run.rig)
            world = frames.T_world_headset[b, :n].astype(np.float64)
            joints = np.concatenate([targets.joints_headset_m[b, :n], np.ones((n, J, 1))], axis=-1)
            back = np.einsum("tij,tkj->tki", world, joints)[..., :3]
            valid = targets.joint_valid[b, :n]
            np.testing.assert_array_equal(valid, run.joint_valid[part])
            np.testing.assert_allclose(back[valid], run.joints_world_m[part][valid], atol=5e-5)


def test_uneven_times_become_gaps_and_seconds_of_the_clip(tmp_path):
    run = dataclasses.replace(make_run(0, 7), time_s=5.0 + np.array([0, 1, 2.2, 5, 6, 7, 9]) / 30)
    shard = records.write_shard(tmp_path / "a.arrayrecord", [run])
    records.write_manifest(tmp_path, records.Manifest(split="train", spec=SPEC, shards=(shard,)))
    (batch,) = pipeline.eval_batches(records.open_records(tmp_path), 4, batch_size=2, read_threads=0)
    np.testing.assert_array_equal(batch.frames.frame_gap, [[1, 1, 1, 3], [1, 1, 2, 1]])  # the fifth follows the fourth
    np.testing.assert_allclose(batch.time_s * 30, [[0, 1, 2.2, 5], [0, 1, 3, 4]], rtol=1e-5)


def test_damaged_and_missing_images_are_black_and_invalid(data):
    (batch,) = pipeline.eval_batches(data, 16, batch_size=len(LENGTHS), read_threads=0)
    for b, n in enumerate(LENGTHS):
        expected = np.ones((n, 4), bool)
        expected[0, 2] = expected[-1, 1] = False
        np.testing.assert_array_equal(batch.frames.view_valid[b, :n], expected)


def test_eval_batches_hold_every_clip_once_then_padding(data):
    for batch_size in (1, 4, 11, 20):
        batches = list(pipeline.eval_batches(data, 4, batch_size=batch_size))
        assert {len(batch.clip_id) for batch in batches} == {batch_size}
        order = ids(batches)
        np.testing.assert_array_equal(order[:NUM_CLIPS], np.arange(NUM_CLIPS))
        assert (order[NUM_CLIPS:] == pipeline.PADDING_CLIP_ID).all() and len(order) < NUM_CLIPS + batch_size


def test_eval_batches_of_some_clips_are_spread(data):
    order = ids(pipeline.eval_batches(data, 4, batch_size=3, max_clips=3))
    assert len(set(order)) == 3 and order.min() <= 2 and order.max() >= 8


def test_eval_batches_without_images(data):
    full = list(pipeline.eval_batches(data, 4))
    bare = list(pipeline.eval_batches(data, 4, images=False))
    for a, b in zip(full, bare, strict=True):
        assert b.frames.images.shape == (8, 4, 4, 0, 0)
        assert_same(a.targets, b.targets)


def test_eval_batches_have_the_joints_that_are_asked_for_by_name(data):
    names = ("b_l_wrist", "tail", "b_head")
    asked = skeleton.Skeleton(
        name="asked",
        joint_names=names,
        parents=(-1, 0, 0),
        mirror=(0, 1, 2),
        root_between=(0,),
        groups=(),
        rest_offsets_m=((0.0, 0.0, 0.0),) * 3,
        rest_root_headset_m=(0.0, 0.0, 0.0),
    )
    full = pipeline.eval_batches(data, 4, images=False)
    some = pipeline.eval_batches(data, 4, images=False, skeleton=asked)
    for a, b in zip(full, some, strict=True):
        assert b.targets.joints_headset_m.shape == (8, 4, 3, 3) and b.targets.joints_headset_m.dtype == np.float32
        assert not b.targets.joint_valid[..., 1].any() and not b.targets.joints_headset_m[..., 1, :].any()
        for place in (0, 2):
            own = skeleton.EGOBODY3M.index(names[place])
            np.testing.assert_array_equal(
                b.targets.joints_headset_m[..., place, :], a.targets.joints_headset_m[..., own, :]
            )
            np.testing.assert_array_equal(b.targets.joint_valid[..., place], a.targets.joint_valid[..., own])
        assert_same(b.frames, a.frames)
    with pytest.raises(ValueError, match="joints of 'egobody3m', none of which has a name of 'asked'; convert"):
        pipeline.eval_batches(data, 4, skeleton=dataclasses.replace(asked, joint_names=("a", "b", "c")))


def abstract(batch):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_abstract_batch_is_that_of_a_decoded_one(data, batch_size):
    (batch,) = take(pipeline.train_batches(data, make_config(batch_size=batch_size), seed=0), 1)
    assert pipeline.abstract_batch(data, 4, batch_size) == abstract(batch)


def test_abstract_batch_with_the_fields_of_a_teacher(data):
    labelled, pseudo = (pipeline.train_batches(data, make_config(batch_size=n), seed=0) for n in (2, 3))
    (batch,) = take(pipeline.mixed_batches(labelled, pseudo, first_pseudo_clip_id=NUM_CLIPS), 1)
    assert pipeline.abstract_batch(data, 4, 5, pseudo=True) == abstract(batch)


def test_half_written_data_is_refused(tmp_path):
    write(tmp_path, 2)
    shard = tmp_path / "part-1.arrayrecord"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"part-1\.arrayrecord: .*half-written"):
        records.open_records(tmp_path)
    (tmp_path / records.MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match="conversion unfinished"):
        records.open_records(tmp_path)


BODY = dataclasses.replace(
    skeleton.EGOBODY3M,
    **{name: getattr(skeleton.EGOBODY3M, name)[:25] for name in ("joint_names", "parents", "rest_offsets_m")},
    mirror=tuple(range(25)),
    groups=(),
)
TWO_VIEWS = layout.RigLayout(name="pair", view_names=("left", "right"), upright_turns=(0, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skeleton": BODY}, "joints 26 instead of 25"),
        ({"layout": TWO_VIEWS}, "views 4 instead of 2"),
        ({"image_size_hw": (16, 16)}, r"image height and width \(16, 24\) instead of \(16, 16\)"),
        ({"camera_model": "pinhole"}, "camera model fisheye instead of pinhole"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_records_that_differ_from_the_manifest_name_their_file(tmp_path, changes, message):
    write(tmp_path)
    manifest = records.read_manifest(tmp_path)
    spec = dataclasses.replace(SPEC, **changes)
    records.write_manifest(tmp_path, records.Manifest(split="train", spec=spec, shards=manifest.shards))
    with pytest.raises(ValueError, match=rf"part-0\.arrayrecord: record 0 \(sequence0\): {message}"):
        next(pipeline.eval_batches(records.open_records(tmp_path), 4, read_threads=0))


def test_cache_keeps_the_latest_records_within_its_bytes(data):
    read = []

    class Reader:
        def __getitem__(self, record):
            read.append(record)
            return data[record]

    num_bytes = [sum(len(jpeg) for frame in run.jpegs for jpeg in frame) for run in data]
    cache = RunCache(Reader(), num_bytes[0] + num_bytes[1] + num_bytes[3])
    for record in (0, 1, 0, 3, 1, 0):
        assert cache[record].sequence == f"sequence{record}"
    assert read == [0, 1, 3]
    cache[4]  # too large beside the others: 3 and 1, longer unused than 0, make room
    assert sum(num_bytes[record] for record in cache._kept) <= sum(num_bytes[i] for i in (0, 1, 3))
    assert not list(pickle.loads(pickle.dumps(RunCache(data, 10)))._kept)
    read.clear()
    for record in (4, 3):
        assert cache[record].sequence == f"sequence{record}"
    assert read == [3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_frames": 0}, "clip_frames: must be at least 1, got 0"),
        ({"batch_size": -2}, "batch_size: must be at least 1"),
        ({"read_threads": 6}, "prefetch_batches: 4 keeps some of 6"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_batches_refuse(data):
    with pytest.raises(ValueError, match="batch_size: must be a multiple of 3, got 4"):
        pipeline.train_batches(data, make_config(), seed=0, process_count=3)
    with pytest.raises(ValueError, match="start_step: must be at least 0, got -1"):
        pipeline.train_batches(data, make_config(), seed=0, start_step=-1)
    with pytest.raises(ValueError, match="batch_size: must be at least 1"):
        pipeline.eval_batches(data, 4, batch_size=0)
