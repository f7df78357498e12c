import dataclasses
import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epfv2_jax.autolabel import cutting, identity
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.data import labels, records

lengths = st.tuples(st.integers(1, 64), st.sampled_from([0, 0, 0, 1, 5, 100]))  # frames, missing frames before
sequences = st.lists(st.lists(lengths, min_size=1, max_size=12), min_size=1, max_size=8)
configs = st.builds(
    plan_lib.PassConfig,
    unit_frames=st.integers(1, 400),
    slots=st.integers(1, 8),
    chunk_frames=st.integers(1, 20),
)


def entries_of(layout):
    found = []
    for i, parts in enumerate(layout):
        index = 0
        for frames, missing in parts:
            index += missing
            found.append(records.RecordEntry(sequence=f"s{i}", first_frame=index, num_frames=frames))
            index += frames
    return found


def as_plan(entries, history, config):
    units, streams = cutting.cut(entries, history, config)
    return plan_lib.Plan(package_version="", records=None, teacher=None, config=config, units=units, streams=streams)


@settings(max_examples=150, deadline=None)
@given(layout=sequences, config=configs, history=st.none() | st.integers(1, 81))
def test_every_frame_is_published_once_after_its_history(layout, config, history):
    entries = entries_of(layout)
    plan = as_plan(entries, history, config)
    assert plan.units[0, 0] == 0 and plan.units[-1, 1] == len(entries)
    assert np.array_equal(plan.units[1:, 0], plan.units[:-1, 1])
    published = np.zeros((len(entries), 64), int)
    for index in range(plan.num_units):
        unit = plan.unit(index)
        assert [s.stop_record for s in unit.streams[:-1]] == [s.first_record for s in unit.streams[1:]]
        assert (unit.streams[0].first_record, unit.streams[-1].stop_record) == (unit.first_record, unit.stop_record)
        assert unit.num_frames == sum(e.num_frames for e in entries[unit.first_record : unit.stop_record])
        steps = cutting.schedule(unit, entries, config)
        assert all(any(step) for step in steps)
        for lane in zip(*steps, strict=True):
            check_lane([chunk for chunk in lane if chunk is not None], entries, history, published, config)
            assert all(chunk is None for chunk in itertools.dropwhile(lambda c: c is not None, lane))
    for record, entry in enumerate(entries):
        assert np.all(published[record, : entry.num_frames] == 1)
        assert np.all(published[record, entry.num_frames :] == 0)


def check_lane(chunks, entries, history, published, config):
    """The chunks of a slot: consecutive frames of one sequence from each `first` on, enough of them unpublished."""
    seen, sequence = [], None
    for chunk in chunks:
        entry = entries[chunk.record]
        if chunk.first:
            seen, sequence = [], entry.sequence
        assert entry.sequence == sequence and 0 < chunk.stop - chunk.start <= config.chunk_frames
        index = range(entry.first_frame + chunk.start, entry.first_frame + chunk.stop)
        if chunk.publish:
            published[chunk.record, chunk.start : chunk.stop] += 1
            available = {
                t
                for e in entries
                if e.sequence == sequence
                for t in range(e.first_frame, e.first_frame + e.num_frames)
                if (history is None or index[0] - history < t) and t < index[0]
            }
            assert available <= set(seen)
        seen += index
    assert all(chunk.first for chunk in chunks[:1])


def test_slots_are_busy_where_sequences_are_of_awkward_length():
    config = plan_lib.PassConfig(unit_frames=8192, slots=8, chunk_frames=16)
    for length in (1100, 1500, 1800, 2600, 5000):
        layout = [[(64, 0)] * (length // 64) + [(length % 64, 0)] for _ in range(60)]
        entries = entries_of(layout)
        plan = as_plan(entries, 1, config)
        batches = sum(len(cutting.schedule(plan.unit(i), entries, config)) for i in range(plan.num_units))
        assert sum(60 * [length]) / (batches * config.slots * config.chunk_frames) > 0.85
        assert np.all(plan.units[:-1, 2] <= 1.5 * 8192) and np.all(plan.units[:-1, 2] >= 0.5 * 8192)


def test_a_sequence_that_starts_anew_is_another_stream():
    entries = [records.RecordEntry(sequence="s", first_frame=t, num_frames=8) for t in (0, 8, 0, 8)]
    plan = as_plan(entries, 31, plan_lib.PassConfig(unit_frames=64, slots=2, chunk_frames=8))
    assert plan.streams.tolist() == [[0, 2, 0, 0], [2, 4, 2, 0]]


@pytest.mark.slow
def test_planning_a_hundred_thousand_units():
    entries = entries_of([[(64, 0)] * 20] * 5000)
    start = time.perf_counter()
    plan = as_plan(entries, 46, plan_lib.PassConfig(unit_frames=64, slots=1, chunk_frames=16))
    assert plan.num_units == 100_000
    assert time.perf_counter() - start < 60


def test_a_plan_is_read_as_written_and_never_changed(tmp_path, finished, records_dir, teacher_dir, helpers):
    read = plan_lib.read_plan(finished.out_dir)
    for name in ("records", "teacher", "config", "sha256", "package_version"):
        assert getattr(read, name) == getattr(finished.plan, name)
    np.testing.assert_array_equal(read.streams, finished.plan.streams)
    before = (finished.out_dir / "plan.json").read_bytes()
    again = plan_lib.make_plan(records_dir, teacher_dir, helpers.PASS)
    assert plan_lib.write_plan(finished.out_dir, again).sha256 == finished.plan.sha256
    other = plan_lib.make_plan(records_dir, teacher_dir, dataclasses.replace(helpers.PASS, unit_frames=60))
    with pytest.raises(ValueError, match=r"config\.unit_frames: 48 there, 60 asked"):
        plan_lib.write_plan(finished.out_dir, other)
    assert (finished.out_dir / "plan.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"plan\.json: no such file; .* is not a label pass: plan one"):
        plan_lib.read_plan(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"package_version": "0"}, "sha256 of the rest of the content: .*it was changed or damaged"),
        ({"units": [[0, 1]]}, r"units\[0\]: expected 3 values"),
        ({"units": [[0, "1", 3]]}, r"units\[0\]\[1\]: expected int"),
        ({"units": []}, "units cover all records one after the other: expected True, got False"),
        ({"streams": []}, "streams cover all records"),
        ({"teacher": {}}, r"teacher\.sha256: required key is missing"),
        ({"records": None}, "records: expected a mapping"),
    ],
)
def test_a_plan_that_was_changed_is_refused_by_field(tmp_path, finished, change, message):
    content = json.loads((finished.out_dir / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**content, **change}))
    for read in (plan_lib.read_plan, labels.Labels):
        with pytest.raises(ValueError, match=rf"^{tmp_path}/plan\.json: {message}.*; plan again in another directory"):
            read(tmp_path)


def test_the_teachers_hash_is_of_its_values_alone(helpers):
    a = {"params": {"x": np.arange(3.0), "y": np.zeros((2, 2))}, "batch_stats": {}}
    same = {"batch_stats": {}, "params": {"y": np.zeros((2, 2)), "x": np.arange(3.0)}}
    nudged = {"params": {"x": np.nextafter(np.arange(3.0), 1), "y": np.zeros((2, 2))}, "batch_stats": {}}
    reshaped = {"params": {"x": np.arange(3.0), "y": np.zeros(4)}, "batch_stats": {}}
    model = helpers.build()
    hashes = [identity.teacher_sha256(model, v) for v in (a, same, nudged, reshaped)]
    hashes += [
        identity.teacher_sha256(other, a)
        for other in (
            helpers.build({**helpers.CONFIG, "window": 5}),
            model.clone(skeleton=dataclasses.replace(model.skeleton, name="other")),
            model.clone(layout=dataclasses.replace(model.layout, name="other")),
        )
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 6


@pytest.mark.parametrize("field", ["unit_frames", "slots", "chunk_frames"])
def test_bad_config_is_refused_by_name(field):
    with pytest.raises(ValueError, match=f"{field}: must be at least 1"):
        plan_lib.PassConfig(**{field: 0})
