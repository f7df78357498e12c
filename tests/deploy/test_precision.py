"""Reduced precision is that of the encoder alone, and its graphs load in old runtimes."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto  # noqa: E402
from onnx_models import RNG, build, conv_net, ops, run  # noqa: E402

from epfv2_jax.deploy import gates, precision, rules  # noqa: E402
from epfv2_jax.deploy.graph import Graph  # noqa: E402
from epfv2_jax.deploy.sequences import FrameSequence  # noqa: E402

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def net():
    """A small encoder of images, its result times the frame's gap: graph, inputs, and what it computes from them."""
    inputs, nodes, constants = conv_net()
    inputs = {"images": RNG.integers(0, 9, inputs["x"].shape, np.uint8), "frame_gap": np.array([3], np.int32)}
    casts = [("images", "x"), ("frame_gap", "gap")]
    nodes = [
        *(("Cast", [a], [b], {"to": TensorProto.FLOAT}) for a, b in casts),
        *nodes,
        ("Mul", ["y", "gap"], ["z"], {}),
    ]
    model = build(inputs, nodes, constants)
    expected = run(model, inputs)
    del model.graph.value_info[:]
    graph = Graph(model)
    rules.simplify(graph)
    return graph, inputs, expected


@pytest.fixture(scope="module")
def int8(net):
    graph, inputs, _ = net
    frames = {name: value[None] for name, value in inputs.items()}
    return precision.quantize(graph, {}, [FrameSequence(frames=frames, calibration={})])


def test_half_precision_is_the_encoder_alone(net):
    graph, inputs, expected = net
    half = precision.to_half(graph)
    gates.check(half)
    weights = {t.data_type for t in half.graph.initializer if len(t.dims) == 4}
    assert weights == {TensorProto.FLOAT16}
    assert ops(half)[-2:] == ["Cast", "Mul"]
    np.testing.assert_allclose(run(half, inputs), expected, rtol=2e-2, atol=5e-2)


def test_eight_bits_are_the_encoder_alone_and_compute_the_same(net, int8):
    _, inputs, expected = net
    gates.check(int8)
    weights = {t.data_type for t in int8.graph.initializer if len(t.dims) == 4}
    assert weights == {TensorProto.INT8}
    assert ops(int8)[-1] == "Mul"
    difference = run(int8, inputs) - expected
    assert 0 < np.std(difference) < 0.04 * np.std(expected)


def test_no_number_leaves_eight_bits_within_the_encoder(int8):
    """Each convolution, sum and pooling reads dequantised tensors alone, and what it computes is quantised next."""
    made_by = {name: node.op_type for node in int8.graph.node for name in node.output}
    inner = [node for node in int8.graph.node if node.op_type in ("Conv", "MaxPool", "Add")]
    assert len(inner) == 4 and "Relu" not in ops(int8)
    for node in inner:
        assert {made_by[name] for name in node.input} == {"DequantizeLinear"}
        readers = {n.op_type for n in int8.graph.node if node.output[0] in n.input}
        assert readers == {"QuantizeLinear"}


def test_scales_are_scalars_or_one_for_each_channel(int8):
    """Runtimes before 1.32 refuse one scale in a vector."""
    constants = {t.name: t for t in int8.graph.initializer}
    channels = []
    for node in int8.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero_point = (list(constants[name].dims) for name in node.input[1:])
        assert scale == zero_point
        channels += scale
        assert scale == [] or scale == list(constants[node.input[0]].dims)[:1]
    assert set(channels) == {4}  # weights and biases of the convolutions


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_file_format_is_one_that_old_runtimes_know(net, int8, kind):
    graph, *_ = net
    model = {"fp32": graph.model, "fp16": lambda: precision.to_half(graph), "int8": lambda: int8}[kind]()
    assert model.ir_version <= 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
