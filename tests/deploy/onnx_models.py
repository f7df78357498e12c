"""Small ONNX models written by hand, and what ONNX Runtime computes with them."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from epfv2_jax.deploy import gates, rules
from epfv2_jax.deploy.graph import Graph

RNG = np.random.default_rng(0)


def normal(*shape) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def build(inputs: dict, nodes: list, constants: dict, output_shape: tuple | None = None):
    """Returns a model; `inputs` are arrays of the inputs' shapes by name; the last node computes the output."""
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    protos = [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    output = helper.make_empty_tensor_value_info(nodes[-1][2][0])
    if output_shape is not None:
        output = helper.make_tensor_value_info(nodes[-1][2][0], TensorProto.FLOAT, output_shape)
    graph = helper.make_graph(protos, "g", ports, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def run(model, inputs: dict) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def simplified(model):
    del model.graph.value_info[:]
    graph = Graph(model)
    rules.simplify(graph)
    result = graph.model()
    gates.check(result)
    return result


def ranks(model) -> dict[str, list]:
    """Returns the axes of every tensor that is computed, by name."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: list(v.type.tensor_type.shape.dim) for v in [*inferred.value_info, *inferred.output]}


def ops(model) -> list[str]:
    return [node.op_type for node in model.graph.node]


TO_LAST, TO_FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}


def conv_net():
    """Returns two convolutions on channels-last tensors with normalisation, explicit padding and a shortcut."""
    inputs = {"x": normal(2, 8, 8, 3)}
    constants = {
        **{"w1": normal(4, 3, 3, 3), "w2": normal(4, 4, 3, 3)},
        **{f"{n}{i}": normal(4) for n in ("scale", "bias", "mean") for i in (1, 2)},
        **{f"var{i}": RNG.uniform(0.5, 2, 4).astype(np.float32) for i in (1, 2)},
        "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
        **{"low": np.float32(-np.inf), "shift": normal(4), "gain": normal(4)},
    }
    nodes = [
        ("Transpose", ["x"], ["x_first"], TO_FIRST),
        ("Conv", ["x_first", "w1"], ["c1"], {"pads": [1] * 4}),
        ("BatchNormalization", ["c1", "scale1", "bias1", "mean1", "var1"], ["b1"], {"epsilon": 1e-3}),
        ("Transpose", ["b1"], ["b1_last"], TO_LAST),
        ("Sub", ["b1_last", "shift"], ["s1"], {}),
        ("Mul", ["s1", "gain"], ["g1"], {}),
        ("Relu", ["g1"], ["r1"], {}),
        ("Pad", ["r1", "pads", "low"], ["p1"], {}),
        ("Transpose", ["p1"], ["p1_first"], TO_FIRST),
        ("MaxPool", ["p1_first"], ["m1"], {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Transpose", ["m1"], ["m1_last"], TO_LAST),
        ("Transpose", ["m1_last"], ["m1_again"], TO_FIRST),
        ("Conv", ["m1_again", "w2"], ["c2"], {"pads": [1] * 4}),
        ("BatchNormalization", ["c2", "scale2", "bias2", "mean2", "var2"], ["b2"], {"epsilon": 1e-3}),
        ("Transpose", ["b2"], ["b2_last"], TO_LAST),
        ("Add", ["b2_last", "m1_last"], ["sum"], {}),
        ("Relu", ["sum"], ["y"], {}),
    ]
    return inputs, nodes, constants
