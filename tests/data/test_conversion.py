import dataclasses
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from epfv2_jax import calibrate, convert
from epfv2_jax.core import exits, tasks
from epfv2_jax.data import images, pipeline, records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion import report as report_lib
from epfv2_jax.data.readers import base, egobody3m
from epfv2_jax.data.readers.egobody3m import reader as egobody3m_reader
from epfv2_jax.geometry import cameras

CONFIG = conversion.ConversionConfig(image_size_hw=(40, 32), record_frames=4)
#: For sequences of two frames: too few to fit the cameras, which takes the most time.
SHORT = conversion.ConversionConfig(image_size_hw=(40, 32), record_frames=1, doubtful="keep")


@pytest.fixture
def zips(tmp_path):
    return tmp_path / "zips"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def digests(folder):
    """Of all files but those in the hidden folders that a killed process may leave."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.parent.name.startswith(".")
    }


def report_of(out, sequence="100", split="train"):
    reports = records.read_manifest(out / split).report["sequences"]
    (report,) = [r for r in reports if r["sequence"] == sequence]
    return report


def test_records_hold_what_the_zips_hold(new_sequence, zips, out):
    writer = new_sequence()
    writer.write()
    summary = conversion.convert(zips, out, CONFIG)
    assert summary["train"] == {
        "sequences": 1,
        "sequences_kept": 1,
        "sequences_quarantined": [],
        "frames": 12,
        "frames_kept": 12,
        "frames_quarantined": 0,
        "frames_by_level": {"0": 6, "1": 6},
        "frames_kept_by_level": {"0": 6, "1": 6},
        "views_missing": 0,
        "records": 3,
    }
    assert records.verify(out / "train").report["summary"] == summary["train"]
    split = records.open_records(out / "train")
    assert [(e.first_frame, e.num_frames) for e in split.entries] == [(0, 4), (4, 4), (8, 4)]
    run = split[1]
    pictures, valid = records.decode_images(run)
    assert valid.all() and pictures.shape == (4, 4, 40, 32)
    for i, frame in enumerate(run.frame_index):
        for view in range(4):
            stored = images.decode_grey(writer.jpegs[int(frame), view])
            expected = images.resize(np.rot90(stored, -1), (40, 32))
            assert np.abs(pictures[i, view].astype(int) - expected).max() <= 4  # one more JPEG


def test_projected_joints_land_on_the_turned_pixels(new_sequence, zips, out):
    """The camera in the record sees a joint where the stored pixel goes when its image is turned and resized."""
    writer = new_sequence()
    writer.write()
    conversion.convert(zips, out, CONFIG)
    run = records.open_records(out / "train")[0]
    for i, frame in enumerate(run.frame_index):
        W = run.T_world_headset[i].astype(np.float64)
        joints_headset_m = (run.joints_world_m[i] - W[:3, 3]) @ W[:3, :3]
        T = np.asarray(run.rig.T_cam_headset)
        joints_cam_m = np.einsum("vij,nj->vni", T[:, :3, :3], joints_headset_m) + T[:, None, :3, 3]
        uv_px, valid = cameras.project(run.rig.cameras, joints_cam_m.astype(np.float32))
        for view in range(4):
            width, height = ((64, 48), (128, 102), (128, 102), (64, 48))[view]
            stored = np.array(writer.fields[int(frame)][f"projected_joint_positions_cam{view}_px"])
            column, row = height - 1 - stored[:, 1], stored[:, 0]
            expected = np.stack([(column + 0.5) * 32 / height - 0.5, (row + 0.5) * 40 / width - 0.5], axis=-1)
            seen = np.asarray(valid[view])
            assert seen.any()
            np.testing.assert_allclose(np.asarray(uv_px)[view][seen], expected[seen], atol=2e-3)


def test_gaps_and_bad_frames_split_runs(new_sequence, zips, out):
    writer = new_sequence(frames=(*range(6), *range(8, 15)))
    writer.fields[2]["joint_positions_world_cm"].pop()
    writer.fields[4]["world_from_headset_xf_cm"][0][0] = float("nan")
    writer.fields[10] = b"{"
    writer.fields[14]["world_from_headset_xf_cm"][0][0] += 0.2
    writer.write()
    conversion.convert(zips, out, CONFIG)
    split = records.open_records(out / "train")
    assert [(e.first_frame, e.num_frames) for e in split.entries] == [(0, 2), (3, 1), (5, 1), (8, 2), (11, 3)]
    report = report_of(out)
    assert (report["num_frames"], report["num_kept"]) == (13, 9)
    reasons = {q["frame"]: q["reason"] for q in report["quarantined_frames"]}
    assert list(reasons) == [2, 4, 10, 14]
    for frame, text in (
        (2, "joint_positions_world_cm: expected (26, 3) number, got (25, 3)"),
        (4, "world_from_headset_xf_cm[0, 0] is nan"),
        (10, "not valid JSON"),
        (14, "not orthonormal"),
    ):
        assert text in reasons[frame] and f"100/frame{frame:04d}.json" in reasons[frame]


def test_bad_images_cost_their_view_only(new_sequence, zips, out, bomb_jpeg):
    writer = new_sequence()
    del writer.jpegs[1, 0]
    writer.jpegs[2, 1] = writer.jpegs[2, 1][: len(writer.jpegs[2, 1]) // 2]
    writer.jpegs[3, 2] = bomb_jpeg
    writer.jpegs[5, 3] = images.encode_grey(np.zeros((20, 20), np.uint8))
    writer.write()
    summary = conversion.convert(zips, out, CONFIG)
    assert (summary["train"]["frames_kept"], summary["train"]["views_missing"]) == (12, 4)
    bad = {(b["frame"], b["view"]): b["reason"] for b in report_of(out)["bad_views"]}
    assert list(bad) == [(1, 0), (2, 1), (3, 2), (5, 3)]
    for key, text in zip(bad, ("missing", "damaged", "65500x65500", "(20, 20)"), strict=True):
        assert text in bad[key]
    split = records.open_records(out / "train")
    invalid = [(int(r.frame_index[i]), int(v)) for r in split for i, v in np.argwhere(~r.view_valid)]
    assert invalid == list(bad)


def test_bad_sequences_are_quarantined_by_name(new_sequence, zips, out):
    for sequence in ("1", "2", "3", "4", "5"):
        writer = new_sequence(sequence)
        if sequence == "2":
            writer.extra = {"../x.json": b"{}"}
        if sequence == "3":
            writer.jpegs = {}
        if sequence == "5":
            for fields in writer.fields.values():
                fields["projected_joint_positions_cam1_px"][:] = [[5.0, 5.0, -1.0]] * 26
        writer.write()
    (zips / "train" / "4.images.zip").unlink()
    summary = conversion.convert(zips, out, CONFIG)["train"]
    assert summary["sequences_quarantined"] == ["2", "3", "4", "5"]
    assert {e.sequence for e in records.open_records(out / "train").entries} == {"1"}
    for sequence, text in (
        ("2", "outside its folder"),
        ("3", "readable images: there are none"),
        ("4", "no such file"),
    ):
        assert text in report_of(out, sequence)["quarantined"]
    reason = report_of(out, "5")["quarantined"]
    assert "calibration of camera 1 is poor: 0 pairs" in reason and "'keep'" in reason

    # When the missing zip has come, only its sequence is converted.
    new_sequence("4").write()
    before = digests(out / "train")
    conversion.convert(zips, out, CONFIG)
    after = digests(out / "train")
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"4.arrayrecord", "sequences/4.json", "manifest.json"}


def test_a_source_of_the_same_size_but_another_content_is_converted_again(new_sequence, zips, out):
    new_sequence("1", range(2)).write()
    new_sequence("2", range(2), seed=2).write()
    good = (zips / "train" / "1.images.zip").read_bytes()
    hole = good[: len(good) // 3] + bytes(len(good) // 3) + good[2 * (len(good) // 3) :]  # as of a parallel download
    (zips / "train" / "1.images.zip").write_bytes(hole)
    conversion.convert(zips, out, SHORT)
    assert report_of(out, "1")["num_bad_views"] > 0
    untouched = (out / "train" / "2.arrayrecord").stat().st_mtime_ns

    (zips / "train" / "1.images.zip").write_bytes(good)
    os.utime(zips / "train" / "1.images.zip", ns=(0, 0))  # a download may keep the server's time
    conversion.convert(zips, out, SHORT)
    assert report_of(out, "1")["num_bad_views"] == 0
    assert (out / "train" / "2.arrayrecord").stat().st_mtime_ns == untouched


def test_a_copied_or_touched_source_is_not_converted_again(new_sequence, zips, out, monkeypatch):
    new_sequence("1", range(2)).write()
    conversion.convert(zips, out, SHORT)
    before = (out / "train" / "1.arrayrecord").stat().st_mtime_ns
    for path in (zips / "train").iterdir():
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
    conversion.convert(zips, out, SHORT)  # compares contents, and remembers
    assert (out / "train" / "1.arrayrecord").stat().st_mtime_ns == before
    monkeypatch.setattr(report_lib, "source_files", None)  # not called again
    conversion.convert(zips, out, SHORT)


def test_a_report_that_was_changed_is_made_again(new_sequence, zips, out, caplog):
    new_sequence(frames=range(2)).write()
    conversion.convert(zips, out, SHORT)
    path, before = out / "train" / "sequences" / "100.json", digests(out / "train")
    content = json.loads(path.read_text())
    for change, message in (
        ({"num_frames": 999}, "sha256 of the rest of the content"),
        ({"levels": {"x": 1}}, "sha256 of the rest of the content"),
        ({"levels": {"0": "six"}}, "levels.0: expected int, got 'six'"),
        ({"num_kept": -1}, "num_kept: must be at least 0"),
    ):
        caplog.clear()
        path.write_text(json.dumps({**content, **change}))
        conversion.convert(zips, out, SHORT)
        assert digests(out / "train") == before
        assert f"train/100 is converted again: {path}: {message}" in caplog.text


def test_damaged_settings_are_refused_by_file_and_field(new_sequence, zips, out):
    new_sequence(frames=range(2)).write()
    conversion.convert(zips, out, SHORT)
    path = out / "conversion.json"
    for content, message in (
        ("[]", "content: expected a JSON object"),
        ('{"levels": 3}', "levels: expected a sequence"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"^{path}: {message}.*; choose another folder or delete this one"):
            conversion.convert(zips, out, SHORT)


def test_doubtful_can_be_kept(new_sequence, zips, out):
    new_sequence(frames=range(2)).write()
    assert conversion.convert(zips, out, SHORT)["train"]["frames_kept"] == 2
    verdicts = [c["verdict"] for c in report_of(out)["calibration"]]
    assert any("60 are needed" in verdict for verdict in verdicts)
    run = records.open_records(out / "train")[0]
    assert run.image_size_hw == (40, 32) and all(np.isfinite(x).all() for x in jax.tree.leaves(run.rig))


def resized(writer, factor):
    writer.jpegs = {
        (f, v): images.encode_grey(images.resize(images.decode_grey(jpeg), (round(102 * factor), round(128 * factor))))
        for (f, v), jpeg in writer.jpegs.items()
        if v in (1, 2)
    } | {(f, v): jpeg for (f, v), jpeg in writer.jpegs.items() if v not in (1, 2)}


def turned_images(writer):
    writer.jpegs = {
        place: images.encode_grey(np.rot90(images.decode_grey(jpeg))) for place, jpeg in writer.jpegs.items()
    }


def other_labels(change):
    """Moves the world of a sequence: poses and joints, whose projections stay."""

    def spoil(writer):
        for fields in writer.fields.values():
            pose, joints = (np.array(fields[k]) for k in ("world_from_headset_xf_cm", "joint_positions_world_cm"))
            fields["world_from_headset_xf_cm"] = (change @ pose).tolist()
            fields["joint_positions_world_cm"] = (joints @ change[:3, :3].T + change[:3, 3]).tolist()

    return spoil


Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
FAR_UP = np.eye(4) + np.array([[0, 0, 0, 0], [0, 0, 0, 5e4], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda w: resized(w, 0.5), r"camera 1 is poor: .*the images \(64x51\) have been resized"),
        (lambda w: resized(w, 2), r"camera 1 is poor: .*the images \(256x204\) have been resized"),
        (turned_images, r"camera 0 is poor: .*the images \(48x64\) have been resized, cropped or turned"),
        (other_labels(Z_UP), "implausible: the body stands along z of the world"),
        (other_labels(FAR_UP), "implausible: T_world_headset: the headset is 501.* m above the floor"),
    ],
)
def test_what_cannot_be_true_is_quarantined(new_sequence, zips, out, spoil, reason):
    spoilt = new_sequence(seed=1)
    spoil(spoilt)
    spoilt.write()
    conversion.convert(zips, out, CONFIG)
    report = report_of(out)
    assert re.search(reason, report["quarantined"]), report["quarantined"]
    assert "doubtful = 'keep' would use it" in report["quarantined"]


def test_images_that_hold_few_joints_are_quarantined(new_sequence, zips, out, monkeypatch):
    writer = new_sequence()
    writer.write()
    report = json.loads(conversion_report(out, conversion.convert(zips, out, CONFIG)))
    for v, (width, height) in enumerate(((64, 48), (128, 102), (128, 102), (64, 48))):
        u, w, z = np.moveaxis(
            np.array([f[f"projected_joint_positions_cam{v}_px"] for f in writer.fields.values()]), -1, 0
        )
        inside = (u > -0.5) & (u < width - 0.5) & (w > -0.5) & (w < height - 0.5) & (z > 0)
        assert report["calibration"][v]["visible_share"] == pytest.approx(inside.mean(), abs=1e-4)
        assert 0.05 < inside.mean() < 0.9
    monkeypatch.setattr(egobody3m_reader, "_MIN_VISIBLE_SHARE", 0.9)
    report = json.loads(conversion_report(out / "again", conversion.convert(zips, out / "again", CONFIG)))
    assert re.match(r"only [0-9.]+% of the joints fall into any image", report["quarantined"])


def conversion_report(out, summary):
    """The text of the only sequence's report."""
    assert summary["train"]["sequences"] == 1
    return (out / "train" / "sequences" / "100.json").read_text()


def test_level_filter_is_counted(new_sequence, zips, out):
    new_sequence().write()
    config = conversion.ConversionConfig(image_size_hw=(40, 32), levels=(1,), doubtful="keep")
    summary = conversion.convert(zips, out, config)["train"]
    assert (summary["frames"], summary["frames_kept"], summary["frames_quarantined"]) == (12, 6, 0)
    assert summary["frames_by_level"] == {"0": 6, "1": 6}
    assert summary["frames_kept_by_level"] == {"0": 0, "1": 6}
    assert [e.num_frames for e in records.open_records(out / "train").entries] == [1] * 6


def test_nothing_of_the_level(new_sequence, zips, out):
    new_sequence().write()
    conversion.convert(zips, out, conversion.ConversionConfig(levels=(3,)))
    assert report_of(out)["quarantined"] == "readable frames of the chosen levels: there are none; levels found: 0, 1"
    with pytest.raises(ValueError, match=r"records of split 'train': there are none; 'report' in manifest\.json says"):
        records.open_records(out / "train")


def test_a_conversion_goes_on_where_it_stopped(new_sequence, zips, out, tmp_path):
    for seed, sequence in enumerate(("1", "2", "3")):
        new_sequence(sequence, range(2), seed=seed).write()
    conversion.convert(zips, tmp_path / "whole", SHORT)

    class StoppedError(Exception):
        pass

    def stop(done, total, report):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        conversion.convert(zips, out, SHORT, progress=stop)
    assert not (out / "train" / records.MANIFEST_NAME).exists()
    (out / "train" / "2.arrayrecord").write_bytes(b"")  # cut by the failing machine
    (out / "train" / "3.arrayrecord.tmp").write_bytes(b"half")
    done = (out / "train" / "1.arrayrecord").stat().st_mtime_ns
    conversion.convert(zips, out, SHORT)
    assert (out / "train" / "1.arrayrecord").stat().st_mtime_ns == done
    assert digests(out) == digests(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_any_time_and_restarted_gives_the_same_bytes(new_sequence, zips, out, tmp_path):
    for seed in range(4):
        new_sequence(str(seed), range(40), seed=seed).write()
    conversion.convert(zips, tmp_path / "whole", conversion.ConversionConfig(image_size_hw=(64, 64)))
    command = [sys.executable, "-m", "epfv2_jax.convert", "--source", zips, "--out", out, "--image_size", "64"]
    for shards in (0, 1, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.rglob("*.arrayrecord"))) < shards:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert digests(out) == digests(tmp_path / "whole")


def test_shares_give_the_same_bytes_and_the_last_writes_the_manifest(new_sequence, zips, out, tmp_path):
    for seed, split in enumerate(("train", "train", "test")):
        new_sequence(str(seed), range(2), split, seed).write()
    whole = conversion.convert(zips, tmp_path / "whole", SHORT)
    counts = []
    shares = [tasks.Engine(index=index, count=2) for index in range(2)]
    first = conversion.convert(zips, out, SHORT, engine=shares[0], progress=lambda *c: counts.append(c[:2]))
    assert first is None and counts == [(1, 2), (2, 2)]
    assert not list(out.rglob(records.MANIFEST_NAME))
    assert conversion.convert(zips, out, SHORT, engine=shares[1]) == whole
    assert digests(out) == digests(tmp_path / "whole")
    assert conversion.convert(zips, out, SHORT, engine=shares[0]) == whole  # finds everything done


def test_another_config_is_refused(new_sequence, zips, out):
    new_sequence(frames=range(2)).write()
    conversion.convert(zips, out, SHORT)
    with pytest.raises(ValueError, match=r"record_frames: 1 there, 8 asked\); choose another folder"):
        conversion.convert(zips, out, dataclasses.replace(SHORT, record_frames=8))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"image_size_hw": (8, 256)}, r"image_size_hw\[0\]: must be in \[16, 2048\], got 8"),
        ({"levels": ()}, "levels: there are none; give some, or None for all"),
        ({"record_frames": 0}, r"record_frames: must be in \[1, 4096\], got 0"),
        ({"jpeg_quality": 101}, r"jpeg_quality: must be in \[1, 100\], got 101"),
    ],
)
def test_bad_config(values, message):
    with pytest.raises(ValueError, match=message):
        conversion.ConversionConfig(**values)


def test_config_is_light():
    """The defaults are read without JAX and without a reader."""
    code = (
        "import sys; from epfv2_jax.data.conversion import config; config.ConversionConfig();"
        "assert not {'jax', 'epfv2_jax.data.readers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_that_does_not_exist(zips, out):
    config = conversion.ConversionConfig(reader="egobody")
    with pytest.raises(ValueError, match=r"reader: 'egobody' is not one of .*did you mean egobody3m"):
        conversion.convert(zips, out, config)


def test_a_conversion_whose_config_lacks_a_newer_field_goes_on(new_sequence, zips, out):
    new_sequence(frames=range(2)).write()
    conversion.convert(zips, out, SHORT)
    path = out / "conversion.json"
    content = json.loads(path.read_text())
    del content["reader"]
    path.write_text(json.dumps(content))
    (out / "train" / records.MANIFEST_NAME).write_text('{"version": 1}')
    done = (out / "train" / "100.arrayrecord").stat().st_mtime_ns
    conversion.convert(zips, out, SHORT)
    assert (out / "train" / "100.arrayrecord").stat().st_mtime_ns == done
    assert records.open_records(out / "train").num_frames == 2


def test_a_conversion_to_older_records_is_refused(new_sequence, zips, out):
    """Its shards cannot be read, so they are not done."""
    new_sequence(frames=range(2)).write()
    conversion.convert(zips, out, SHORT)
    path = out / "conversion.json"
    content = json.loads(path.read_text())
    del content["record_version"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"\(record_version: 1 there, 2 asked\); choose another folder or delete"):
        conversion.convert(zips, out, SHORT)


def test_records_know_the_time_of_their_frames(new_sequence, zips, out):
    """The release says nothing of time: 30 frames a second. Dropped frames do not shift the later ones."""
    new_sequence(frames=(*range(3), *range(5, 9))).write()
    conversion.convert(zips, out, dataclasses.replace(CONFIG, doubtful="keep"))  # too few frames to calibrate
    split = records.open_records(out / "train")
    assert split.frame_s == 1 / 30
    found = np.concatenate([split[i].time_s for i in range(len(split))])
    np.testing.assert_allclose(found, np.array([0, 1, 2, 5, 6, 7, 8]) / 30, rtol=1e-12)


def test_zips_that_state_a_frame_time_are_read_at_it(new_sequence, zips, out):
    """The first sequence gives the nominal frame time; one whose frames come faster does not belong to the data set."""
    for sequence, frame_s in (("1", 0.1), ("2", 0.2), ("3", 0.02)):
        writer = new_sequence(sequence, frames=range(4), seed=int(sequence))
        for fields in writer.fields.values():
            fields["frame_s"] = frame_s
        writer.write()
    config = dataclasses.replace(CONFIG, doubtful="keep")
    summary = conversion.convert(zips, out, config)["train"]
    assert summary["sequences_quarantined"] == ["3"]
    reason = report_of(out, "3")["quarantined"]
    assert reason == "frame 0: frame time 0.02 s instead of 0.1 s as the reader 'egobody3m' declares"
    split = records.open_records(out / "train")
    assert split.frame_s == 0.1
    np.testing.assert_allclose(split[1].time_s, [0, 0.2, 0.4, 0.6])
    (batch,) = pipeline.eval_batches(split, 4, batch_size=2, read_threads=0)
    np.testing.assert_array_equal(batch.frames.frame_gap, [[1, 1, 1, 1], [1, 2, 2, 2]])


def test_split_runs_tile_the_frames():
    rng = np.random.default_rng(0)
    for _ in range(50):
        frame_index = np.unique(rng.integers(0, 60, 40))
        parts = base.split_runs(frame_index, 5)
        np.testing.assert_array_equal(np.concatenate([frame_index[p] for p in parts]), frame_index)
        for part in parts:
            assert 1 <= len(frame_index[part]) <= 5 and (np.diff(frame_index[part]) == 1).all()
        # Only full parts touch their successor.
        for a, b in itertools.pairwise(parts):
            if frame_index[b][0] - frame_index[a][-1] == 1:
                assert len(frame_index[a]) == 5


def test_summary_is_json(new_sequence, zips, out):
    new_sequence(frames=range(2), split="validation").write()
    json.dumps(conversion.convert(zips, out, SHORT))
    assert records.read_manifest(out / "validation").split == "validation"
    assert [f.split for f in egobody3m.find_sequences(zips)] == ["validation"]


def test_command_lines(new_sequence, zips, out, monkeypatch, capsys):
    new_sequence().write()
    (zips / "train" / "200.images.zip").touch()
    monkeypatch.setattr(sys, "argv", ["calibrate", "--source", str(zips)])
    calibrate.main()
    printed = capsys.readouterr().out
    assert printed.count(": good") == 4 and "train/200" in printed and "200.metadata.zip: no such file" in printed

    arguments = ["convert", "--source", str(zips), "--out", str(out), "--image_size", "32", "--levels", "0,1"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert convert.main() == exits.PARTIAL  # one of the two sequences is left out
    assert '"frames_kept": 12' in capsys.readouterr().out
    assert records.open_records(out / "train").image_size_hw == (32, 32)

    monkeypatch.setattr(sys, "argv", [*arguments[:-1], "best"])
    with pytest.raises(SystemExit):
        convert.main()
    assert "argument --levels: 'best', expected levels such as 0 or 0,1" in capsys.readouterr().err
