"""Exports by the command, in a process of its own, compared with JAX over long streams."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("jax2onnx", reason="needs the extra 'export'")

from small_exports import LENSES, MODELS, SIZE, SKELETON, run_exports, write_checkpoint, write_records  # noqa: E402

from epfv2_jax import checkpoints  # noqa: E402
from epfv2_jax.deploy import exporter, gates, metadata, sequences, signature, trace  # noqa: E402
from epfv2_jax.deploy import golden as golden_lib  # noqa: E402
from epfv2_jax.deploy.session import OnnxSession  # noqa: E402
from epfv2_jax.models.base import PoseModel  # noqa: E402

pytestmark = [pytest.mark.extras, pytest.mark.slow]  # tracing takes seconds a model

# Replays the golden sequence of each graph with numpy and ONNX Runtime alone, and prints the largest error of a joint.
REPLAY = """
import pathlib, sys
import numpy as np, onnxruntime as ort
TYPES = {"tensor(float)": np.float32, "tensor(bool)": bool, "tensor(int32)": np.int32}
for path in map(pathlib.Path, sys.argv[1:]):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    golden = np.load(path.with_suffix(".golden.npz"))
    given = {k.removeprefix("inputs/"): golden[k] for k in golden.files if k.startswith("inputs/")}
    expected = golden["outputs/joints_headset_m"]
    names = [port.name for port in session.get_outputs()]
    state = {p.name: np.zeros(p.shape, TYPES[p.type]) for p in session.get_inputs() if p.name not in given}
    largest = 0.0
    for frame in range(len(expected)):
        inputs = {**{k: v[frame] for k, v in given.items()}, **state}
        outputs = dict(zip(names, session.run(None, inputs)))
        state = {k: outputs["next_" + k] for k in state}
        largest = max(largest, float(np.abs(outputs["joints_headset_m"] - expected[frame]).max()))
    print(path.stem, ort.__version__, largest)
"""

# Compiles a graph ahead of time for a Hexagon processor, nothing left to the CPU.
COMPILE = """
import sys
import onnxruntime as ort, onnxruntime_qnn as qnn
graph, soc, arch, compiled = sys.argv[1:]
ort.register_execution_provider_library(qnn.get_ep_name(), qnn.get_library_path())
options = ort.SessionOptions()
options.log_severity_level = 3
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
options.add_session_config_entry("ep.context_enable", "1")
options.add_session_config_entry("ep.context_file_path", compiled)
device = next(d for d in ort.get_ep_devices() if d.ep_name == qnn.get_ep_name())
backend = {"backend_path": qnn.get_qnn_htp_path(), "soc_model": soc, "htp_arch": arch}
backend["offload_graph_io_quantization"] = "0"
options.add_provider_for_devices([device], backend)
ort.InferenceSession(graph, options)
"""


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Everything that the tests look at, exported by one process: where it lies, the models, and what was printed."""
    folder = tmp_path_factory.mktemp("onnx")
    written = {name: write_checkpoint(folder / name, name) for name in MODELS}
    write_records(folder / "data" / "validation")
    card = checkpoints.Card(licence="CC-BY-4.0", training_data="random numbers")
    checkpoints.save_package(folder / "package", checkpoints.load(folder / "one frame"), card, str)
    jobs = {name: ["--checkpoint", name, "--out", f"{name}.onnx"] for name in MODELS}
    jobs["deep, query, half"] += ["--batch", "2"]
    main = ["--checkpoint", "parametric", "--out"]
    jobs |= {
        "fp16": [*main, "fp16.onnx", "--precision", "fp16"],
        "int8": [*main, "int8.onnx", "--precision", "int8", "--data", "data", "--frames", "40"],
        "packaged": ["--checkpoint", "package", "--out", "packaged.onnx"],
        "recorded": [*main, "recorded.onnx", "--data", "data"],
        "int8 without data": [*main, "no.onnx", "--precision", "int8"],
        "data of another model": ["--checkpoint", "one frame", "--out", "no.onnx", "--data", "data"],
        "no checkpoint": ["--checkpoint", "nowhere", "--out", "no.onnx"],
        "no directory": [*main, "nowhere/no.onnx"],
        "batch 0": [*main, "no.onnx", "--batch", "0"],
    }
    printed, errors = run_exports(folder, jobs)
    return types.SimpleNamespace(folder=folder, models=written, printed=printed, stderr=errors)


def reference(model: PoseModel, variables, sequence: sequences.FrameSequence, batch: int, lens: str):
    """Returns the joints (F, B, J, 3) of the model's own `step`, frame by frame from its initial state."""
    step = jax.jit(lambda given, state: model.apply(variables, signature.frames_of(given, lens), state, method="step"))
    state = model.initial_state(batch)
    joints = []
    for frame in range(sequence.num_frames):
        predictions, state = step(sequence.inputs(frame), state)
        joints.append(np.asarray(predictions.joints_headset_m[:, 0]))
    return np.stack(joints)


def streamed_errors_cm(exports, file: str, name: str, batch: int = 1, num_frames: int = 200) -> np.ndarray:
    """Returns the largest difference of any joint in each of many frames with losses, in cm."""
    model, variables = exports.models[name]
    lens = LENSES.get(name, "fisheye")
    sequence = sequences.random_sequence(num_frames, model.layout.num_views, SIZE, batch, seed=1, camera_model=lens)
    sequence = sequences.with_losses(sequence)
    expected = reference(model, variables, sequence, batch, lens)
    session = OnnxSession(exports.folder / file)
    found = np.stack([session.step(sequence.inputs(i))["joints_headset_m"] for i in range(num_frames)])
    return 100 * np.linalg.norm(found - expected, axis=-1).max(axis=(1, 2))


@pytest.mark.parametrize("name", MODELS)
def test_onnx_is_jax_over_two_hundred_frames(exports, name):
    assert "code 0" in exports.printed[name], exports.printed[name] + exports.stderr
    errors = streamed_errors_cm(exports, f"{name}.onnx", name, batch=2 if "deep" in name else 1)
    assert errors.max() <= 2e-3
    assert errors[-50:].max() <= 3 * max(errors[:50].max(), 1e-5)


def test_half_precision_is_near_jax(exports):
    assert "code 0" in exports.printed["fp16"], exports.printed["fp16"] + exports.stderr
    errors = streamed_errors_cm(exports, "fp16.onnx", "parametric")
    assert 1e-3 < errors.max() <= 0.1  # and it is another graph
    types_of = {i.type for i in inputs_of_graph(exports.folder / "fp16.onnx")}
    assert types_of == {"tensor(float)", "tensor(uint8)", "tensor(int32)", "tensor(bool)"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("soc", "arch"), [("53", "69"), ("75", "79")])  # XR2 Gen 2 class, and a newer one
def test_whole_step_compiles_for_a_hexagon_processor(exports, tmp_path, precision, soc, arch):
    pytest.importorskip("onnxruntime_qnn", reason="needs the extra 'qnn'")
    compiled = tmp_path / "compiled.onnx"
    command = [sys.executable, "-c", COMPILE, str(exports.folder / f"{precision}.onnx"), soc, arch, str(compiled)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [node.op_type for node in onnx.load(compiled, load_external_data=False).graph.node] == ["EPContext"]


def test_graphs_run_in_the_oldest_runtime(exports, tmp_path):
    """An environment of its own: that runtime needs numpy 1. Skipped where no package index has both."""
    python = tmp_path / "old" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "old")], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--only-binary=:all:", "onnxruntime==1.17.1", "numpy<2"]
    if subprocess.run(pip, capture_output=True).returncode:
        pytest.skip("onnxruntime 1.17.1 cannot be had for this Python")
    files = ["parametric", "keypoints", "lstm", "fp16", "int8"]
    paths = [str(exports.folder / f"{name}.onnx") for name in files]
    done = subprocess.run([str(python), "-c", REPLAY, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, line in zip(files, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{name} 1.17.1 ")
        assert float(line.split()[-1]) <= exporter.TOLERANCE_M.get(name, exporter.TOLERANCE_M["fp32"])


def inputs_of_graph(path):
    import onnxruntime as ort

    return ort.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"]).get_inputs()


def test_int8_tells_what_it_costs(exports):
    printed = exports.printed["int8"]
    assert "code 0" in printed, printed + exports.stderr
    assert "MPJPE on data/validation:" in printed and "in int8" in printed
    model = onnx.load(exports.folder / "int8.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" in kinds and "DequantizeLinear" in kinds
    weights = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert len(weights) >= kinds.count("Conv")


@pytest.mark.parametrize("file", [*(f"{name}.onnx" for name in MODELS), "fp16.onnx", "int8.onnx", "recorded.onnx"])
def test_published_graphs_hold_the_post_conditions(exports, file):
    model = onnx.load(exports.folder / file)
    gates.check(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions and all(len(node.input) == 3 for node in convolutions)  # the bias is the folded normalisation
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "Einsum", "OneHot", "Shape", "CumSum", "Dropout"}
    golden = golden_lib.read(golden_lib.path_of(exports.folder / file), exports.folder / file)
    differences = golden_lib.replay(OnnxSession(exports.folder / file), golden)
    assert golden_lib.beyond_tolerance(golden, differences) == []
    assert not golden["inputs"]["view_valid"].all()
    assert golden["inputs"]["frame_gap"].max() == 3


def test_the_file_says_what_it_is(exports):
    session = OnnxSession(exports.folder / "parametric.onnx")
    model, variables = exports.models["parametric"]
    says, config = session.metadata, model.config
    assert says["skeleton"] == "other"
    assert says["joint_names"] == list(SKELETON.joint_names)
    assert says["parents"] == list(SKELETON.parents)
    assert says["joint_groups"] == {name: list(joints) for name, joints in SKELETON.metric_groups.items()}
    assert says["degrees_of_freedom"] == config.degrees_of_freedom
    assert OnnxSession(exports.folder / "keypoints.onnx").metadata["degrees_of_freedom"] is None
    assert says["camera_order"] == ["left_side", "left_front", "right_front", "right_side"]
    assert OnnxSession(exports.folder / "one frame.onnx").metadata["camera_order"] == ["left", "right"]
    assert (says["image_size_hw"], says["window"], says["precision"]) == ([32, 32], 6, "fp32")
    assert (says["image_mean"], says["image_std"], says["opset"]) == (config.image_mean, config.image_std, 20)
    assert says["normalisation"] == "inside the graph: (image / 255 - image_mean) / image_std"
    assert "local contrast" in OnnxSession(exports.folder / "keypoints.onnx").metadata["normalisation"]
    assert says["checkpoint_sha256"] == metadata.variables_sha256(variables)
    assert says["units"]["length"] == "metre" and "y up" in says["axes"]["world"]
    model = onnx.load(exports.folder / "parametric.onnx")
    for described, ports in ((says["inputs"], model.graph.input), (says["outputs"], model.graph.output)):
        assert [d["name"] for d in described] == [p.name for p in ports]
        assert [d["shape"] for d in described] == [[d.dim_value for d in p.type.tensor_type.shape.dim] for p in ports]
        assert all(d["meaning"] for d in described)
    state = {d["name"] for d in says["inputs"] if d["state"]}
    assert state == {"cache_keys", "cache_values", "cache_time_left", "previous_T_world_headset", "started"}
    assert {f"next_{name}" for name in state} <= {d["name"] for d in says["outputs"]}


def test_the_graph_of_a_packaged_model_says_licence_and_training_data(exports):
    assert "code 0" in exports.printed["packaged"], exports.printed["packaged"] + exports.stderr
    says = OnnxSession(exports.folder / "packaged.onnx").metadata
    assert (says.pop("licence"), says.pop("training_data")) == ("CC-BY-4.0", "random numbers")
    assert says == OnnxSession(exports.folder / "one frame.onnx").metadata


def test_models_have_the_inputs_and_outputs_that_they_need(exports):
    def ports(name):
        model = onnx.load(exports.folder / f"{name}.onnx")
        return {p.name for p in model.graph.input}, {p.name for p in model.graph.output}

    given, made = ports("keypoints")
    assert "cholesky_m" not in made and "root_rotation" not in made and "joints_world_m" in made
    given, made = ports("one frame")
    assert not {name for name in given | made if "cache" in name} and "started" in given
    given, made = ports("window 1, no poses")
    assert not {name for name in made if name.startswith("next_")}
    given, made = ports("lstm")
    state = {"state.cell", "state.hidden", "state.T_world_headset", "state.started"}
    assert {name for name in given if f"next_{name}" in made} == state


def test_world_joints_are_the_headset_joints_moved(exports):
    session = OnnxSession(exports.folder / "parametric.onnx")
    frame = sequences.random_sequence(3, 4, SIZE, 1).inputs(2)
    outputs = session.step(frame)
    T = frame["T_world_headset"][0]
    expected = outputs["joints_headset_m"][0] @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose(outputs["joints_world_m"][0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("int8 without data", "precision int8 is calibrated on recorded frames"),
        ("data of another model", r"4 views of (32, 32) pixels, the model takes 2 of (32, 32)"),
        ("no checkpoint", "no checkpoint here"),
        ("no directory", "no such directory to write no.onnx to"),
        ("batch 0", "batch: must be at least 1, got 0"),
    ],
)
def test_user_errors_are_told_and_leave_nothing(exports, job, message):
    assert "error: " in exports.printed[job] and "code 1" in exports.printed[job]
    assert message in exports.printed[job]
    assert not list(exports.folder.glob("**/no.*"))
    assert not list(exports.folder.glob("**/*.tmp*"))


def test_a_graph_that_is_not_the_model_is_not_published(exports, tmp_path, monkeypatch):
    """The tracer is replaced by one that hands back another model's graph, as a faulty one might."""
    trained = checkpoints.load(exports.folder / "parametric")
    other = onnx.load(exports.folder / "parametric.onnx")
    bias = next(t for t in other.graph.initializer if list(t.dims) == [trained.model.config.width])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, bias.name))
    monkeypatch.setattr(trace, "to_onnx", lambda *_: other)
    with pytest.raises(ValueError, match=r"does not compute what JAX computes: .*joints_.* differs by .*not published"):
        exporter.export(trained, tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())
