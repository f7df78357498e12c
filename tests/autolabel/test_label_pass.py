"""The label pass: labels equal streaming, published once and whole, damage quarantined, changes refused."""

import copy
import dataclasses
import errno
import json
import os
import pathlib
import pickle
import re
import shutil
import threading

import jax
import numpy as np
import pytest
from etils import epath

import epfv2_jax
from epfv2_jax import pseudo_label
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import progress, worker
from epfv2_jax.autolabel import publish as publish_lib
from epfv2_jax.autolabel import reader as reader_lib
from epfv2_jax.autolabel import verify as verify_lib
from epfv2_jax.core import exits
from epfv2_jax.data import labels, records
from epfv2_jax.data.labels import Status
from epfv2_jax.data.labels import units as units_lib
from epfv2_jax.inference.streams import scan_frames
from epfv2_jax.structs import Frames

MAX_FRAMES = 72  # of a sequence


def stream(labeller, parts, leave_out=()):
    """What the teacher says (T, ...) of a whole sequence, frame by frame; `leave_out`: positions that are not seen."""
    seen = np.setdiff1d(np.arange(sum(run.num_frames for run in parts)), leave_out)
    time_s = np.concatenate([run.time_s for run in parts])[seen]
    decoded = [records.decode_images(run) for run in parts]

    def padded(values, fill=0):
        values = np.asarray(values)
        out = np.full((MAX_FRAMES, *values.shape[1:]), fill, values.dtype)
        out[: len(values)] = values
        return out[None]

    frames = Frames(
        images=padded(np.concatenate([i for i, _ in decoded])[seen]),
        rig=jax.tree.map(lambda x: x[None], parts[0].rig),
        T_world_headset=padded(np.concatenate([run.T_world_headset for run in parts])[seen]),
        view_valid=padded(np.concatenate([v for _, v in decoded])[seen]),
        frame_valid=padded(np.ones(len(seen), bool)),
        frame_gap=padded(np.rint(30 * np.diff(time_s, prepend=time_s[0] - 1 / 30)).astype(np.int32), 1),
    )
    predictions = scan(labeller.model, jax.device_get(labeller.variables), frames)
    return seen, jax.tree.map(lambda x: np.asarray(x[0, : len(seen)]), predictions)


_SCANS = {}


def scan(model, variables, frames):
    """Frame by frame; compiled once."""
    if model not in _SCANS:
        _SCANS[model] = jax.jit(lambda v, f: scan_frames(model, v, f)[0])
    return _SCANS[model](variables, frames)


def sequences(opened):
    """The label runs by sequence."""
    found = {}
    for i in range(len(opened)):
        found.setdefault(opened[i].sequence, []).append(opened[i])
    return found


def files(out_dir):
    """Name and content of everything that is published."""
    return {path.name: path.read_bytes() for path in (pathlib.Path(out_dir) / labels.UNIT_FOLDER).iterdir()}


def planned(finished, folder):
    """A new pass with the plan of the finished one."""
    folder.mkdir()
    shutil.copy(finished.out_dir / labels.PLAN_NAME, folder)
    return folder


def at(labeller, out_dir):
    """The same compiled labeller, writing elsewhere."""
    other = copy.copy(labeller)
    other.publisher = publish_lib.Publisher(out_dir)
    return other


def reading(labeller, records_dir):
    """The same compiled labeller, reading elsewhere."""
    other = copy.copy(labeller)
    shards = reader_lib.ShardFiles(records_dir, labeller.plan.records.shards)
    other.inputs = dataclasses.replace(labeller.inputs, shards=shards)
    return other


@pytest.fixture
def labeller_at(finished):
    """labeller_at(folder): the compiled labeller of the finished pass at work in another, empty pass of that plan."""
    return lambda folder: at(finished.labeller, planned(finished, folder))


def test_labels_equal_streaming_the_whole_sequence(finished, records_dir, runs):
    assert np.any(finished.plan.streams[:, 0] != finished.plan.streams[:, 2]), "no stream has a warm-up"
    opened = labels.open_labels(finished.out_dir, records.open_records(records_dir))
    assert len(opened) == len(records.open_records(records_dir))
    found = sequences(opened)
    for name in ("a", "b", "c"):
        _, expected = stream(finished.labeller, runs[name])
        for get, value in (
            (lambda r: r.joints_headset_m, expected.joints_headset_m),
            (lambda r: r.cholesky_m, expected.distribution.cholesky_m),
            (lambda r: r.root_rotation, expected.body.root_rotation),
            (lambda r: r.root_position_m, expected.body.root_position_m),
            (lambda r: r.joint_rotations, expected.body.joint_rotations),
            (lambda r: r.bone_scales, expected.body.bone_scales),
        ):
            np.testing.assert_allclose(np.concatenate([get(r) for r in found[name]]), value, atol=1e-5)
        for label_run, run in zip(found[name], runs[name], strict=True):
            np.testing.assert_array_equal(label_run.frame_index, run.frame_index)


def test_one_compilation_and_all_rows_ok(finished):
    assert finished.labeller.step._cache_size() == 1
    assert sum(r.num_frames for r in finished.reports) == finished.plan.records.num_frames
    assert all(r.counts[0] == r.num_frames and r.published for r in finished.reports)


def test_verify_passes_and_status_says_done(finished, records_dir):
    report = verify_lib.verify(finished.out_dir, records_dir)
    assert report.errors == ()
    assert report.frames == report.counts[0] == finished.plan.records.num_frames
    opened = labels.open_labels(finished.out_dir)
    joints_m = np.concatenate([opened[i].joints_headset_m for i in range(len(opened))])
    L = np.concatenate([opened[i].cholesky_m for i in range(len(opened))]).astype(np.float64)
    np.testing.assert_allclose(report.mean_m, joints_m.mean(0), atol=1e-6)
    np.testing.assert_allclose(report.std_m, joints_m.std(0), atol=1e-6)
    covariance = L @ np.swapaxes(L, -1, -2)
    np.testing.assert_allclose(report.sigma_m, np.sqrt(np.trace(covariance, axis1=-2, axis2=-1) / 3).mean(0), atol=1e-6)
    status = progress.status(finished.out_dir)
    assert status.frames_done == status.frames == report.frames and status.counts == report.counts
    assert sum(w.frames for w in status.workers) == report.frames


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda content: {**content, "counts": [c + 5 for c in content["counts"]]}, "counts, sum: expected"),
        (lambda content: {**content, "seconds": 1e9}, "sha256 of the rest of the content"),
        (lambda content: {**content, "unit": "1"}, "unit: expected int, got '1'"),
        (lambda content: [content], "content: expected a mapping"),
    ],
)
def test_damaged_progress_is_named_and_the_rows_are_counted_from_the_labels(
    finished, tmp_path, caplog, damage, message
):
    out = shutil.copytree(finished.out_dir, tmp_path / "out")
    path, absent = (out / labels.PROGRESS_FOLDER / f"{unit:08d}.json" for unit in (1, 0))
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    absent.unlink()
    status, whole = progress.status(out), progress.status(finished.out_dir)
    assert (status.counts, status.frames_done) == (whole.counts, whole.frames_done)
    assert f"{path}: {message}" in caplog.text and caplog.text.count("delete it") == 1


def bomb(jpeg):
    """A JPEG whose header declares 65500 x 65500 pixels."""
    data = bytearray(jpeg)
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = (65500).to_bytes(2, "big") * 2
    return bytes(data)


def replace_image(run, frame, view, jpeg):
    jpegs = [list(f) for f in run.jpegs]
    jpegs[frame][view] = jpeg
    valid = run.view_valid.copy()
    valid[frame, view] = bool(jpeg)
    return dataclasses.replace(run, jpegs=tuple(map(tuple, jpegs)), view_valid=valid)


def replace_pose(run, frame, scale=np.nan):
    T_world_headset = run.T_world_headset.copy()
    T_world_headset[frame, :3] *= scale
    return dataclasses.replace(run, T_world_headset=T_world_headset)


def test_damage_is_quarantined_with_its_reason_and_everything_else_is_labelled(
    tmp_path, teacher_dir, finished, helpers, capsys
):
    runs = helpers.make_runs()
    a, b = runs["a"], runs["b"]
    a[1] = replace_image(a[1], 3, 0, a[1].jpegs[3][0][:-60])
    a[2] = replace_image(a[2], 5, 2, bomb(a[2].jpegs[5][2]))
    a[2] = replace_image(a[2], 6, 1, b"")
    a[3] = replace_pose(a[3], 9)  # the pose before the oldest frame that frame 64, where a stream starts, depends on
    b[1] = replace_pose(b[1], 0, scale=0)
    cameras = runs["d4"][0].rig.cameras
    rig_of_four = runs["d4"][0].rig.replace(cameras=cameras.replace(radial=cameras.radial[:, :4]))
    runs["d4"][0] = dataclasses.replace(runs["d4"][0], rig=rig_of_four)
    spoilt = {("d0", 9): b"", ("d1", 10): b"\x00garbage", ("d2", 20): b"\x93\x01\x02\x03"}
    source = tmp_path / "records"
    helpers.write_records(source, runs, lambda data, run: spoilt.get((run.sequence, int(run.frame_index[0])), data))
    out = tmp_path / "out"
    plan = plan_lib.write_plan(out, plan_lib.make_plan(source, teacher_dir, helpers.PASS))
    arguments = ["--data", str(source), "--out", str(out)]
    run = ["run", *arguments, "--checkpoint", str(teacher_dir)]
    for _ in ("labels", "finds all done"):
        assert pseudo_label.main(run) == exits.PARTIAL
    printed = re.findall(r"labelled .*", capsys.readouterr().out)
    assert printed[0] == printed[1] and "bad_record 34" in printed[0]
    assert pseudo_label.main(["verify", *arguments]) == exits.PARTIAL

    opened = labels.open_labels(out)
    found = sequences(opened)
    bad = {
        (run.sequence, int(t)): Status(s)
        for i in range(len(opened))
        for run in [opened[i]]
        for t, s in zip(run.frame_index, run.status, strict=True)
        if s != Status.OK
    }
    expected = {
        ("a", 19): Status.BAD_IMAGE,
        ("a", 37): Status.BAD_IMAGE,
        ("a", 38): Status.MISSING_VIEW,
        ("a", 57): Status.NON_FINITE,
        ("b", 15): Status.NON_FINITE,
        **{("d0", t): Status.BAD_RECORD for t in range(9, 16)},
        **{("d1", t): Status.BAD_RECORD for t in range(10, 19)},
        **{("d2", t): Status.BAD_RECORD for t in range(20, 29)},
        **{("d4", t): Status.BAD_RECORD for t in range(40, 49)},
    }
    assert bad == expected
    reasons = {
        (opened[row.record].sequence, row.frame): row.reason
        for unit in range(plan.num_units)
        for row in opened.unit(unit).footer.bad_rows
    }
    assert reasons.keys() == expected.keys()
    for key, words in {
        ("a", 19): "view 0: JPEG.* damaged",
        ("a", 37): r"view 2: JPEG.* \(65500x65500\)",
        ("a", 38): "view 1 has no image",
        ("a", 57): "pose of the headset: holds values that are not finite",
        ("b", 15): "pose of the headset: the rotation part is not orthonormal",
        ("d0", 9): "0 bytes",
        ("d2", 20): "record",
        ("d4", 40): r"cameras have an array \(4, 4\) in the place of \(4, 6\)",
    }.items():
        assert re.search(words, reasons[key])
    # What is not damaged is labelled as if the damaged frames had been dropped by the camera.
    for name, left_out in (("a", [57]), ("b", [10]), ("d0", np.arange(9, 16)), ("d1", np.arange(9)), ("d3", [])):
        parts = runs[name]
        seen, predictions = stream(finished.labeller, [sane(run) for run in parts], left_out)
        joints_m = np.concatenate([r.joints_headset_m for r in found[name]])
        np.testing.assert_allclose(joints_m[seen], predictions.joints_headset_m, atol=1e-5)
        assert np.all(joints_m[np.asarray(left_out, int)] == 0)


def sane(run):
    """The run as the model is to see it."""
    return dataclasses.replace(run, T_world_headset=np.nan_to_num(run.T_world_headset))


def test_an_answer_that_is_not_finite_is_quarantined(tmp_path, labeller_at):
    labeller = labeller_at(tmp_path / "out")
    poisoned = jax.tree.map(lambda x: x, labeller.variables)
    poisoned["params"]["refinement_head"] = jax.tree.map(lambda x: x * np.nan, poisoned["params"]["refinement_head"])
    labeller.variables = poisoned
    (report,) = labeller([0])
    assert report.counts[Status.NON_FINITE] == report.num_frames
    with labels.UnitReader(tmp_path / "out/labels/00000000.arrayrecord", int(labeller.plan.units[0, 1])) as reader:
        assert reader.footer.bad_rows[0].reason == "the teacher's prediction is not finite, or beyond 1000 m"
        assert not np.any(reader[0].joints_headset_m)


def test_units_in_any_order_and_a_second_run_give_the_same_bytes(tmp_path, finished, labeller_at):
    labeller = labeller_at(tmp_path / "out")
    units = list(range(finished.plan.num_units))
    assert len(units) > 2
    assert [r.unit for r in labeller(units[:1])] == [0]
    assert [r.unit for r in labeller(units[:0:-1])] == units[:0:-1]
    assert files(tmp_path / "out") == files(finished.out_dir)
    assert not any(r.published for r in labeller(units)), "what is published is not done again"
    assert not list((tmp_path / "out/tmp").iterdir())


def test_of_two_runs_at_once_the_first_to_publish_wins(tmp_path, finished, labeller_at):
    labeller = labeller_at(tmp_path / "out")
    gate = threading.Barrier(2)
    reports = [[], []]

    def work(i):
        own = at(labeller, tmp_path / "out")
        publish = own.publisher.publish
        # Both label a unit before either publishes it.
        own.publisher.publish = lambda *args: (gate.wait(30), publish(*args))[1]
        for unit in range(own.plan.num_units):
            reports[i] += own([unit])
            gate.wait(30)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(*reports, strict=True):
        assert one.published != other.published
    assert files(tmp_path / "out") == files(finished.out_dir)


@pytest.mark.parametrize("links", ["hard links", "no hard links"])
def test_publishing_leaves_the_first_file_alone(tmp_path, monkeypatch, links):
    if links == "no hard links":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    target = epath.Path(tmp_path / "target")
    outcomes = []
    for content in (b"first", b"second"):
        (tmp_path / "temporary").write_bytes(content)
        outcomes.append(publish_lib.publish(tmp_path / "temporary", target))
        assert not (tmp_path / "temporary").exists()
    assert outcomes == [True, False] and target.read_bytes() == b"first"


class FullDisk:
    """An ArrayRecordWriter on a disk that is full after a few records."""

    def __init__(self, path, options):
        self.file, self.left = open(path, "wb"), 3  # noqa: SIM115

    def write(self, data):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.file.write(data)

    def close(self):
        self.file.close()


def test_a_full_disk_publishes_nothing_and_the_pass_goes_on_later(tmp_path, finished, labeller_at, monkeypatch):
    labeller = labeller_at(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(units_lib.array_record_module, "ArrayRecordWriter", FullDisk)
        with pytest.raises(OSError, match=r"unit 0: .*No space left on device.*is the disk full\?"):
            list(labeller(range(labeller.plan.num_units)))
    assert files(tmp_path / "out") == {} and not list((tmp_path / "out/tmp").iterdir())
    list(labeller(range(labeller.plan.num_units)))
    assert files(tmp_path / "out") == files(finished.out_dir)


def test_what_changed_since_the_plan_is_refused_by_name(tmp_path, finished, records_dir, teacher_dir, helpers):
    def refused(message, source=records_dir, teacher=teacher_dir, unit=0):
        with pytest.raises(ValueError, match=message):
            list(worker.Labeller(finished.out_dir, source, teacher)([unit]))

    other = tmp_path / "teacher"
    helpers.write_teacher(other, seed=1)
    refused(r"teacher: sha256 .*; not the teacher that was planned", teacher=other)
    for name, change, message in (
        ("empty", lambda data: b"", r"a\.arrayrecord: bytes: expected \d+, got 0"),
        ("half", lambda data: data[: len(data) // 2], r"a\.arrayrecord: bytes: expected \d+, got \d+; half-written"),
    ):
        source = shutil.copytree(records_dir, tmp_path / name)
        (source / "a.arrayrecord").write_bytes(change((source / "a.arrayrecord").read_bytes()))
        refused(message, source)
    source = shutil.copytree(records_dir, tmp_path / "manifest")
    manifest = json.loads((source / "manifest.json").read_text())
    (source / "manifest.json").write_text(json.dumps(manifest | {"split": "other"}))
    refused(r"manifest\.json: sha256: .*; not the one that was planned", source)


def test_a_shard_of_the_same_size_with_other_bytes_is_refused(tmp_path, records_dir, labeller_at):
    source = shutil.copytree(records_dir, tmp_path / "records")
    labeller = reading(labeller_at(tmp_path / "out"), source)
    shard = source / "a.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.arrayrecord: sha256: expected .*; the input has changed"):
        list(labeller([0]))
    assert files(tmp_path / "out") == {}


class PassingTrouble:
    """A reader of records that fails as often as there are failures."""

    def __init__(self, reader, failures):
        self.reader, self.failures = reader, failures

    def read(self, *args):
        if self.failures:
            raise self.failures.pop()
        return self.reader.read(*args)

    def __getattr__(self, name):
        return getattr(self.reader, name)


def test_what_storage_says_in_passing_does_not_become_a_label(tmp_path, finished, labeller_at, monkeypatch):
    labeller, failures = labeller_at(tmp_path / "out"), [RuntimeError("input/output error")]
    make = reader_lib.array_record_module.ArrayRecordReader
    monkeypatch.setattr(
        reader_lib.array_record_module, "ArrayRecordReader", lambda *args: PassingTrouble(make(*args), failures)
    )
    assert all(report.published for report in labeller(range(labeller.plan.num_units)))
    assert not failures and files(tmp_path / "out") == files(finished.out_dir)


def test_a_shard_that_is_cut_off_while_it_is_read_ends_the_pass(tmp_path, records_dir, labeller_at, monkeypatch):
    source = shutil.copytree(records_dir, tmp_path / "records")
    labeller = reading(labeller_at(tmp_path / "out"), source)
    make = reader_lib.array_record_module.ArrayRecordReader

    def cut_off(path, options):
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        return PassingTrouble(make(path, options), [RuntimeError("cut off")])

    monkeypatch.setattr(reader_lib.array_record_module, "ArrayRecordReader", cut_off)
    with pytest.raises(ValueError, match=r"a\.arrayrecord: sha256: expected .*; the input has changed"):
        list(labeller([0]))
    assert files(tmp_path / "out") == {}


def test_a_finished_pass_refuses_other_inputs_and_is_not_upset_by_other_files(
    tmp_path, finished, records_dir, teacher_dir, helpers, capsys
):
    out = shutil.copytree(finished.out_dir, tmp_path / "out")
    (out / labels.UNIT_FOLDER / "00009999.arrayrecord").write_bytes(b"")
    (out / labels.UNIT_FOLDER / "7.arrayrecord").write_bytes(b"")
    assert pseudo_label.main(["status", "--out", str(out)]) == 0
    units = finished.plan.num_units
    assert f"{units} of {units} units" in capsys.readouterr().out
    other = tmp_path / "teacher"
    helpers.write_teacher(other, seed=1)
    for source, teacher, message in (
        (records_dir, other, "not the teacher that was planned"),
        (tmp_path / "nowhere", teacher_dir, "nowhere"),
    ):
        command = ["run", "--data", str(source), "--checkpoint", str(teacher), "--out", str(out)]
        assert pseudo_label.main(command) == exits.ERROR
        assert message in capsys.readouterr().err
    (out / labels.PLAN_NAME).unlink()
    with pytest.raises(ValueError, match="holds labels but no plan"):
        plan_lib.write_plan(out, finished.plan)


def test_what_a_pass_writes_others_may_read(tmp_path, finished):
    (tmp_path / "file").write_bytes(b"")
    expected = (tmp_path / "file").stat().st_mode
    written = [path for path in finished.out_dir.rglob("*") if path.is_file()]
    assert written and all(path.stat().st_mode == expected for path in written)


def test_parquet_in_a_store_is_refused(finished, records_dir):
    with pytest.raises(ValueError, match=r"gs://b/x: this must be on a disk; copy the Parquet files from there"):
        verify_lib.verify(finished.out_dir, records_dir, "gs://b/x")


def test_another_version_is_refused(finished, records_dir, teacher_dir, monkeypatch):
    monkeypatch.setattr(epfv2_jax, "__version__", "99")
    with pytest.raises(ValueError, match=r"version of epfv2_jax: expected '.*', got '99"):
        worker.Labeller(finished.out_dir, records_dir, teacher_dir)


def test_verify_names_what_is_missing_extra_damaged_or_of_another_pass(tmp_path, finished, records_dir):
    out = shutil.copytree(finished.out_dir, tmp_path / "out")
    folder = out / labels.UNIT_FOLDER
    names = sorted(path.name for path in folder.iterdir())
    shutil.copy(folder / names[1], folder / "00009999.arrayrecord")
    (folder / "notes.txt").write_text("")
    shutil.copy(folder / names[1], folder / names[0])
    data = bytearray((folder / names[2]).read_bytes())
    data[1000] ^= 1
    (folder / names[2]).write_bytes(data)
    (folder / names[1]).write_bytes(b"")
    errors = "\n".join(verify_lib.verify(out, records_dir).errors)
    for name in (*names[:3], "00009999.arrayrecord: not planned", "notes.txt: not planned"):
        assert name in errors
    (folder / names[1]).unlink()
    with pytest.raises(ValueError, match=r"1 of \d+ units are not labelled, the first is 1"):
        labels.open_labels(out)
    assert f"{names[1]}: unit 1 is missing" in "\n".join(verify_lib.verify(out, records_dir).errors)


def test_labels_of_other_records_are_refused(tmp_path, finished, helpers):
    helpers.write_records(tmp_path, helpers.make_runs({"a": ((0, 4),)}))
    with pytest.raises(ValueError, match="the labels are not of"):
        labels.open_labels(finished.out_dir, records.open_records(tmp_path))


def test_opened_labels_can_be_pickled_and_checked_for_bounds(finished):
    opened = labels.open_labels(finished.out_dir)
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again[5].joints_headset_m, opened[5].joints_headset_m)
    with pytest.raises(IndexError):
        opened[len(opened)]


def test_the_index_engine_labels_disjoint_parts(tmp_path, finished, records_dir, teacher_dir, monkeypatch):
    out = planned(finished, tmp_path / "out")
    monkeypatch.setattr(worker, "Labeller", lambda *_: at(finished.labeller, epath.Path(out)))
    command = ["run", "--data", str(records_dir), "--checkpoint", str(teacher_dir), "--out", str(out)]
    assert pseudo_label.main([*command, "--engine", "index", "--index", "0", "--count", "2"]) == 0
    units = finished.plan.num_units
    assert labels.published_units(out, units) == set(range(0, units, 2))
    assert pseudo_label.main(["verify", "--data", str(records_dir), "--out", str(out)]) == exits.ERROR
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert pseudo_label.main([*command, "--engine", "index"]) == exits.USAGE
    assert pseudo_label.main([*command, "--engine", "index", "--count", "2"]) == 0
    assert pseudo_label.main([*command, "--engine", "index", "--count", "99"]) == 0, "a share of one unit"
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "98")
    assert pseudo_label.main([*command, "--engine", "index", "--count", "99"]) == 0, "a share of none"
    assert files(out) == files(finished.out_dir)
    assert pseudo_label.main(["verify", "--data", str(records_dir), "--out", str(out)]) == 0


@pytest.mark.extras
def test_parquet_of_a_pass_has_every_row(tmp_path, finished, records_dir):
    parquet = pytest.importorskip("pyarrow.parquet")
    verify_lib.verify(finished.out_dir, records_dir, tmp_path)
    opened = labels.open_labels(finished.out_dir)
    table = parquet.read_table(tmp_path)
    assert table["record"].to_pylist() == [i for i in range(len(opened)) for _ in range(opened[i].num_frames)]
    joints_m = np.concatenate([opened[i].joints_headset_m for i in range(len(opened))])
    np.testing.assert_array_equal(np.reshape(table["joints_headset_m"].to_pylist(), joints_m.shape), joints_m)
