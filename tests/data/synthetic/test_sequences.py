"""Synthetic data sets: the same bytes every time, resumable, and readable by the reader of EgoBody3M."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from epfv2_jax.core import config as config_lib
from epfv2_jax.core import tasks
from epfv2_jax.data import images
from epfv2_jax.data.calibration import fit as calibration
from epfv2_jax.data.mocap import clip as clips
from epfv2_jax.data.readers import egobody3m
from epfv2_jax.data.synthetic import renderer, rigs, writer
from epfv2_jax.data.synthetic import sequence as sequence_lib
from epfv2_jax.data.synthetic.config import SyntheticConfig

CONFIG = SyntheticConfig(seed=3, train_sequences=2, validation_sequences=1, test_sequences=0, frames=14, image_width=20)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> tuple[pathlib.Path, dict[str, float]]:
    directory = tmp_path_factory.mktemp("synthetic")
    return directory, writer.write_dataset(CONFIG, directory, progress=False)


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
    first, same = (sequence_lib.sample_sequence(config, "train", 1) for config in (CONFIG, more))
    np.testing.assert_array_equal(first.joints_world_m, same.joints_world_m)


def test_lamps_of_the_headset_change_the_light_alone():
    lit = [dataclasses.replace(CONFIG, headset_lamp=(0.5, 2.0)), dataclasses.replace(CONFIG, headset_lamp=(2.0, 2.0))]
    dark, *lit = (sequence_lib.sample_sequence(config, "train", 1) for config in (CONFIG, *lit))
    assert dark.scene.lamp == 0.0 and 0.5 < lit[0].scene.lamp < 2.0 and lit[1].scene.lamp == 2.0
    for other in lit:
        np.testing.assert_array_equal(other.joints_world_m, dark.joints_world_m)
        assert other.noise_seed == dark.noise_seed and other.scene.exposure < dark.scene.exposure
        same = other.scene.replace(lamp=dark.scene.lamp, exposure=dark.scene.exposure)
        jax.tree.map(np.testing.assert_array_equal, same, dark.scene)


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


@pytest.mark.parametrize("stated", [{}, {"clips_per_person": 8}], ids=["now", "before"])
def test_what_concerns_the_loop_alone_is_not_compared(stated, tmp_path):
    """The length of a person's stay in the batches changes no file: another recipe may use the same ones."""
    writer.claim(tmp_path, CONFIG)
    settings = tmp_path / "synthetic.json"
    assert "clips_per_person" not in json.loads(settings.read_text())
    settings.write_text(json.dumps(json.loads(settings.read_text()) | stated))
    writer.claim(tmp_path, dataclasses.replace(CONFIG, clips_per_person=3))
    with pytest.raises(ValueError, match="made with seed = 3, asked for 4"):
        writer.claim(tmp_path, dataclasses.replace(CONFIG, seed=4, clips_per_person=3))


def test_older_files_were_made_without_lamps(tmp_path):
    writer.claim(tmp_path, CONFIG)
    settings = tmp_path / "synthetic.json"
    stated = json.loads(settings.read_text())
    del stated["headset_lamp"]
    settings.write_text(json.dumps(stated))
    writer.claim(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"made with headset_lamp = \[0.0, 0.0\], asked for \[1.0, 5.0\]"):
        writer.claim(tmp_path, dataclasses.replace(CONFIG, headset_lamp=(1.0, 5.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"headset_lamp": (2.0, 1.0)}, r"headset_lamp, the lower end: must be in \[0, 1.0\], got 2.0"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
        ({"test_sequences": -2}, "test_sequences: must be at least 0, got -2"),
        ({"frames": 0}, "frames: must be at least 1, got 0"),
        ({"frame_step": 0}, "frame_step: must be at least 1, got 0"),
        ({"motion_fps": 0.0}, r"motion_fps: must be in \[1, 1000\], got 0\.0"),
        ({"image_width": 30}, "image_width: must be a positive multiple of 20, such as 80 or 640, got 30"),
    ],
)
def test_impossible_settings_name_the_field(change, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**change)


def test_the_configuration_imports_neither_jax_nor_numpy():
    code = "import sys, epfv2_jax.data.synthetic.config; print({'jax', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_real_reader_reads_it_and_its_cameras_calibrate(dataset):
    directory, _ = dataset
    (first, *_) = egobody3m.find_sequences(directory)
    expected = sequence_lib.sample_sequence(CONFIG, "train", 0)
    rig = rigs.open_headset(None).scaled(CONFIG.image_width)
    with egobody3m.SequenceReader(first) as reader:
        assert reader.frames == tuple(range(CONFIG.frames))
        assert reader.view_sizes_px() == [(20, 15), (20, 16), (20, 16), (20, 15)]
        frames = [reader.metadata(frame) for frame in reader.frames]
        image = images.decode_grey(reader.jpeg(2, 1))
    grey, _ = sequence_lib.render_sequence(expected, rig, renderer.make_rays(rig))
    assert np.abs(image.astype(int) - grey[1][2].astype(int)).mean() < 6  # JPEG of a noisy image
    joints = np.stack([f.joints_world_m for f in frames])
    np.testing.assert_allclose(joints, expected.joints_world_m, atol=1e-7)
    T_headset_world = np.linalg.inv(np.stack([f.T_world_headset for f in frames]))
    points = joints @ np.swapaxes(T_headset_world[:, :3, :3], -1, -2) + T_headset_world[:, None, :3, 3]
    uvz = np.stack([f.uvz for f in frames])
    for fit in calibration.calibrate_sequence(points, uvz, np.asarray(rig.cameras.size_px), rig):
        assert fit.rms_px < 1e-3, fit


def test_the_headset_sits_on_the_head(dataset):
    sequence = sequence_lib.sample_sequence(CONFIG, "train", 0)
    head = (
        np.linalg.inv(sequence.T_world_headset)
        @ np.append(sequence.joints_world_m[:, 0], np.ones((CONFIG.frames, 1)), axis=1)[..., None]
    )
    expected = -np.asarray(sequence_lib.HEADSET_FROM_HEAD_M)
    np.testing.assert_allclose(head[:, :3, 0], np.tile(expected, (CONFIG.frames, 1)), atol=1e-5)


def test_zips_hold_no_time_of_day(dataset):
    directory, _ = dataset
    with zipfile.ZipFile(directory / "train" / "synthetic_train_00000.images.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_joints_fall_inside_the_images_as_in_the_real_rig(tmp_path):
    """The calm sample clip has 20 of 26 in a side image and 7 to 8 in a front image; here people also squat and sit."""
    config = SyntheticConfig(train_sequences=24, validation_sequences=0, test_sequences=0, frames=4, image_width=20)
    figures = writer.write_dataset(config, tmp_path, progress=False)
    assert all(16 < figures[f"joints_in_{side}_side"] < 22 for side in ("left", "right"))
    assert all(6 < figures[f"joints_in_{side}_front"] < 13 for side in ("left", "right"))
    assert 0.5 < figures["leg_joints_hidden"] < 0.95
    assert figures["leg_joints_unseen"] < 0.95


def test_real_clips_are_worn_and_cut_into_parts(shared_data, tmp_path):
    files = tuple(str(shared_data / "mocap_cmu" / f"{name}.amc") for name in ("02_01", "02_02"))
    config = dataclasses.replace(
        CONFIG, train_sequences=0, validation_sequences=0, frames=60, train_motion=files, motion_fps=30, image_width=20
    )
    parts = sequence_lib.motion_parts(config, "train")
    assert [pathlib.Path(part.path).stem for part in parts[:2]] == ["02_01", "02_02"]
    for path in files:
        covered = [frame for part in parts if part.path == path for frame in range(part.start, part.stop)]
        total = sequence_lib.load_clip(path, 30).num_frames
        assert len(covered) == len(set(covered)) > total - 8
    sequence = sequence_lib.sample_sequence(config, "train", 0, parts[0])
    assert len(sequence.T_world_headset) == 60
    assert np.quantile(clips.sole_heights(sequence_lib.load_clip(files[0], 30)), 0.1) == pytest.approx(0.0, abs=1e-5)


def test_a_motion_file_without_a_frame_rate_names_the_setting(shared_data, tmp_path):
    path = str(shared_data / "mocap_cmu" / "02_01.amc")
    config = dataclasses.replace(CONFIG, train_motion=(path,))
    with pytest.raises(ValueError, match=r"02_01\.amc: AMC files do not state their frame rate; set motion_fps"):
        writer.write_dataset(config, tmp_path, progress=False)


def test_zips_state_their_frame_time(tmp_path):
    """Every second frame of motion: the reader of EgoBody3M takes the times from the zips."""
    config = dataclasses.replace(CONFIG, train_sequences=1, validation_sequences=0, frames=4, frame_step=2)
    writer.write_dataset(config, tmp_path, progress=False)
    sequences = egobody3m.find_sequences(tmp_path)
    assert egobody3m.EgoBody3M(tmp_path).frame_s(sequences) == pytest.approx(2 / 30)
    with egobody3m.SequenceReader(sequences[0]) as reader:
        np.testing.assert_allclose([reader.metadata(frame).time_s for frame in range(4)], np.arange(4) * 2 / 30)


def test_a_data_set_of_an_older_format_is_refused(tmp_path):
    content = {k: v for k, v in config_lib.to_mapping(CONFIG).items() if k != "motion_fps"}
    (tmp_path / "synthetic.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="made with version = None, asked for 2; give another directory"):
        writer.write_dataset(CONFIG, tmp_path, progress=False)


@pytest.mark.parametrize("content, message", [("3", "content: expected a JSON object"), ("{", "not valid JSON")])
def test_damaged_settings_are_refused_by_their_file(tmp_path, content, message):
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/synthetic\.json: {message}.*; give another directory"):
        writer.write_dataset(CONFIG, tmp_path, progress=False)


def test_a_lower_frame_rate_moves_more_between_images():
    slow = dataclasses.replace(CONFIG, frame_step=4)
    steps = [
        np.linalg.norm(np.diff(sequence_lib.sample_sequence(config, "train", 0).joints_world_m, axis=0), axis=-1).mean()
        for config in (CONFIG, slow)
    ]
    assert steps[1] > 2 * steps[0]
