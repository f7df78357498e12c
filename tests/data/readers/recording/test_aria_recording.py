"""A real recording, three time steps of Aria Digital Twin: its lenses, conversion, and a stream on its records."""

import numpy as np
import pytest
import yaml

from epfv2_jax import checkpoints, convert, demo, validate
from epfv2_jax.core import config as config_lib
from epfv2_jax.data import pipeline, records
from epfv2_jax.data.readers import recording
from epfv2_jax.geometry import cameras
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes

MODEL = EPFv2Config(encoder="tiny", body="keypoints", width=16, heads=2, ffn_width=16, head_width=16, window=3)


@pytest.fixture(scope="module")
def aria(shared_data):
    return shared_data / "aria_adt_asl"


@pytest.mark.extras
def test_pixels_are_those_of_project_aria(aria):
    library = pytest.importorskip("projectaria_tools.core.calibration")
    (files,) = recording.find_sequences(aria)
    headset = recording.read_headset(files.nearest(recording.HEADSET_NAME))
    for camera in recording.cameras_of(files, headset):
        sensor = yaml.safe_load((files.folder / camera.name / "sensor.yaml").read_text())
        focal, _, *centre = sensor["intrinsics"]
        parameters = np.array([focal, *centre, *sensor["distortion_coefficients"]])
        reference = library.CameraProjection(library.CameraModelType.FISHEYE624, parameters)
        angle, round_axis = np.random.default_rng(0).uniform((0, 0), (np.deg2rad(77.5), 2 * np.pi), (500, 2)).T
        points = np.stack([np.sin(angle) * np.cos(round_axis), np.sin(angle) * np.sin(round_axis), np.cos(angle)], -1)
        uv, valid = cameras.project(camera.camera, points.astype(np.float32))
        assert np.asarray(valid).all()
        expected = np.stack([reference.project(point) for point in points])
        assert np.abs(np.asarray(uv) - expected).max() < 1e-3
        # Aria's lens ends 330 px from the centre, 78 to 79 degrees from the axis.
        assert np.rad2deg(camera.camera.max_angle_rad) == pytest.approx(78.5, abs=0.6)


def test_validate_convert_and_stream(aria, tmp_path, capsys):
    assert validate.main([str(aria), "--pictures", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().out
    assert "test/adt_apartment_3frames" in printed and "0 sequences have errors" in printed
    names = [f"test_adt_apartment_3frames_{view}.png" for view in ("left", "right")]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == names
    flags = ["--reader", "recording", "--source", str(aria), "--out", str(tmp_path / "records"), "--image_size", "32"]
    assert convert.main(flags) == 0
    split = records.open_records(tmp_path / "records" / "test")
    (run,) = (split[i] for i in range(len(split)))
    assert (run.num_frames, run.num_views, run.joint_valid[0].sum()) == (3, 2, 18)
    assert not run.joint_valid[:, split.skeleton.index("b_spine0")].any()
    assert run.T_world_headset[0, 1, 3] == pytest.approx(1.556, abs=0.01) and split.frame_s == 0.033328
    # A stream on its records.
    batch = next(pipeline.eval_batches(split, 3, batch_size=1, read_threads=0))
    about = checkpoints.About(
        experiment={"model": config_lib.to_mapping(MODEL)},
        skeleton=split.skeleton,
        layout=split.layout,
        image_size_hw=(32, 32),
    )
    model = EPFv2(MODEL, split.skeleton, split.layout)
    writer = checkpoints.CheckpointWriter(tmp_path / "checkpoints", about)
    writer.save_if_best(1, fakes.random_variables(model, batch.frames), 1.0, {})
    writer.close()
    predictor = Predictor.from_checkpoint(tmp_path / "checkpoints")
    state = predictor.start(batch.frames.rig)
    for t in range(3):
        pose, state = predictor.step(state, batch.frames.images[:, t], batch.frames.T_world_headset[:, t])
        assert np.isfinite(pose.joints_world_m).all()
    flags = ["--checkpoint", str(tmp_path / "checkpoints"), "--sequence", str(tmp_path / "records" / "test")]
    assert demo.main([*flags, "--out", str(tmp_path / "aria.gif")]) == 0
    assert "aria.gif: 3 frames, mean joint error" in capsys.readouterr().out
