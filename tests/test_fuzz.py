"""Each reader meets a thousand damaged files: it refuses each by name or reads it rightly, soon and in little memory.

`READERS` lists them. The quick version takes a few damaged files each.
"""

import collections
import contextlib
import dataclasses
import faulthandler
import functools
import importlib.util
import json
import pathlib
import re
import resource
import zipfile
from collections.abc import Callable
from typing import Any

import aria_files
import calibration_files
import fuzzing
import jax
import numpy as np
import nymeria_files
import pytest
import recordings
import safetensors.numpy
import unrealego_files
import walker

from epfv2_jax import checkpoints
from epfv2_jax.autolabel import plan as plan_lib
from epfv2_jax.autolabel import progress
from epfv2_jax.autolabel.identity import identify_records
from epfv2_jax.checkpoints import About
from epfv2_jax.core import config as config_lib
from epfv2_jax.core import files, overrides
from epfv2_jax.core.findings import raise_first
from epfv2_jax.data import images, labels, records, rig
from epfv2_jax.data.calibration import formats
from epfv2_jax.data.conversion import convert as conversion
from epfv2_jax.data.conversion import report as report_lib
from epfv2_jax.data.mocap import loading
from epfv2_jax.data.readers import adt, aria, egobody3m, nymeria, recording, unrealego
from epfv2_jax.data.readers.base import CameraReport, QuarantinedFrame, ReadReport
from epfv2_jax.data.readers.recording import pictures, tracks
from epfv2_jax.data.synthetic import config as synthetic_config
from epfv2_jax.data.synthetic import writer
from epfv2_jax.deploy import golden as golden_lib
from epfv2_jax.evaluation import tables
from epfv2_jax.experiment import predict, recipe
from epfv2_jax.experiment.config import ExperimentConfig
from epfv2_jax.geometry import layout, skeleton
from epfv2_jax.models.encoders import weights
from epfv2_jax.profiling import goodput
from epfv2_jax.testing import fakes
from epfv2_jax.training.log import RunLog

SECONDS = 60.0  # for one file
SIZE_HW = (16, 16)
J = skeleton.EGOBODY3M.num_joints
SPEC = fakes.record_spec(SIZE_HW)
JPEG = images.encode_grey(np.arange(256, dtype=np.uint8).reshape(SIZE_HW))
MODEL = {"kind": "epfv2", "encoder": "small", "width": 16, "heads": 2, "ffn_width": 16, "head_width": 16, "window": 4}


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a kind of file is made whole and read."""

    make: Callable[[pathlib.Path], pathlib.Path]  # writes into a folder and returns the file to damage
    read: Callable[[pathlib.Path], Any]  # of that file; returns values that == compares
    whole: bool = False  # whether a damaged file that is read must give what the whole one gives
    needs: str | None = None  # a library
    named: str | None = None  # what errors name; None: the file
    damaged: str = ""  # glob of another file to damage in the place of the first


def run_of(sequence: str, first: int, n: int) -> records.FrameRun:
    return records.FrameRun(
        sequence=sequence,
        split="train",
        frame_index=np.arange(first, first + n, dtype=np.int32),
        time_s=np.arange(first, first + n) / 30,
        jpegs=((JPEG,) * 4,) * n,
        T_world_headset=np.tile(np.eye(4, dtype=np.float32), (n, 1, 1)),
        joints_world_m=np.ones((n, J, 3), np.float32),
        joint_valid=np.ones((n, J), bool),
        view_valid=np.ones((n, 4), bool),
        rig=jax.tree.map(np.asarray, rig.upright(rig.default_rig(), layout.EGOBODY3M, SIZE_HW)),
    )


def make_records(folder: pathlib.Path) -> pathlib.Path:
    shards = [records.write_shard(folder / f"{s}.arrayrecord", [run_of(s, 0, 3), run_of(s, 3, 2)]) for s in "ab"]
    report = {"summary": {"frames": 10}}
    records.write_manifest(folder, records.Manifest(split="train", spec=SPEC, shards=tuple(shards), report=report))
    return folder / records.MANIFEST_NAME


def read_records(path: pathlib.Path) -> Any:
    opened = records.open_records(path.parent)
    return [records.encode(opened[i]) for i in range(len(opened))], config_lib.to_mapping(opened.manifest)


def make_plan(folder: pathlib.Path) -> pathlib.Path:
    """A label pass with both of its units, an hour after its start."""
    make_records(folder)
    teacher = labels.TeacherIdentity(sha256="0" * 64, step=3, model=MODEL, with_uncertainty=True)
    plan = plan_lib.Plan(
        package_version="1",
        records=identify_records(records.open_records(folder)),
        teacher=teacher,
        config=plan_lib.PassConfig(unit_frames=5),
        units=np.array([[0, 2, 5], [2, 4, 5]]),
        streams=np.array([[0, 2, 0, 0], [2, 4, 2, 0]]),
    )
    plan = plan_lib.write_plan(folder, plan)
    (folder / labels.UNIT_FOLDER).mkdir()
    (folder / labels.PROGRESS_FOLDER).mkdir()
    for unit in range(2):
        runs = [
            label_run(plan.sha256, 2 * unit, "ab"[unit], 0, 3),
            label_run(plan.sha256, 2 * unit + 1, "ab"[unit], 3, 2),
        ]
        row = labels.BadRow(record=2 * unit, frame=1, status="missing_view", reason="view 0 has no image")
        footer = labels.write_unit(folder / labels.UNIT_FOLDER / labels.unit_file(unit), unit, runs, [row])
        entry = progress.Entry(unit=unit, worker="w", frames=5, counts=footer.counts, seconds=1.5, finished_unix_s=1e9)
        progress.write(folder, entry)
    return folder / labels.PLAN_NAME


def label_run(plan_sha256: str, record: int, sequence: str, first: int, n: int) -> labels.LabelRun:
    arrays = {name: np.ones(shape, np.float32) for name, shape in labels.row_shapes(J, n).items()}
    return labels.LabelRun(
        plan_sha256=plan_sha256,
        teacher_sha256="0" * 64,
        record=record,
        sequence=sequence,
        split="train",
        frame_index=np.arange(first, first + n, dtype=np.int32),
        status=np.array([0, 1, 0], np.uint8)[:n],
        **arrays,
    )


def read_plan(path: pathlib.Path) -> Any:
    plan = plan_lib.read_plan(path.parent)
    opened = labels.Labels(path.parent)
    units = [plan.unit(i) for i in range(plan.num_units)]
    return plan.package_version, plan.records, plan.teacher, plan.config, units, len(opened), opened.with_uncertainty


def read_labels(path: pathlib.Path) -> Any:
    opened = labels.open_labels(path.parent)
    return [labels.encode(opened[i]) for i in range(len(opened))], [opened.unit(unit).footer for unit in range(2)]


def read_status(path: pathlib.Path) -> Any:
    found = progress.status(path.parent)
    return found.counts, found.frames_done, found.units_done


def make_zips(folder: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    split = folder / "train"
    split.mkdir()
    with (
        zipfile.ZipFile(split / "1.metadata.zip", "w", zipfile.ZIP_DEFLATED) as metadata,
        zipfile.ZipFile(split / "1.images.zip", "w") as pictures,
    ):
        for t in range(2):
            fields = {
                "frame_index": t,
                "world_from_headset_xf_cm": np.eye(4).tolist(),
                "annotation_level": 0,
                "joint_positions_world_cm": rng.uniform(-50, 50, (J, 3)).tolist(),
                **{f"projected_joint_positions_cam{v}_px": rng.uniform(0, 99, (J, 3)).tolist() for v in range(4)},
            }
            metadata.writestr(f"1/frame{t:04d}.json", json.dumps(fields))
            for v in range(4):
                pictures.writestr(f"1/frame{t:04d}_cam{v}.jpg", JPEG)
    with zipfile.ZipFile(split / "1.metadata.zip") as archive:
        (folder / "frame.json").write_bytes(archive.read("1/frame0000.json"))
    return folder / "frame.json"


def read_frame(path: pathlib.Path) -> Any:
    frame = egobody3m.parse_frame(path.read_bytes(), str(path))
    assert np.isfinite(frame.T_world_headset).all() and np.isfinite(frame.joints_world_m).all() and frame.frame_s > 0


def read_zips(path: pathlib.Path) -> Any:
    (found,) = egobody3m.find_sequences(path.parent)
    with egobody3m.SequenceReader(found) as reader:
        good, bad = egobody3m.read_metadata(reader)
        assert len(good) + len(bad) == len(reader.frames) and all(frame.reason for frame in bad)
        reader.view_sizes_px()


def make_recording(folder: pathlib.Path) -> pathlib.Path:
    recordings.write(folder, recordings.FRONT, frames=3)
    return folder / "headset.yaml"


def read_tracks(path: pathlib.Path) -> Any:
    (folder,) = path.parent.glob("*/*/mav0")
    poses, joints = tracks.read_poses(folder), tracks.read_joints(folder)
    assert np.isfinite(poses.positions_m).all() and np.isfinite(poses.quaternions).all()
    assert not np.isinf(joints.positions_m).any() and joints.positions_m.shape[1:] == (len(joints.sensor.names), 3)


def read_pictures(path: pathlib.Path) -> Any:
    (folder,) = path.parent.glob("*/*/mav0/cam0")
    opened = pictures.open_pictures(folder)
    for row in range(len(opened.stamps_ns)):
        assert opened.read(row).dtype == np.uint8


def source_of(folder: pathlib.Path) -> egobody3m.SequenceFiles:
    return egobody3m.SequenceFiles(
        sequence="1", split="train", images=folder / "1.images.zip", metadata=folder / "1.metadata.zip"
    )


def make_report(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "1.json"
    (folder / "1.images.zip").write_bytes(b"images")
    report = report_lib.SequenceReport(
        sequence="1",
        split="train",
        source=report_lib.source_files(source_of(folder)),
        num_frames=7,
        num_kept=5,
        levels={"0": 6},
        kept_levels={"0": 5},
        quarantined_frames=(QuarantinedFrame(frame=3, reason="no pose"),),
        calibration=(
            CameraReport(
                verdict="good",
                rms_px=0.5,
                held_out_rms_px=None,
                angle_range_deg=(0.0, 70.0),
                num_points=99,
                visible_share=0.5,
            ),
        ),
        shard=records.write_shard(folder / "1.arrayrecord", [run_of("1", 0, 5)]),
    )
    report_lib.write(path, report, report_lib.last_change_ns(source_of(folder)))
    return path


def make_settings(folder: pathlib.Path) -> pathlib.Path:
    conversion.claim(folder, conversion.ConversionConfig(levels=(0, 1)))
    return folder / "conversion.json"


def make_predictions(folder: pathlib.Path) -> pathlib.Path:
    settings = predict.Settings(model_sha256="0" * 64, data="/data", reader="egobody3m", doubtful="quarantine")
    predict.claim(files.locate(folder), settings)
    return folder / predict.SETTINGS_NAME


def make_synthetic(folder: pathlib.Path) -> pathlib.Path:
    writer.claim(folder, synthetic_config.SyntheticConfig())
    return folder / "synthetic.json"


def make_goodput(folder: pathlib.Path) -> pathlib.Path:
    for start in (0, 10):
        book = goodput.Goodput(folder, start, started=0.0)
        for step in (10, 20):
            with book.time("evaluation"):
                pass
            book.close_window(start + step)
    return folder / "goodput.jsonl"


def read_goodput(path: pathlib.Path) -> Any:
    found = goodput.summarize(path)
    goodput.format_summary(found)
    goodput.Goodput(path.parent, 15, started=0.0)
    assert all(0 <= value < 1e12 for value in found.values())


def make_log(folder: pathlib.Path) -> pathlib.Path:
    log = RunLog(folder, 0)
    for step in range(8):
        log.scalars(step, {"loss": 0.5})
    return folder / "metrics.jsonl"


def read_log(path: pathlib.Path) -> Any:
    RunLog(path.parent, 5)
    assert all(json.loads(line)["step"] <= 5 for line in path.read_bytes().splitlines())


def make_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    about = About(
        experiment={"model": MODEL, "seed": 0},
        skeleton=skeleton.EGOBODY3M,
        layout=layout.EGOBODY3M,
        image_size_hw=SIZE_HW,
    )
    book = checkpoints.CheckpointWriter(folder, about)
    book.save_if_best(1, {"w": np.ones(3)}, 4.0, {"mpjpe_cm": 4.0})
    book.close()
    return folder


def read_checkpoint(path: pathlib.Path) -> Any:
    trained = checkpoints.load(path)
    return trained.about, trained.variables["w"].tolist()


def make_package(folder: pathlib.Path) -> pathlib.Path:
    trained = checkpoints.load(make_checkpoint(folder / "run"))
    scores = checkpoints.Scores(split="test", step=1, metrics={"mpjpe_cm": 4.0, "foot_cm": None})
    checkpoints.save_package(folder / "p", trained, checkpoints.Card(licence="any", scores=scores), str)
    return folder / "p"


def read_package(path: pathlib.Path) -> Any:
    return read_checkpoint(path), checkpoints.load(path).card


def make_scores(folder: pathlib.Path) -> pathlib.Path:
    metrics = {"mpjpe_cm": 4.0, "foot_cm": None}
    about = {"split": "test", "step": 3, "hide_views": False, "calibration": [{"nominal": 0.5, "measured": 0.4}]}
    files.write_json(folder / "metrics.json", {**about, "metrics": metrics, "baselines": {"mean pose": metrics}})
    return folder / "metrics.json"


def read_scores(path: pathlib.Path) -> Any:
    found = tables.read_scores(path)
    for value in (found.step, *found.metrics.values()):
        assert value is None or np.isfinite(value)


def make_encoder(folder: pathlib.Path) -> pathlib.Path:
    checkpoints.save_encoder(folder / "e", "resnet18", {"params": {"w": np.ones(3, np.float32)}}, {"file": "f"})
    return folder / "e"


def read_encoder(path: pathlib.Path) -> Any:
    name, variables, meta = checkpoints.load_encoder(path)
    return name, variables["params"]["w"].tolist(), meta


def make_golden(folder: pathlib.Path) -> pathlib.Path:
    (folder / "g.onnx").write_bytes(b"a graph")
    golden = {
        "inputs": {"images": np.zeros((5, 1, 4), np.uint8), "pose": np.zeros((5, 1, 2), np.float32)},
        "outputs": {"joints": np.ones((5, 1, 3), np.float32)},
        "final": {"seen": np.array([5], np.int32)},
        "tolerance": {"joints": np.asarray(1e-3), "next_seen": np.asarray(0.5)},
        "recorded": {"time_s": np.arange(5.0)[:, None]},
    }
    golden_lib.write(folder / "g.golden.npz", golden, files.sha256(folder / "g.onnx"))
    return folder / "g.golden.npz"


def read_golden(path: pathlib.Path) -> Any:
    golden = golden_lib.read(path, path.with_name("g.onnx"))
    golden_lib.num_frames(golden), golden_lib.frame_inputs(golden, 0)
    golden_lib.beyond_tolerance(golden, dict.fromkeys(golden["tolerance"], 0.0))
    return {group: {name: value.tolist() for name, value in sorted(golden[group].items())} for group in golden}


def make_graph(folder: pathlib.Path) -> pathlib.Path:
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "seen", "y", "next_seen")]
    nodes = [helper.make_node("Add", ["x", "seen"], ["y"]), helper.make_node("Relu", ["y"], ["next_seen"])]
    model = helper.make_model(
        helper.make_graph(nodes, "step", ports[:2], ports[2:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    helper.set_model_props(model, {"format_version": "1", "joint_names": '["a"]'})
    save(model, folder / "g.onnx")
    return folder / "g.onnx"


def read_graph(path: pathlib.Path) -> Any:
    from epfv2_jax.deploy.session import OnnxSession

    session = OnnxSession(path)
    with contextlib.suppress(ValueError):  # a graph of other inputs names them
        session.step({"x": np.ones((2, 3), np.float32)})


def make_weights(folder: pathlib.Path) -> pathlib.Path:
    tensors = {"conv1.weight": np.ones((4, 3), np.float32), "bn1.bias": np.zeros(4, np.float32)}
    safetensors.numpy.save_file(tensors, folder / "w.safetensors")
    return folder / "w.safetensors"


def read_weights(path: pathlib.Path) -> Any:
    file = weights.read(path)  # numbers that are not finite are refused when they are converted to an encoder's
    for key, shape in file.shapes.items():
        assert file.dtypes[key] != "F32" or file.load(key).shape == shape


def make_bvh(folder: pathlib.Path) -> pathlib.Path:
    (folder / "walk.bvh").write_text(walker.bvh_text(walker.walk(seconds=0.1), positions="absolute"))
    return folder / "walk.bvh"


def make_amc(folder: pathlib.Path) -> pathlib.Path:
    return walker.write_asf_amc(walker.walk(seconds=0.1), folder, "01.asf", "01_01.amc")


def read_motion(path: pathlib.Path) -> Any:
    clip = loading.load_clip(path, fps=None if path.suffix == ".bvh" else 120)
    rotations, joints_m = clip.world_pose
    assert np.isfinite(joints_m).all() and clip.num_frames >= 1
    assert np.abs(rotations @ np.swapaxes(rotations, -1, -2) - np.eye(3)).max() < 1e-4


def make_unrealego(folder: pathlib.Path) -> pathlib.Path:
    unrealego_files.write(folder, "a", frames=range(3))
    return folder / "a" / "json" / "frame_0.json"


def read_unrealego(path: pathlib.Path) -> Any:
    """Reads all but one damaged frame, which the report names."""
    report, config = ReadReport(), conversion.ConversionConfig(reader="unrealego", image_size_hw=SIZE_HW)
    reader = unrealego.UnrealEgo(path.parents[2])
    (source,) = reader.find_sequences()
    for run in reader.read(source, config, report):
        run.check_motion()
    for note in (*report.quarantined_frames, *report.bad_views):
        raise ValueError(note.reason)


def make_adt(folder: pathlib.Path) -> pathlib.Path:
    aria_files.write_adt(folder)
    return folder / "aria_trajectory.csv"


def read_adt(path: pathlib.Path) -> Any:
    track = aria.read_trajectory(path)
    joints, finding = adt.read_joints(adt.skeleton_of(path.parent))
    assert np.isfinite(track.at(joints.stamps_ns)).all()
    assert np.isfinite(joints.at(track.stamps_ns)[0]).all()
    raise_first([dataclasses.replace(finding, is_error=True)])


def make_nymeria(folder: pathlib.Path) -> pathlib.Path:
    nymeria_files.write(folder / nymeria_files.NAME)
    nymeria_files.write_glb(folder / nymeria_files.NAME / "body" / "xdata_blueman.glb")
    return folder / nymeria_files.NAME / "body" / "xdata.npz"


def read_suit(path: pathlib.Path) -> Any:
    suit = nymeria.read_xsens(path)
    assert (np.diff(suit.timecode_ns) > 0).all() and np.isfinite(suit.positions_m).all()
    assert (np.linalg.norm(suit.quaternions, axis=-1) > 0.4).all()


def read_glb(path: pathlib.Path) -> Any:
    glb = path.with_name("xdata_blueman.glb")
    assert np.isfinite(nymeria.read_motion(glb, skeleton.EGOBODY3M.joint_names, nymeria_files.ROWS)).all()


@functools.cache
def quickstart() -> dict[str, Any]:
    return recipe.read(str(pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"))


def configuration() -> bytes:
    return json.dumps(config_lib.to_mapping(config_lib.from_mapping(ExperimentConfig, quickstart()))).encode()


def read_configuration(path: pathlib.Path) -> Any:
    return config_lib.from_mapping(ExperimentConfig, files.read_json(path), str(path))


OVERRIDES = b"""optimizer.learning_rate=5e-4
dataset.directory=data
model.kind=epfv2
model.window=16
loop.tensorboard=true
dataset.conversion.levels=0,1
dataset.conversion.image_size_hw=(256,256)
seed=3
"""


def read_overrides(path: pathlib.Path) -> Any:
    lines = path.read_bytes().decode(errors="replace").split("\n")
    pairs = [tuple(line.split("=", 1)) for line in lines if "=" in line][:50]
    return config_lib.from_mapping(ExperimentConfig, overrides.apply_overrides(ExperimentConfig, quickstart(), pairs))


def calibration(name: str) -> Reader:
    """The reader of a kind of calibration file."""
    content, file, *_ = calibration_files.FILES[name]

    def make(folder: pathlib.Path) -> pathlib.Path:
        return pathlib.Path(calibration_files.write(folder, content, file))

    return Reader(make, lambda path: formats.describe(formats.read(path)))


def plain(data: Callable[[], bytes]) -> Callable[[pathlib.Path], pathlib.Path]:
    """A maker of a file with these bytes."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        (folder / "file").write_bytes(data())
        return folder / "file"

    return make


#: By name.
READERS: dict[str, Reader] = {
    "frame of EgoBody3M": Reader(make_zips, read_frame),
    "zip of metadata": Reader(make_zips, read_zips, damaged="train/1.metadata.zip"),
    "zip of images": Reader(make_zips, read_zips, damaged="train/1.images.zip"),
    "headset.yaml": Reader(make_recording, lambda path: recording.read_headset(path).layout),
    "poses of a recording": Reader(make_recording, read_tracks, damaged="train/a/mav0/gt/data.csv"),
    "joints of a recording": Reader(make_recording, read_tracks, damaged="train/a/mav0/joints0/data.csv"),
    "names of joints of a recording": Reader(
        make_recording, read_tracks, damaged="train/a/mav0/joints0/sensor.yaml", named="joints0"
    ),
    "images of a recording": Reader(make_recording, read_pictures, damaged="train/a/mav0/cam0/data.csv", named="cam0"),
    "PNG": Reader(
        make_recording, read_pictures, damaged=f"train/a/mav0/cam0/data/{recordings.START_NS}.png", named="cam0"
    ),
    "JPEG": Reader(plain(lambda: JPEG), lambda path: images.decode_grey(path.read_bytes()).shape, named="JPEG"),
    "record": Reader(
        plain(lambda: records.encode(run_of("1", 0, 3))),
        lambda path: records.decode(path.read_bytes()).image_size_hw,
        named="record",
    ),
    "label record": Reader(
        plain(lambda: labels.encode(label_run("0" * 64, 0, "1", 0, 3))),
        lambda path: labels.decode(path.read_bytes()).num_frames,
        named="label",
    ),
    "shard of records": Reader(make_records, read_records, whole=True, damaged="a.arrayrecord"),
    "manifest of records": Reader(make_records, read_records, whole=True),
    "plan of a label pass": Reader(make_plan, read_plan, whole=True),
    "labels of a unit": Reader(make_plan, read_labels, whole=True, damaged="labels/00000000.arrayrecord"),
    "progress of a unit": Reader(make_plan, read_status, whole=True, damaged="progress/00000001.json"),
    "report of a sequence": Reader(make_report, lambda path: report_lib.read(path, source_of(path.parent)), whole=True),
    "settings of a conversion": Reader(make_settings, lambda path: make_settings(path.parent)),
    "settings of predictions": Reader(make_predictions, lambda path: make_predictions(path.parent)),
    "settings of synthetic data": Reader(make_synthetic, lambda path: make_synthetic(path.parent)),
    "goodput": Reader(make_goodput, read_goodput),
    "metrics": Reader(make_log, read_log),
    "metadata of a checkpoint": Reader(
        make_checkpoint, read_checkpoint, whole=True, damaged="best/1/meta/metadata", named="best/1"
    ),
    "seal of a checkpoint": Reader(
        make_checkpoint, read_checkpoint, whole=True, damaged="best/1/checksums.json", named="best/1"
    ),
    "configuration of a packaged model": Reader(make_package, read_package, whole=True, damaged="p/config.json"),
    "weights of a packaged model": Reader(make_package, read_package, whole=True, damaged="p/model.safetensors"),
    "scores of an evaluation": Reader(make_scores, read_scores),
    "metadata of an encoder": Reader(make_encoder, read_encoder, whole=True, damaged="e/meta/metadata", named="/e"),
    "golden sequence": Reader(make_golden, read_golden, whole=True),
    "ONNX graph": Reader(make_graph, read_graph, needs="onnxruntime"),
    "safetensors": Reader(make_weights, read_weights),
    "BVH": Reader(make_bvh, read_motion),
    "ASF": Reader(make_amc, read_motion, damaged="01.asf", named="01"),
    "AMC": Reader(make_amc, read_motion),
    **{
        f"calibration, {name}": calibration(name)
        for name in (
            *("kalibr radtan", "euroc", "basalt kb4", "meta", "aria online", "opencv yaml", "opencv xml"),
            *("ros plumb_bob", "colmap opencv", "ocam text", "ocam json"),
        )
    },
    "labels of UnrealEgo": Reader(make_unrealego, read_unrealego),
    "list of UnrealEgo": Reader(make_unrealego, read_unrealego, damaged="train.txt", named="listed"),
    "image of UnrealEgo": Reader(
        make_unrealego, read_unrealego, damaged="a/fisheye_final_image/camera_left/final_1.png"
    ),
    "trajectory of Aria": Reader(make_adt, read_adt),
    "skeleton of Aria Digital Twin": Reader(make_adt, read_adt, damaged="Skeleton_T.json"),
    "metadata of Aria Digital Twin": Reader(make_adt, read_adt, damaged="metadata.json"),
    "association of Aria Digital Twin": Reader(make_adt, read_adt, damaged="skeleton_aria_association.json"),
    "suit of Nymeria": Reader(make_nymeria, read_suit),
    "GLB of Nymeria": Reader(make_nymeria, read_glb, damaged=f"{nymeria_files.NAME}/body/xdata_blueman.glb"),
    "configuration": Reader(plain(configuration), read_configuration, named="file"),
    "overrides": Reader(plain(lambda: OVERRIDES), read_overrides, named="config"),
}


@contextlib.contextmanager
def bounded_memory():
    """Refuses memory beyond 2 GiB more than the process has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 2**30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(reader: Reader, path: pathlib.Path, damaged: pathlib.Path, expected: Any) -> str:
    """Returns "read" or "refused", or what is wrong with how the reader meets the damaged file."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        found = reader.read(path)
    except ValueError as error:
        named = (reader.named or damaged.name) in str(error)
        return "refused" if named else f"{type(error).__name__} without its place: {str(error)[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return "read" if not reader.whole or found == expected else "read as something else"


def meet(name: str, folder: pathlib.Path, seed: int, count: int) -> None:
    """Gives a reader damaged files, and fails with the first one that it meets wrongly in each way."""
    reader = READERS[name]
    if reader.needs and importlib.util.find_spec(reader.needs) is None:
        pytest.skip(f"needs {reader.needs}")
    path = reader.make(folder)
    damaged = folder / reader.damaged if reader.damaged else path
    whole, expected = damaged.read_bytes(), reader.read(path)
    outcomes, wrong = collections.Counter(), {}
    with bounded_memory():
        for i, content in enumerate(fuzzing.mutations(whole, seed, count)):
            damaged.write_bytes(content)
            found = outcome(reader, path, damaged, expected)
            if found not in ("read", "refused"):
                wrong.setdefault(re.sub(r"\d+", "0", found)[:60], f"mutation {i}: {found}")
                found = "wrong"
            outcomes[found] += 1
    print(f"{name}: {dict(outcomes)}")
    assert not wrong, f"{dict(outcomes)}\n" + "\n".join(wrong.values())


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_by_name_or_read_rightly(name, tmp_path):
    meet(name, tmp_path, seed=0, count=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_thousand_damaged_files_are_refused_by_name_or_read_rightly(name, tmp_path):
    meet(name, tmp_path, seed=1, count=1000)
