"""Reduced precision is that of the encoder alone."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto  # noqa: E402
from onnx_models import RNG, build, conv_net, normal, ops, run  # noqa: E402

from epfv2_jax.deploy import gates, precision, rules  # noqa: E402
from epfv2_jax.deploy.graph import Graph  # noqa: E402

pytestmark = pytest.mark.extras


def test_half_precision_is_the_encoder_alone():
    inputs, nodes, constants = conv_net()
    inputs = {"images": RNG.integers(0, 9, inputs["x"].shape, np.uint8), "pose": normal(4)}
    nodes.insert(0, ("Cast", ["images"], ["x"], {"to": TensorProto.FLOAT}))
    nodes.append(("Mul", ["y", "pose"], ["z"], {}))
    model = build(inputs, nodes, constants)
    expected = run(model, inputs)
    del model.graph.value_info[:]
    graph = Graph(model)
    rules.simplify(graph)
    half = precision.to_half(graph)
    gates.check(half)
    weights = {t.data_type for t in half.graph.initializer if len(t.dims) == 4}
    assert weights == {TensorProto.FLOAT16}
    assert ops(half)[-2:] == ["Cast", "Mul"]
    np.testing.assert_allclose(run(half, inputs), expected, rtol=2e-2, atol=5e-2)
