"""The C++ example makes the same inputs of a recording's JPEGs, calibration and poses as Python's reader does.

The graph is a probe: joints that depend on every number of every input, and on those of the frame before.
"""

import dataclasses
import json
import pathlib
import shutil
import subprocess

import numpy as np
import own_rigs
import pytest

from epfv2_jax.data import images, records
from epfv2_jax.data import rig as rig_lib
from epfv2_jax.data.conversion.config import ConversionConfig
from epfv2_jax.data.readers import recording
from epfv2_jax.data.readers.base import ReadReport
from epfv2_jax.data.synthetic import recordings, rigs
from epfv2_jax.data.synthetic import sequence as sequence_lib
from epfv2_jax.data.synthetic.config import SyntheticConfig
from epfv2_jax.deploy import sequences, signature

pytestmark = [pytest.mark.extras, pytest.mark.slow]  # the programs are compiled

SIZE = (36, 28)
FRAMES, WIDTH = 12, 60  # of the recording, and of its stored images in pixels
JOINTS = ("head", "hand", "foot")


@dataclasses.dataclass(frozen=True)
class Case:
    """A recording and a probe for its headset."""

    folder: pathlib.Path
    reader: recording.Recording
    graph: pathlib.Path


def write_recording(folder: pathlib.Path, rig_file: pathlib.Path) -> pathlib.Path:
    """Writes a person's motion with images of blurred noise."""
    headset = rigs.open_headset(str(rig_file))
    rig = headset.scaled(WIDTH)
    sequence = sequence_lib.sample_sequence(SyntheticConfig(frames=FRAMES), "train", 0)
    rng = np.random.default_rng(0)
    grey = []
    for width, height in np.asarray(rig.cameras.size_px, int):
        coarse = rng.integers(0, 256, (FRAMES, height // 6 + 1, width // 6 + 1), np.uint8)
        grey.append(np.kron(coarse, np.ones((1, 6, 6), np.uint8))[:, :height, :width])
    (folder / "train").mkdir(parents=True)
    recordings.write_headset(headset.description, folder)
    recordings.write(sequence, rig, headset.description, grey, folder / "train" / "one")
    return folder / "train" / "one"


def damage(folder: pathlib.Path) -> None:
    """Loses a frame, an image and most of another, and brings the poses to other times than the frames."""
    first = folder / "cam0" / "data.csv"
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:6] + lines[7:]))
    by_time = {"key": lambda path: int(path.stem)}
    pictures = [sorted((folder / f"cam{v}" / "data").iterdir(), **by_time) for v in range(2)]
    pictures[1][3].unlink()
    pictures[0][8].write_bytes(pictures[0][8].read_bytes()[:200])
    poses = folder / "gt" / "data.csv"
    header, *rows = poses.read_text().splitlines()
    split = [row.partition(",") for row in rows]
    poses.write_text("\n".join([header, *(f"{int(stamp) + 12_000_000},{rest}" for stamp, _, rest in split), ""]))


def write_probe(path: pathlib.Path, reader: recording.Recording) -> None:
    """Writes a graph whose joints are half the last ones plus a random linear function of all inputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def port(name, shape, dtype=np.float32):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    rng, shape = np.random.default_rng(1), (1, len(JOINTS), 3)
    tensors = signature.frame_inputs(reader.layout.num_views, SIZE, 1)
    nodes, weights, terms = [], [numpy_helper.from_array(np.array([1, -1]), "flat")], []
    for tensor in tensors:
        name, count = tensor.name, int(np.prod(tensor.shape))
        scale = (255 if name == "images" else 10 if name.endswith("_px") else 1) * count**0.5
        drawn = (rng.normal(size=(count, 3 * len(JOINTS))) / scale).astype(np.float32)
        weights.append(numpy_helper.from_array(drawn, f"{name}_weights"))
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", [f"{name}_float", "flat"], [f"{name}_flat"]),
            helper.make_node("MatMul", [f"{name}_flat", f"{name}_weights"], [f"{name}_term"]),
        ]
        terms.append(f"{name}_term")
    weights += [numpy_helper.from_array(np.array(shape), "shape"), numpy_helper.from_array(np.float32(0.5), "half")]
    nodes += [
        helper.make_node("Sum", terms, ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["now"]),
        helper.make_node("Mul", ["memory", "half"], ["before"]),
        helper.make_node("Add", ["now", "before"], ["joints_world_m"]),
        helper.make_node("Identity", ["joints_world_m"], ["next_memory"]),
    ]
    inputs = [port(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors]
    outputs = [port(name, shape) for name in ("joints_world_m", "next_memory")]
    graph = helper.make_graph(nodes, "probe", [*inputs, port("memory", shape)], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {"camera_order": reader.layout.view_names, "camera_model": reader.camera_model, "joint_names": JOINTS}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in {**said, "format_version": 1}.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    """A headset with six fisheye cameras, some turned, and one with two of the rational model."""
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    work = tmp_path_factory.mktemp("recordings")
    made = {}
    for name, rig_file in own_rigs.write(work / "rigs").items():
        folder = write_recording(work / name, rig_file)
        damage(folder / "mav0")
        reader = recording.Recording(work / name)
        write_probe(work / f"{name}.onnx", reader)
        made[name] = Case(folder, reader, work / f"{name}.onnx")
    return made


def predicted(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns stamps (F,) and joints (F, J, 3): the probe in Python, on what the project reads from the same files."""
    from epfv2_jax.deploy.session import OnnxSession

    (source,) = case.reader.find_sequences()
    headset = recording.read_headset(source.nearest(recording.HEADSET_NAME))
    rig, layout = recording.rig_of(headset, recording.cameras_of(source, headset))
    upright = rig_lib.upright(rig, layout, SIZE)
    calibration = {k: v[None] for k, v in sequences.calibration_of(upright, case.reader.camera_model).items()}
    (run,) = case.reader.read(source, ConversionConfig(image_size_hw=SIZE), ReadReport())
    stamps = [line.partition(",")[0] for line in (source.folder / "cam0" / "data.csv").read_text().splitlines()[1:]]
    gaps = records.frame_gaps(run.time_s, case.reader.frame_s([source]))
    session, joints = OnnxSession(case.graph), []
    for t, frame in enumerate(run.frame_index):
        pictures = np.zeros((len(headset.views), *SIZE), np.uint8)
        for v, view in enumerate(headset.views):
            if run.view_valid[t, v]:
                data = (source.folder / view.camera / "data" / f"{stamps[frame]}.jpg").read_bytes()
                pictures[v] = images.upright(images.decode_grey(data), view.upright_turns, SIZE)
        moving = {"T_world_headset": run.T_world_headset[t], "view_valid": run.view_valid[t], "images": pictures}
        given = {**{k: v[None] for k, v in moving.items()}, "frame_gap": gaps[t : t + 1], **calibration}
        joints.append(session.step(given)["joints_world_m"][0])
    assert gaps.max() == 2 and (~run.view_valid).sum() == 2 and len(joints) == FRAMES - 2
    return np.array(stamps, np.int64)[run.frame_index], np.asarray(joints)


@pytest.fixture(scope="module")
def program(cpp_examples) -> pathlib.Path:
    if not (cpp_examples / "recording").is_file():
        pytest.skip("no libjpeg-dev or libyaml-cpp-dev on this machine")
    return cpp_examples / "recording"


def run_program(program, graph, folder, out) -> subprocess.CompletedProcess:
    return subprocess.run([program, graph, folder, out], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["six", "two"])
def test_predicts_what_python_does_from_the_same_files(program, cases, name, tmp_path):
    case = cases[name]
    done = run_program(program, case.graph, case.folder, tmp_path / "joints.csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no JPEG, or damaged") == 2
    header, *rows = (tmp_path / "joints.csv").read_text().splitlines()
    assert header.split(",")[:3] == ["#timestamp [ns]", "head_x [m]", "head_y [m]"]
    values = [row.split(",") for row in rows]
    stamps, joints = predicted(case)
    assert [int(row[0]) for row in values] == stamps.tolist()
    found = np.array([row[1:] for row in values], np.float64).reshape(joints.shape)
    np.testing.assert_allclose(found, joints, atol=1e-3)  # some grey values are rounded otherwise
    assert np.abs(np.diff(joints, axis=0)).mean() > 0.05


def test_what_it_cannot_use_is_named(program, cases, tmp_path):
    def error(folder, graph=cases["six"].graph) -> str:
        done = run_program(program, graph, folder, tmp_path / "joints.csv")
        assert done.returncode == 2
        return done.stderr

    copy = tmp_path / "copy"
    shutil.copytree(cases["six"].folder, copy)
    assert "no headset.yaml here or above" in error(copy)
    shutil.copy(cases["six"].folder.parents[1] / "headset.yaml", copy)
    assert "does not name all views of the graph" in error(copy, cases["two"].graph)
    sensor = copy / "mav0" / "cam2" / "sensor.yaml"
    text = sensor.read_text()
    sensor.write_text(text.replace("fisheye624", "none"))
    assert "lens model pinhole, the graph has fisheye" in error(copy)
    sensor.write_text(text.replace("max_angle_rad", "other"))
    assert f"{sensor}: needs max_angle_rad" in error(copy)
    sensor.write_text(text)
    (copy / "mav0" / "gt" / "data.csv").unlink()
    assert "gt/data.csv: missing, or without rows" in error(copy)
