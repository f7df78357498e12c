"""Synthetic people seen by any headset: files that the reader of recordings reads, and rendering in the loop."""

import dataclasses
import itertools
import pathlib

import jax
import numpy as np
import own_rigs
import pytest

from epfv2_jax.data import images, records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.pipeline import DataConfig
from epfv2_jax.data.readers import recording
from epfv2_jax.data.synthetic import renderer, rigs, stream, writer
from epfv2_jax.data.synthetic import sequence as sequence_lib
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.geometry import cameras

CONFIG = SyntheticConfig(seed=3, train_sequences=2, validation_sequences=1, test_sequences=0, frames=8, image_width=20)
SIZE = (20, 24)


@pytest.fixture(scope="module")
def rig_files(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Calibration files, `six` and `two`."""
    return own_rigs.write(tmp_path_factory.mktemp("rigs"))


@pytest.fixture(scope="module", params=["six", "two"])
def dataset(request, rig_files, tmp_path_factory):
    """A data set seen by a rig: its folder, its configuration and the figures."""
    directory = tmp_path_factory.mktemp(request.param)
    config = dataclasses.replace(CONFIG, rig=str(rig_files[request.param]))
    return directory, config, writer.write_dataset(config, directory, progress=False)


def test_recordings_hold_the_people_as_the_rig_sees_them(dataset):
    directory, config, figures = dataset
    headset = rigs.open_headset(config.rig)
    reader = recording.Recording(directory)
    found = reader.find_sequences()
    assert [(f.split, f.sequence) for f in found] == [
        ("train", "synthetic_train_00000"),
        ("train", "synthetic_train_00001"),
        ("validation", "synthetic_validation_00000"),
    ]
    assert reader.layout.view_names == headset.layout.view_names
    assert reader.layout.upright_turns == headset.layout.upright_turns and reader.layout.mirror == headset.layout.mirror
    assert reader.camera_model == headset.rig.cameras.model
    stored = headset.scaled(config.image_width)
    description = recording.read_headset(directory / recording.HEADSET_NAME)
    rig, _ = recording.rig_of(description, recording.cameras_of(found[0], description))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), rig, stored)
    expected = sequence_lib.sample_sequence(config, "train", 0)
    grey, _ = sequence_lib.render_sequence(expected, stored, renderer.make_rays(stored))
    for v, pictures in enumerate(grey):
        folder = found[0].folder / f"cam{v}"
        rows = (folder / "data.csv").read_text().splitlines()[1:]
        assert len(rows) == config.frames
        image = images.decode_grey((folder / "data" / rows[5].split(",")[1]).read_bytes())
        assert np.abs(image.astype(int) - pictures[5].astype(int)).mean() < 6  # JPEG of a noisy image
    assert 0 <= figures["lens_refit_px"] < 0.5
    assert all(f"joints_in_{name}" in figures for name in headset.layout.view_names)
    assert max(figures[f"joints_in_{name}"] for name in headset.layout.view_names) > 8


def test_records_are_what_is_rendered_in_the_loop(dataset, tmp_path):
    """Poses, joints and cameras of the converted recordings are those of the sequences."""
    directory, config, _ = dataset
    conversion.convert(directory, tmp_path, ConversionConfig(reader="recording", image_size_hw=SIZE))
    split = records.open_records(tmp_path / "train")
    headset = rigs.open_headset(config.rig)
    assert split.manifest.report["summary"]["sequences_quarantined"] == []
    assert (split.camera_model, split.num_views) == (headset.rig.cameras.model, headset.layout.num_views)
    assert split.frame_s == pytest.approx(1 / 30, abs=1e-6)
    run, expected = split[0], sequence_lib.sample_sequence(config, "train", 0)
    np.testing.assert_allclose(run.T_world_headset, expected.T_world_headset, atol=1e-5)
    np.testing.assert_allclose(run.joints_world_m, expected.joints_world_m, atol=1e-5)
    assert run.joint_valid.all() and run.view_valid.all()
    upright = headset.upright(SIZE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), run.rig, upright)
    # The loop shows other people with the same cameras.
    data = DataConfig(source="synthetic", clip_frames=2, batch_size=2, read_threads=0)
    (unpainted,) = itertools.islice(stream.unpainted_batches(config, data, SIZE), 1)
    batch = jax.jit(stream.Painter(SIZE, config.rig))(unpainted)
    assert batch.frames.images.shape == (2, 2, headset.layout.num_views, *SIZE)
    assert batch.frames.rig.cameras.model == run.rig.cameras.model
    np.testing.assert_allclose(batch.frames.rig.T_cam_headset[0], upright.T_cam_headset, atol=1e-6)
    for v in range(headset.layout.num_views):
        assert np.asarray(batch.frames.images)[:, :, v].std() > 10


def test_files_are_the_same_byte_for_byte_and_resumed(dataset, tmp_path):
    directory, config, _ = dataset
    first = writer.write_dataset(dataclasses.replace(config, validation_sequences=0), tmp_path / "part", progress=False)
    assert first["sequences_made"] == 2
    for path in (tmp_path / "part").rglob("*"):
        if path.is_file() and path.name != "synthetic.json":
            assert path.read_bytes() == (directory / path.relative_to(tmp_path / "part")).read_bytes(), path
    assert writer.write_dataset(config, directory, progress=False)["sequences_found"] == 3


def test_another_rig_is_refused_in_the_same_directory(dataset, rig_files):
    directory, config, _ = dataset
    (other,) = {str(path) for path in rig_files.values()} - {config.rig}
    with pytest.raises(ValueError, match=r"synthetic.json: made with rig = .*; give another directory"):
        writer.write_dataset(dataclasses.replace(config, rig=other), directory, progress=False)
    with pytest.raises(ValueError, match="made with rig"):
        writer.write_dataset(CONFIG, directory, progress=False)


def test_rigs_are_found_by_calibration_headset_and_folder(rig_files, tmp_path):
    calibration = rig_files["six"]
    expected = rigs.open_headset(calibration)
    for path in (calibration.parent, calibration.parent / "headset.yaml"):
        found = rigs.open_headset(path)
        assert found.layout == expected.layout and found.sha256 == expected.sha256
    assert rigs.open_headset(rig_files["two"]).sha256 != expected.sha256
    # A calibration alone does not say where the head is.
    (tmp_path / "camchain.yaml").write_text(calibration.read_text())
    for path in (tmp_path / "camchain.yaml", tmp_path, tmp_path / "headset.yaml"):
        with pytest.raises(ValueError, match=r"headset.yaml: no such file; .* Begin with") as error:
            rigs.open_headset(path)
    template = str(error.value).partition("Begin with\n")[2]
    (tmp_path / "headset.yaml").write_text(template)
    assert rigs.open_headset(tmp_path / "camchain.yaml").layout.view_names == tuple(f"cam{i}" for i in range(6))


def test_a_scaled_rig_sees_the_scaled_image(rig_files):
    headset = rigs.open_headset(rig_files["six"])
    scaled = headset.scaled(40)
    np.testing.assert_array_equal(scaled.cameras.size_px, [[40, 30]] * 6)
    points = np.random.default_rng(0).normal(size=(6, 50, 3)).astype(np.float32)
    points[..., 2] = np.abs(points[..., 2]) + 0.3
    uv, valid = cameras.project(headset.rig.cameras, points)
    small, small_valid = cameras.project(scaled.cameras, points)
    np.testing.assert_array_equal(valid, small_valid)
    np.testing.assert_allclose((np.asarray(uv) + 0.5) / 16 - 0.5, small, atol=2e-3)


def test_real_rigs_see_people(shared_data):
    """Aria's SLAM cameras, as an excerpt of a public recording gives them."""
    headset = rigs.open_headset(shared_data / "aria_adt_asl")
    assert headset.layout.view_names == ("left", "right") and headset.refit_px == 0
    config = dataclasses.replace(CONFIG, frames=2)
    expected = sequence_lib.sample_sequence(config, "train", 0)
    rig = headset.scaled(32)
    grey, _ = sequence_lib.render_sequence(expected, rig, renderer.make_rays(rig))
    assert [image.shape for image in grey] == [(2, 24, 32)] * 2 and all(image.std() > 10 for image in grey)
