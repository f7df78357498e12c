"""Graphs survive the way from an ONNX message and back."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx_models import build, normal  # noqa: E402

from epfv2_jax.deploy.graph import Graph  # noqa: E402

pytestmark = pytest.mark.extras


@pytest.mark.parametrize("value", [np.float32(2), normal(1), normal(3, 4).T])
def test_constants_keep_their_shape(value):
    model = build({"x": normal(4, 3)}, [("Mul", ["x", "c"], ["y"], {})], {"c": value})
    (tensor,) = Graph(model).model().graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), value, strict=True)
