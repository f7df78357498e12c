"""The C++ example builds against ONNX Runtime's headers, streams a graph as numpy says, and fails when told."""

import pathlib
import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.extras

FRAMES = 7


@pytest.fixture(scope="session")
def program(cpp_examples) -> pathlib.Path:
    """Returns the built example."""
    return cpp_examples / "stream"


def run(program, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def write_graph(path) -> None:
    """Writes a step: in valid views, the pose is a gain times the sum of all bytes so far, plus other state."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def port(name, dtype, shape):
        return helper.make_tensor_value_info(name, dtype, shape)

    states = [
        port("memory", TensorProto.FLOAT, [2]),
        port("clock", TensorProto.INT32, [1]),
        port("started", TensorProto.BOOL, [1]),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "memory"], ["next_memory"]),
        helper.make_node("Add", ["clock", "one"], ["next_clock"]),
        helper.make_node("Not", ["started"], ["next_started"]),
        helper.make_node("Mul", ["next_memory", "gain"], ["scaled"]),
        helper.make_node("Where", ["view_valid", "scaled", "zero"], ["seen"]),
        helper.make_node("Cast", ["next_clock"], ["time"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["started"], ["flag"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["seen", "time", "flag"], ["pose_m"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.INT32, [1], [1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
    ]
    inputs = [
        port("images", TensorProto.UINT8, [2, 5]),
        port("view_valid", TensorProto.BOOL, [2]),
        port("gain", TensorProto.FLOAT, [1]),
        *states,
    ]
    next_states = [
        helper.make_tensor_value_info(f"next_{s.name}", s.type.tensor_type.elem_type, [d.dim_value for d in dims])
        for s in states
        for dims in [s.type.tensor_type.shape.dim]
    ]
    outputs = [port("pose_m", TensorProto.FLOAT, [2]), *next_states]
    graph = helper.make_graph(nodes, "step", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def golden_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 9, (FRAMES, 2, 5), dtype=np.uint8)
    view_valid = rng.random((FRAMES, 2)) > 0.3
    gain = np.array([0.01], np.float32)
    memory = np.cumsum(images.sum(-1), axis=0)
    frames = np.arange(FRAMES)
    others = frames + 1 + frames % 2
    return {
        "inputs/images": images,
        "inputs/view_valid": view_valid,
        "calibration/gain": gain,
        "outputs/pose_m": (np.where(view_valid, memory * gain, 0.0) + others[:, None]).astype(np.float32),
        "final/memory": memory[-1].astype(np.float32),
        "final/clock": np.array([FRAMES], np.int32),
        "final/started": np.array([FRAMES % 2 == 1]),
        "tolerance/pose_m": np.asarray(1e-4),
        **{f"tolerance/next_{name}": np.asarray(1e-3) for name in ("memory", "clock", "started")},
        "graph_sha256": np.asarray("0" * 64),
    }


def test_streams_as_numpy_does(program, tmp_path):
    write_graph(tmp_path / "g.onnx")
    np.savez(tmp_path / "g.golden.npz", **golden_arrays())
    done = run(program, tmp_path / "g.onnx")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(name in done.stdout for name in ("pose_m", "next_memory", "next_clock", "next_started"))
    assert f"{FRAMES} frames, 1 thread: p50" in done.stdout


@pytest.mark.parametrize(
    "name, index, value",
    [
        ("outputs/pose_m", (-1, 1), 0.5),
        ("outputs/pose_m", (2, 0), np.nan),
        ("final/memory", 1, 0.0),
        ("final/clock", 0, 0),
        ("final/started", 0, FRAMES % 2 == 0),
    ],
)
def test_one_wrong_number_fails(program, tmp_path, name, index, value):
    write_graph(tmp_path / "g.onnx")
    arrays = golden_arrays()
    arrays[name][index] = value
    np.savez(tmp_path / "other.npz", **arrays)
    done = run(program, tmp_path / "g.onnx", tmp_path / "other.npz")
    assert done.returncode == 1 and done.stdout.count("FAILED") == 1, done.stdout + done.stderr


def test_files_that_it_cannot_use_are_refused(program, tmp_path):
    graph, golden = tmp_path / "g.onnx", tmp_path / "g.npz"
    write_graph(graph)
    arrays = golden_arrays()

    def error(save=np.savez, without=(), **changes) -> str:
        changed = {name.replace("__", "/"): array for name, array in changes.items()}
        save(golden, **{k: v for k, v in {**arrays, **changed}.items() if not k.startswith(without)})
        done = run(program, graph, golden)
        assert done.returncode == 2
        return done.stderr

    assert "is compressed; write it with numpy.savez" in error(np.savez_compressed)
    assert "has no inputs/gain" in error(without=("calibration",))
    assert "has no tolerance/pose_m" in error(without=("tolerance/pose_m",))
    assert "no frames to compare" in error(without=("outputs",))
    assert "not all arrays have as many frames" in error(outputs__pose_m=arrays["outputs/pose_m"][1:])
    for changed in (arrays["inputs/images"][:, :, :4], arrays["inputs/images"].astype(np.int32)):
        assert "inputs/images has another type or shape" in error(inputs__images=changed)
    assert "outputs/pose_m has another type or shape" in error(outputs__pose_m=arrays["outputs/pose_m"].astype(float))
    golden.write_bytes(b"not a zip at all")
    assert "is no zip" in run(program, graph, golden).stderr
    assert "cannot be opened" in run(program, graph).stderr
    assert run(program).returncode == 2
