"""What must not be deployed is refused."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import TO_LAST, build, conv_net, normal  # noqa: E402

from epfv2_jax.deploy import gates  # noqa: E402

pytestmark = pytest.mark.extras


def sound():
    return build({"x": normal(2, 3)}, [("Relu", ["x"], ["r"], {}), ("Neg", ["r"], ["y"], {})], {})


def broken(kind: str):
    model = sound()
    del model.graph.value_info[:]
    graph = model.graph
    if kind == "stale value_info":
        graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, (7, 7)))
    elif kind == "dynamic shape":
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    elif kind == "foreign domain":
        graph.node[0].domain = "com.microsoft"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    elif kind == "old operator set":
        model.opset_import[0].version = 13
    elif kind == "new operator set":
        model.opset_import[0].version = 21
    elif kind == "new file format":
        model.ir_version = 10
    elif kind == "scale in a vector":
        graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "scale"))
        graph.node.append(helper.make_node("QuantizeLinear", ["x", "scale"], ["z"]))
    elif kind == "control flow":
        branch = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["n"])], "b", [], [helper.make_tensor_value_info("n", 1, (2, 3))]
        )
        graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
        graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    elif kind == "gemm without bias":
        graph.initializer.append(numpy_helper.from_array(normal(3, 3), "w"))
        graph.initializer.append(numpy_helper.from_array(normal(3), "zero"))
        graph.node.append(helper.make_node("Gemm", ["x", "w", "zero"], ["z"], beta=0.0))
    elif kind == "external data":
        tensor = numpy_helper.from_array(normal(3), "w")
        onnx.external_data_helper.set_external_data(tensor, "weights.bin")
        tensor.data_location = TensorProto.EXTERNAL
        graph.initializer.append(tensor)
    elif kind == "unknown operation":
        graph.node[0].op_type = "Relux"
    elif kind == "functions":
        model.functions.append(
            helper.make_function(
                "f", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [model.opset_import[0]]
            )
        )
    elif kind in ("normalisation", "layout"):
        inputs, nodes, constants = conv_net()
        if kind == "layout":
            nodes[2:] = [("Transpose", ["c1"], ["t"], TO_LAST), ("Conv", ["t", "w3"], ["y"], {})]
            constants["w3"] = normal(4, 8, 1, 1)
        model = build(inputs, nodes, constants)
        del model.graph.value_info[:]
    return model


BROKEN = {
    "stale value_info": "value_info",
    "dynamic shape": "shape of x",
    "foreign domain": "Relu of the domain com.microsoft",
    "old operator set": "operator sets",
    "new operator set": "operator sets",
    "new file format": "version 10 of the file format",
    "scale in a vector": "no scalar",
    "control flow": "control flow",
    "gemm without bias": "Gemm with beta = 0",
    "external data": "outside the file",
    "unknown operation": "checker of ONNX refuses",
    "functions": "functions",
    "normalisation": "not folded",
    "layout": "layout between convolutions",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_must_not_be_published(kind):
    model = sound()
    del model.graph.value_info[:]
    gates.check(model)
    with pytest.raises(ValueError, match=BROKEN[kind]):
        gates.check(broken(kind))
