"""A reader of another headset: two views, five joints. Converted, opened and cut into batches like EgoBody3M."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from epfv2_jax.core import tasks
from epfv2_jax.data import pipeline, readers, records, rig
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.readers import base
from epfv2_jax.geometry import cameras
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.geometry.skeleton import Skeleton
from epfv2_jax.structs import Rig

SKELETON = Skeleton(
    name="arms",
    joint_names=("chest", "left_elbow", "left_hand", "right_elbow", "right_hand"),
    parents=(-1, 0, 1, 0, 3),
    mirror=(0, 3, 4, 1, 2),
    root_between=(0,),
    groups=(),
    rest_offsets_m=((0, 0, 0), (0.3, 0, 0), (0.3, 0, 0), (-0.3, 0, 0), (-0.3, 0, 0)),
    rest_root_headset_m=(0, -0.5, 0),
)
# The left camera is mounted upside down, the right one on its side.
LAYOUT = RigLayout(name="pair", view_names=("left", "right"), upright_turns=(2, 1), mirror=(1, 0))
CAMERAS = [
    cameras.pinhole(focal_px=20.0, center_px=((w - 1) / 2, (h - 1) / 2), size_px=(w, h))
    for w, h in ((32, 24), (24, 32))
]
T_CAM_HEADSET = np.tile(np.diag([1, -1, -1, 1]).astype(np.float32), (2, 1, 1))


@dataclasses.dataclass(frozen=True)
class Take:
    sequence: str
    split: str
    paths: tuple[pathlib.Path, ...]


@dataclasses.dataclass(frozen=True)
class PairReader:
    """Reads SPLIT/NAME.npz with arrays frames, times (n,), left, right (n, H, W), poses (n, 4, 4), joints (n, 5, 3)."""

    source_dir: str | os.PathLike
    skeleton: Skeleton = SKELETON
    layout: RigLayout = LAYOUT
    camera_model: str = "pinhole"

    def frame_s(self, sequences: list[Take]) -> float:
        return 0.1

    def find_sequences(self) -> list[Take]:
        found = sorted(pathlib.Path(self.source_dir).glob("*/*.npz"))
        if not found:
            raise ValueError(f"{self.source_dir}: no SPLIT/NAME.npz in it")
        return [Take(sequence=path.stem, split=path.parent.name, paths=(path,)) for path in found]

    def read(self, source, config, report) -> Iterator[records.FrameRun]:
        try:
            with np.load(source.paths[0]) as file:
                data = dict(file)
        except EOFError as error:
            raise ValueError(f"{source.paths[0]}: not an npz file ({error})") from error
        stored = Rig(cameras=cameras.stack(CAMERAS), T_cam_headset=T_CAM_HEADSET)
        report.num_frames = len(data["frames"])
        good = np.isfinite(data["poses"]).all(axis=(1, 2))
        report.quarantined_frames = [
            base.QuarantinedFrame(frame=int(frame), reason=f"{source.paths[0]}: no pose")
            for frame in data["frames"][~good]
        ]
        kept = {name: array[good] for name, array in data.items()}
        for part in base.split_runs(kept["frames"], config.record_frames):
            n = part.stop - part.start
            yield records.FrameRun(
                sequence=source.sequence,
                split=source.split,
                frame_index=kept["frames"][part],
                time_s=kept["times"][part],
                jpegs=tuple(
                    tuple(
                        base.upright_jpeg(kept[view][i], turns, config)
                        for view, turns in zip(self.layout.view_names, self.layout.upright_turns, strict=True)
                    )
                    for i in range(part.start, part.stop)
                ),
                T_world_headset=kept["poses"][part],
                joints_world_m=kept["joints"][part],
                joint_valid=np.ones((n, self.skeleton.num_joints), bool),
                view_valid=np.ones((n, self.layout.num_views), bool),
                rig=jax.tree.map(np.asarray, rig.upright(stored, self.layout, config.image_size_hw)),
            )


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(readers.READERS, "pair", PairReader)
    return conversion.ConversionConfig(reader="pair", image_size_hw=(16, 16), record_frames=4, doubtful="keep")


@pytest.fixture
def source(tmp_path):
    """Ten frames of which frame 3 has no pose, and a file that is none."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4, dtype=np.float32), (10, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(10, 3))
    poses[3, 0, 0] = np.nan
    ramp = np.arange(32, dtype=np.uint8) * 6
    (tmp_path / "source" / "train").mkdir(parents=True)
    np.savez(
        tmp_path / "source" / "train" / "walk.npz",
        frames=np.arange(10, dtype=np.int32),
        times=np.array([0, 0.1, 0.19, 0.3, 0.4, 0.5, 0.73, 0.8, 0.9, 1.0]),  # a late frame, and two that are lost
        left=np.tile(ramp, (10, 24, 1)),  # bright on the right
        right=np.tile(ramp[:, None], (10, 1, 24)),  # bright below
        poses=poses,
        joints=(np.nan_to_num(poses[:, None, :3, 3]) + rng.normal(size=(10, 5, 3))).astype(np.float32),
    )
    (tmp_path / "source" / "train" / "broken.npz").write_bytes(b"")
    return tmp_path / "source"


def test_its_records_carry_its_skeleton_and_layout(config, source, tmp_path):
    summary = conversion.convert(source, tmp_path / "out", config)["train"]
    assert (summary["frames"], summary["frames_kept"], summary["frames_quarantined"]) == (10, 9, 1)
    split = records.open_records(tmp_path / "out" / "train")
    assert split.skeleton == SKELETON and split.layout == LAYOUT and split.camera_model == "pinhole"
    assert [(e.first_frame, e.num_frames) for e in split.entries] == [(0, 3), (4, 4), (8, 2)]
    reports = {r["sequence"]: r for r in split.manifest.report["sequences"]}
    assert reports["walk"]["quarantined_frames"] == [{"frame": 3, "reason": "walk.npz: no pose"}]
    assert reports["broken"]["quarantined"].startswith("broken.npz: not an npz file")
    assert summary["sequences_quarantined"] == ["broken"]
    assert split.frame_s == 0.1 and split[1].time_s.tolist() == [0.4, 0.5, 0.73, 0.8]
    records.verify(tmp_path / "out" / "train")


def test_each_view_is_turned_by_its_own_turns(config, source, tmp_path):
    conversion.convert(source, tmp_path / "out", config)
    run = records.open_records(tmp_path / "out" / "train")[0]
    pictures, valid = records.decode_images(run)
    assert valid.all() and pictures.shape == (3, 2, 16, 16)
    left, right = pictures[0].astype(int)
    assert (np.diff(left.mean(axis=0)) < 0).all()  # half a turn: bright on the left
    assert (np.diff(right.mean(axis=0)) > 0).all()  # a quarter turn counter-clockwise: below becomes right
    # The cameras turn with the images.
    for view, turns in enumerate(LAYOUT.upright_turns):
        _, R_new_old = cameras.rotate90(CAMERAS[view], turns)
        expected = R_new_old @ T_CAM_HEADSET[view, :3, :3]
        np.testing.assert_array_equal(run.rig.T_cam_headset[view, :3, :3], expected)


def test_its_clips_are_batches(config, source, tmp_path):
    conversion.convert(source, tmp_path / "out", config)
    split = records.open_records(tmp_path / "out" / "train")
    batch = next(pipeline.eval_batches(split, 4, batch_size=2, read_threads=0))
    assert batch.frames.images.shape == (2, 4, 2, 16, 16)
    assert batch.frames.frame_gap[1].tolist() == [1, 1, 2, 1]  # 0.23 s between its second and third frame
    assert batch.targets.joints_headset_m.shape == (2, 4, 5, 3) and batch.targets.joint_valid[1].all()
    assert pipeline.abstract_batch(split, 4, 2) == jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch
    )


def test_shares_and_restarts_serve_it_too(config, source, tmp_path):
    out = tmp_path / "out"
    assert conversion.convert(source, out, config, engine=tasks.Engine(index=0, count=2)) is None
    assert conversion.convert(source, out, config, engine=tasks.Engine(index=1, count=2))["train"]["frames_kept"] == 9
    done = (out / "train" / "walk.arrayrecord").stat().st_mtime_ns
    conversion.convert(source, out, config)
    assert (out / "train" / "walk.arrayrecord").stat().st_mtime_ns == done


def test_runs_that_its_reader_did_not_declare_are_quarantined(config, source, tmp_path, monkeypatch):
    monkeypatch.setitem(readers.READERS, "pair", functools.partial(PairReader, camera_model="fisheye"))
    summary = conversion.convert(source, tmp_path / "out", config)["train"]
    assert summary["sequences_quarantined"] == ["broken", "walk"]
    manifest = records.read_manifest(tmp_path / "out" / "train")
    reasons = {r["sequence"]: r["quarantined"] for r in manifest.report["sequences"]}
    assert reasons["walk"] == "frame 0: camera model pinhole instead of fisheye as the reader 'pair' declares"
    assert not list((tmp_path / "out").rglob("*.arrayrecord*"))
