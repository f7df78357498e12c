"""Sessions and golden sequences on a graph written by hand: a step whose joints are the brightness plus a counter."""

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from epfv2_jax.core import files  # noqa: E402
from epfv2_jax.deploy import golden as golden_lib  # noqa: E402
from epfv2_jax.deploy.session import FORMAT_VERSION, OnnxSession  # noqa: E402
from epfv2_jax.deploy.verify import verify  # noqa: E402

pytestmark = pytest.mark.extras

FRAMES = 16


def write_graph(path, gain: float = 1.0, external: bool = False, format_version: str | None = None) -> None:
    """joints = gain * (mean of the image + frames seen so far), and the pose passed through to nowhere."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["seen", "one"], ["next_seen"]),
        helper.make_node("Cast", ["next_seen"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["mean", "count"], ["sum"]),
        helper.make_node("Mul", ["sum", "gain"], ["scaled"]),
        helper.make_node("ReduceSum", ["pose", "axes"], ["of_pose"], keepdims=0),
        helper.make_node("Add", ["scaled", "of_pose"], ["joints_headset_m"]),
    ]
    constants = {"axes": np.array([1]), "one": np.array([1], np.int32), "gain": np.array([gain], np.float32)}
    inputs = [("images", TensorProto.UINT8, 4), ("pose", TensorProto.FLOAT, 2), ("seen", TensorProto.INT32, None)]
    outputs = [("joints_headset_m", TensorProto.FLOAT), ("next_seen", TensorProto.INT32)]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info(name, kind, [1] if size is None else [1, size]) for name, kind, size in inputs],
        [helper.make_tensor_value_info(name, kind, [1]) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    version = format_version or json.dumps(FORMAT_VERSION)
    helper.set_model_props(model, {"format_version": version, "joint_names": json.dumps(["a"])})
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(model, path)


def make_golden(gain: float = 1.0) -> golden_lib.Golden:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (FRAMES, 1, 4), np.uint8)
    seen = np.arange(1, FRAMES + 1)[:, None]
    return {
        "inputs": {"images": images, "pose": np.zeros((FRAMES, 1, 2), np.float32)},
        "outputs": {"joints_headset_m": (gain * (images.mean(axis=2) + seen)).astype(np.float32)},
        "final": {"seen": np.array([FRAMES], np.int32)},
        "tolerance": {"joints_headset_m": np.asarray(1e-3), "next_seen": np.asarray(0.5)},
        "recorded": {"time_s": np.arange(FRAMES)[:, None] / 30},
    }


@pytest.fixture
def exported(tmp_path):
    """A graph with its golden sequence beside it."""
    path = tmp_path / "step.onnx"
    write_graph(path)
    golden_lib.write(golden_lib.path_of(path), make_golden(), files.sha256(path))
    return path


def run_command(path, *extra: str) -> subprocess.CompletedProcess:
    """Runs the command without JAX: importing it fails."""
    program = "import sys; sys.modules['jax'] = None; from epfv2_jax import verify_onnx; sys.exit(verify_onnx.main())"
    return subprocess.run([sys.executable, "-c", program, str(path), *extra], capture_output=True, text=True)


def test_state_is_carried_and_forgotten(exported):
    session = OnnxSession(exported)
    frame = {"images": np.full((1, 4), 10, np.uint8), "pose": np.zeros((1, 2), np.float32)}
    for _ in range(2):
        assert [session.step(frame)["joints_headset_m"].item() for _ in range(3)] == [11, 12, 13]
        session.reset()
    assert session.metadata["joint_names"] == ["a"]


def test_inputs_that_do_not_fit_are_refused(exported):
    session = OnnxSession(exported)
    frame = {"images": np.zeros((1, 4), np.uint8), "pose": np.zeros((1, 2), np.float32)}
    with pytest.raises(ValueError, match=r"images: expected \(1, 4\) uint8, got \(1, 5\) uint8; as the graph"):
        session.step({**frame, "images": np.zeros((1, 5), np.uint8)})
    with pytest.raises(ValueError, match=r"images: expected \(1, 4\) uint8, got \(1, 4\) float32"):
        session.step({**frame, "images": np.zeros((1, 4), np.float32)})
    with pytest.raises(ValueError, match="pose: holds values that are not finite"):
        session.step({**frame, "pose": np.full((1, 2), np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"inputs: \['pose'\] are missing"):
        session.step({"images": frame["images"]})
    with pytest.raises(ValueError, match=r"inputs: \['seen'\] are missing, or unknown"):
        session.step({**frame, "seen": np.zeros(1, np.int32)})
    assert session.step(frame)["joints_headset_m"].item() == 1  # nothing of the above was counted


def test_files_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "g.onnx"
    with pytest.raises(ValueError, match=r"no such file; make it with python -m epfv2_jax\.export"):
        OnnxSession(path)
    path.write_bytes(b"\xff\xffno graph")
    with pytest.raises(ValueError, match="not an ONNX file"):
        OnnxSession(path)
    write_graph(path, external=True)
    with pytest.raises(ValueError, match="tensors lie in other files"):
        OnnxSession(path)
    write_graph(path, format_version="0")
    with pytest.raises(ValueError, match="format_version: expected '1', got '0'; export the checkpoint again"):
        OnnxSession(path)


def test_golden_survives_its_file(exported):
    again = golden_lib.read(golden_lib.path_of(exported), exported)
    golden = make_golden()
    assert {group: sorted(arrays) for group, arrays in again.items()} == {
        group: sorted(arrays) for group, arrays in golden.items()
    }
    for group, arrays in golden.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(again[group][name], value)


def test_golden_of_a_model_of_single_frames_has_no_state(exported):
    stateless = {**make_golden(), "final": {}, "tolerance": {"joints_headset_m": np.asarray(1e-3)}}
    golden_lib.write(golden_lib.path_of(exported), stateless, files.sha256(exported))
    assert golden_lib.read(golden_lib.path_of(exported), exported)["final"] == {}


def test_golden_of_another_graph_is_refused(exported, tmp_path):
    golden_path = golden_lib.path_of(exported)
    write_graph(exported, gain=1.001)
    with pytest.raises(ValueError, match="belongs to another graph"):
        golden_lib.read(golden_path, exported)
    golden_path.write_bytes(golden_path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a golden sequence"):
        golden_lib.read(golden_path, exported)
    golden_path.unlink()
    with pytest.raises(ValueError, match="no golden sequence; the export writes it beside the graph"):
        golden_lib.read(golden_path, exported)


def test_golden_with_objects_is_not_unpickled(exported):
    golden_path = golden_lib.path_of(exported)
    np.savez(golden_path, graph_sha256=np.asarray("0"), **{"inputs/images": np.array([{}], object)})
    with pytest.raises(ValueError, match="not a golden sequence"):
        golden_lib.read(golden_path, exported)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"outputs": {}}, "outputs: there are none"),
        ({"inputs": {}}, "inputs: there are none"),
        ({"outputs": {"joints_headset_m": np.full((FRAMES, 1), np.nan, np.float32)}}, "not finite"),
        (
            {"outputs": {"joints_headset_m": np.zeros((3, 1), np.float32)}},
            r"number of frames: expected \(16,\), got \(3,\)",
        ),
        ({"tolerance": {"joints_headset_m": np.asarray(1e-3)}}, "names of tolerance"),
        ({"final": {}}, "names of tolerance"),
        ({"tolerance": {"joints_headset_m": np.asarray(-1.0), "next_seen": np.asarray(0.5)}}, "must be at least 0"),
    ],
)
def test_golden_sequences_that_prove_nothing_are_refused(exported, change, message):
    path = golden_lib.path_of(exported)
    golden_lib.write(path, {**make_golden(), **change}, files.sha256(exported))
    with pytest.raises(ValueError, match=rf"{path}: not a golden sequence: .*{message}.*; export again"):
        golden_lib.read(path, exported)


def test_golden_that_states_a_huge_array_takes_no_memory(exported):
    path = golden_lib.path_of(exported)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 42,)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs/images.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"not a golden sequence: arrays: .*reshape"):
        golden_lib.read(path, exported)


def test_a_graph_that_cannot_run_is_refused_by_name(tmp_path):
    path = tmp_path / "g.onnx"
    write_graph(path)
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(
        ValueError, match=rf"^{path}: ONNX Runtime refuses this graph: .*NoSuchOperator[\s\S]*; export the"
    ):
        OnnxSession(path)
    write_graph(path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "any"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=rf"^{path}: input images: size of axis 0: expected a number, got 'any'"):
        OnnxSession(path)
    write_graph(path)
    model = onnx.load(path)
    model.metadata_props.add(key="inputs", value="[")
    onnx.save(model, path)
    with pytest.raises(ValueError, match=rf"^{path}: metadata 'inputs': not valid JSON"):
        OnnxSession(path)


def test_replay_finds_the_largest_difference(exported):
    session = OnnxSession(exported)
    golden = make_golden()
    golden["outputs"]["joints_headset_m"][3] += 0.5
    differences = golden_lib.replay(session, golden)
    np.testing.assert_allclose(differences["joints_headset_m"], 0.5, atol=1e-4)
    assert differences["next_seen"] == 0
    assert golden_lib.beyond_tolerance(golden, differences) == ["joints_headset_m differs by 0.5, allowed is 0.001"]
    golden["outputs"]["joints_headset_m"][4] = np.nan
    assert golden_lib.replay(session, golden)["joints_headset_m"] == float("inf")
    assert golden_lib.difference(np.array([True]), np.array([False])) == float("inf")


def test_report_has_latency_and_memory(exported):
    report = verify(exported, make_golden())
    assert report.beyond == []
    assert set(report.latency_ms) == {1, 2}
    assert all(0 < p50 <= p99 for p50, p99 in report.latency_ms.values())
    assert 10 < report.peak_memory_mib < 100_000


def test_command_without_jax(exported):
    done = run_command(exported)
    assert done.returncode == 0, done.stderr
    for line in ("joints_headset_m", "1 thread ", "2 threads", "p99", "peak memory", "ok"):
        assert line in done.stdout


def test_command_fails_on_a_difference_and_on_user_errors(exported, tmp_path):
    write_graph(exported, gain=1.5)
    golden_path = golden_lib.path_of(exported)
    golden_lib.write(golden_path, make_golden(), files.sha256(exported))
    done = run_command(exported)
    assert done.returncode == 1
    assert "FAILED: joints_headset_m differs by" in done.stdout
    done = run_command(tmp_path / "none.onnx")
    assert done.returncode == 1
    assert "error: " in done.stderr and "Traceback" not in done.stderr
