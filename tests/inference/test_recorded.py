"""Recorded sequences: their predictions are those of clips, from records and raw data alike, in flat memory."""

import dataclasses
import pathlib
import tracemalloc

import jax
import numpy as np
import pytest

from epfv2_jax.data import images, readers, records
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.geometry import layout
from epfv2_jax.geometry.skeleton import EGOBODY3M
from epfv2_jax.inference import recorded
from epfv2_jax.inference.predictor import Predictor
from epfv2_jax.interop import motion as motion_lib
from epfv2_jax.models.epfv2.model import EPFv2, EPFv2Config
from epfv2_jax.testing import fakes

SIZE_HW, F, FRAME_S = (16, 16), 41, 1 / 30
MODEL = EPFv2Config(encoder="tiny", width=16, heads=2, ffn_width=16, head_width=16, window=4)


@pytest.fixture(scope="module")
def batch():
    return fakes.fake_batch(B=1, T=F, image_hw=SIZE_HW)


@pytest.fixture(scope="module")
def predictor(batch):
    model = EPFv2(MODEL, EGOBODY3M, layout.EGOBODY3M)
    return Predictor(model, fakes.random_variables(model, batch.frames), SIZE_HW)


COLUMNS = motion_lib.columns(fakes.J, 4, uncertain=True, body=True)


def run_of(batch, frames: range, sequence="walk", split="test") -> records.FrameRun:
    """These frames of the clip; view 2 of frame 5 has no image."""
    part = slice(frames.start, frames.stop)
    T = batch.frames.T_world_headset[0, part]
    joints_m = batch.targets.joints_headset_m[0, part] @ np.swapaxes(T[:, :3, :3], -1, -2) + T[:, None, :3, 3]
    view_valid = np.ones((len(frames), 4), bool)
    view_valid[[t == 5 for t in frames], 2] = False
    return records.FrameRun(
        sequence=sequence,
        split=split,
        frame_index=np.array(frames, np.int32),
        time_s=np.array(frames) * FRAME_S,
        jpegs=tuple(tuple(map(images.encode_grey, views)) for views in batch.frames.images[0, part]),
        T_world_headset=T,
        joints_world_m=joints_m.astype(np.float32),
        joint_valid=np.ones((len(frames), fakes.J), bool),
        view_valid=view_valid,
        rig=jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float32), batch.frames.rig),
    )


def sequence_of(*runs: records.FrameRun) -> recorded.Sequence:
    return recorded.Sequence(
        name="walk",
        split="test",
        layout=layout.EGOBODY3M,
        frame_s=FRAME_S,
        num_frames=sum(run.num_frames for run in runs),
        runs=lambda: iter(runs),
    )


def predict(predictor, sequence) -> dict[str, np.ndarray]:
    parts = list(recorded.predict(predictor, sequence, COLUMNS))
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}


def clip(predictor, batch, runs):
    """The poses of the frames of runs as one clip."""
    chosen = np.concatenate([run.frame_index for run in runs])
    frames = jax.tree.map(lambda x: np.asarray(x)[:, chosen], batch.frames.replace(rig=None))
    decoded = [records.decode_images(run) for run in runs]
    frames = frames.replace(
        rig=batch.frames.rig,
        images=np.concatenate([pictures for pictures, _ in decoded])[None],
        view_valid=np.concatenate([valid for _, valid in decoded])[None],
        frame_gap=np.diff(chosen, prepend=chosen[0] - 1)[None].astype(np.int32),
    )
    return chosen, jax.tree.map(lambda x: np.asarray(x[0]), predictor.clip(frames))


def test_predictions_are_those_of_the_clip(predictor, batch):
    runs = [run_of(batch, frames) for frames in (range(0, 20), range(20, 22), range(25, F))]
    found = predict(predictor, sequence_of(*runs))
    chosen, pose = clip(predictor, batch, runs)
    np.testing.assert_array_equal(found["frame_index"], chosen)
    np.testing.assert_allclose(found["time_s"], chosen * FRAME_S)
    assert (
        found["frame_valid"].all()
        and not found["view_valid"][5, 2]
        and found["view_valid"].sum() == 4 * len(chosen) - 1
    )
    np.testing.assert_array_equal(found["T_world_headset"], batch.frames.T_world_headset[0, chosen])
    for name, expected in {
        "joints_headset_m": pose.joints_headset_m,
        "joints_world_m": pose.joints_world_m,
        "cholesky_headset_m": pose.distribution.cholesky_m,
        "covariance_world_m2": pose.covariance_world_m2,
        "joint_rotations": pose.body.joint_rotations,
        "bone_scales": pose.body.bone_scales,
    }.items():
        np.testing.assert_allclose(found[name], expected, atol=2e-5, err_msg=name)


def test_a_frame_without_a_pose_has_a_blank_row_and_counts_as_dropped(predictor, batch):
    whole = run_of(batch, range(0, F))
    broken = whole.T_world_headset.copy()
    broken[[7, 8], 0, 0] = np.nan
    broken[16:32] = 0  # a whole chunk
    found = predict(predictor, sequence_of(dataclasses.replace(whole, T_world_headset=broken)))
    bad = np.isin(np.arange(F), [7, 8, *range(16, 32)])
    np.testing.assert_array_equal(found["frame_valid"], ~bad)
    assert np.isnan(found["joints_world_m"][bad]).all() and np.isnan(found["bone_scales"][bad]).all()
    runs = [run_of(batch, frames) for frames in (range(0, 7), range(9, 16), range(32, F))]
    expected = predict(predictor, sequence_of(*runs))
    np.testing.assert_allclose(found["joints_world_m"][~bad], expected["joints_world_m"], atol=2e-5)


def test_a_prediction_that_is_not_finite_has_a_blank_row(predictor, batch):
    last = predictor.variables["params"]
    ruined = jax.tree.map(lambda x: x * np.nan, last)
    broken = Predictor(predictor.model, {**predictor.variables, "params": ruined}, SIZE_HW)
    found = predict(broken, sequence_of(run_of(batch, range(0, 3))))
    assert not found["frame_valid"].any() and np.isnan(found["joints_world_m"]).all()
    np.testing.assert_array_equal(found["frame_index"], range(3))


def test_memory_does_not_grow_with_the_length(predictor, batch, tmp_path):
    run = run_of(batch, range(0, F))

    def peak_bytes(num_runs: int) -> int:
        def runs():
            for i in range(num_runs):
                yield dataclasses.replace(run, frame_index=run.frame_index + i * F, time_s=run.time_s + i * F * FRAME_S)

        sequence = dataclasses.replace(sequence_of(run), runs=runs)
        folder = tmp_path / str(num_runs)
        folder.mkdir()
        about = motion_lib.About(
            sequence="walk",
            split="test",
            skeleton=EGOBODY3M,
            view_names=layout.EGOBODY3M.view_names,
            frame_s=FRAME_S,
            model="epfv2",
            model_step=1,
            model_sha256="",
            degrees_of_freedom=4.0,
        )
        motion = motion_lib.Motion(folder, about, COLUMNS)
        tracemalloc.start()
        for rows in recorded.predict(predictor, sequence, COLUMNS):
            motion.append(rows)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(motion) == num_runs * F
        return peak

    peak_bytes(1)  # compiles
    few, many = peak_bytes(2), peak_bytes(20)
    assert many < few + 300_000  # the rows of 18 more runs take 3.1 MB


class RunsReader:
    """A reader of folders that name a split, with sequences of three runs."""

    skeleton, layout, camera_model = EGOBODY3M, layout.EGOBODY3M, "fisheye"
    batch = None

    def __init__(self, source_dir):
        self.source_dir = pathlib.Path(source_dir)

    def frame_s(self, sequences):
        return FRAME_S

    def find_sequences(self):
        found = [
            Take(sequence=name, split=folder.name, paths=(folder / name,))
            for folder in sorted(self.source_dir.iterdir())
            for name in ("fall", "walk")
        ]
        return found

    def read(self, source, config, report):
        report.num_frames = F
        if source.sequence == "fall":
            raise ValueError("no camera can be calibrated")
        for frames in (range(0, 20), range(20, 22), range(25, F)):
            yield run_of(type(self).batch, frames, source.sequence, source.split)


@dataclasses.dataclass(frozen=True)
class Take:
    sequence: str
    split: str
    paths: tuple[pathlib.Path, ...]


@pytest.fixture
def raw(tmp_path, batch, monkeypatch):
    """A folder of raw data, and how it is read."""
    monkeypatch.setattr(RunsReader, "batch", batch)
    monkeypatch.setitem(readers.READERS, "runs", RunsReader)
    for split in ("test", "train"):
        (tmp_path / "raw" / split).mkdir(parents=True)
    return tmp_path / "raw", ConversionConfig(reader="runs", image_size_hw=SIZE_HW, doubtful="keep")


def test_raw_data_give_what_their_records_give(predictor, raw, tmp_path):
    source, config = raw
    conversion.convert(source, tmp_path / "records", config)
    found = {}
    for path in (source, tmp_path / "records", tmp_path / "records" / "test"):
        (sequence,) = recorded.open_sequences(path, config, split="test", names=("walk",))
        assert (sequence.name, sequence.split, sequence.frame_s) == ("walk", "test", FRAME_S)
        found[path] = predict(predictor, sequence)
    first, *others = found.values()
    for other in others:
        for name in COLUMNS:
            np.testing.assert_array_equal(other[name], first[name])


def test_sequences_are_found_and_chosen(raw, tmp_path):
    source, config = raw
    conversion.convert(source, tmp_path / "records", config)

    def names(path, *choice):
        return [(s.split, s.name, s.num_frames) for s in recorded.open_sequences(path, config, *choice)]

    assert names(source) == [(split, name, None) for split in ("test", "train") for name in ("fall", "walk")]
    assert names(tmp_path / "records") == [("test", "walk", 38), ("train", "walk", 38)]
    assert names(tmp_path / "records", "train") == [("train", "walk", 38)]
    assert names(source, None, ("fall",)) == [("test", "fall", None), ("train", "fall", None)]


@pytest.mark.parametrize(
    "path, config, choice, message",
    [
        ("records", {}, {"split": "tset"}, "split: 'tset' is not one of 'test', 'train'; did you mean test"),
        ("raw", {}, {"names": ("wlak",)}, "sequence: 'wlak' is not one of 'fall', 'walk'; did you mean walk"),
        ("raw", {"reader": "rums"}, {}, "reader: 'rums' is not one of .*did you mean runs"),
        ("records", {"image_size_hw": (32, 32)}, {}, r"image height and width: expected \(32, 32\), got \(16, 16\)"),
    ],
)
def test_what_is_not_there_is_refused(raw, tmp_path, path, config, choice, message):
    source, own = raw
    conversion.convert(source, tmp_path / "records", own)
    with pytest.raises(ValueError, match=message):
        recorded.open_sequences(tmp_path / path, dataclasses.replace(own, **config), **choice)
