"""Graphs with the encoder, which is nearly all of their cost, in float16 or int8; the rest stays float32."""

import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules import stem
from epfv2_jax.deploy.sequences import FrameSequence

_PRODUCTS = ("Conv", "MatMul", "Gemm")
#: In eight bits where all their inputs are. A Relu is then the lower end of the eight-bit range, and costs nothing.
_BETWEEN = ("Relu", "Add", "MaxPool")
_HALF_MAX = float(np.finfo(np.float16).max)


def image_nodes(graph: Graph) -> list[Node]:
    """Returns the nodes that depend on nothing but the images and their validity: the encoder.

    Nodes that also depend on a pose, the cameras or the state compute geometry, or work on one token a frame.
    """
    found, only_images = [], {"images", "view_valid"}
    for node in graph.nodes:
        varying = {name for name in node.inputs if name and name not in graph.constants}
        if varying and varying <= only_images:
            only_images.update(node.outputs)
            found.append(node)
    return found


def to_half(graph: Graph) -> onnx.ModelProto:
    """Returns the model with the encoder in float16. Inputs, outputs and everything after the encoder are float32."""
    half = {id(node) for node in image_nodes(graph)}
    tensors = {name for node in graph.nodes if id(node) in half for name in node.outputs}
    is_float = {name for name in tensors if graph.dtype(name) == np.float32}
    back = {}  # float16 tensor -> its float32 copy
    nodes, constants = [], dict(graph.constants)
    for node in graph.nodes:
        inputs = list(node.inputs)
        attributes = dict(node.attributes)
        casts = []
        for i, name in enumerate(inputs):
            if id(node) in half and name in graph.constants and graph.dtype(name) == np.float32:
                inputs[i] = f"{name}__half"
                constants[inputs[i]] = np.clip(graph.constants[name], -_HALF_MAX, _HALF_MAX).astype(np.float16)
            elif id(node) not in half and name in is_float:
                if name not in back:
                    back[name] = f"{name}__float"
                    casts.append(Node("Cast", [name], [back[name]], {"to": TensorProto.FLOAT}))
                inputs[i] = back[name]
        if id(node) in half and node.op == "Cast" and attributes["to"] == TensorProto.FLOAT:
            attributes["to"] = TensorProto.FLOAT16
        nodes += [*casts, Node(node.op, inputs, node.outputs, attributes)]
    converted = Graph(graph.model())
    converted.nodes, converted.constants = nodes, constants
    return converted.model()


def _eight_bit_nodes(graph: Graph) -> list[Node]:
    """Returns the encoder's products, and what computes from them alone: no number then leaves eight bits in between.

    Products before the first convolution normalise the images: eight bits are too few for them.
    """
    encoder = image_nodes(graph)
    first = next((i for i, node in enumerate(encoder) if node.op == "Conv"), 0)
    found, in_eight_bits = [], set()
    for node in encoder[first:]:
        if node.op in _PRODUCTS or (node.op in _BETWEEN and in_eight_bits.issuperset(node.inputs)):
            in_eight_bits.update(node.outputs)
            found.append(node)
    return found


def quantize(graph: Graph, state: Mapping[str, np.ndarray], sequences: Iterable[FrameSequence]) -> onnx.ModelProto:
    """Returns the model with the encoder in int8, as QuantizeLinear and DequantizeLinear pairs.

    Weights are quantised for each output channel, activations by their range over `sequences`. What is quantised
    depends on the images alone, so any `state` will do.
    """
    import onnxruntime as ort
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._frames = ({**s.inputs(f), **state} for s in sequences for f in range(s.num_frames))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._frames, None)

    graph = Graph(graph.model())
    graph.rewrite({"Conv": (stem.cells,)})
    names = [node.outputs[0] for node in _eight_bit_nodes(graph)]
    ort.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (os.fspath(pathlib.Path(folder) / name) for name in ("float.onnx", "int8.onnx"))
        onnx.save(graph.model(), source)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(target)
    rewritten = Graph(model)
    return rewritten.model()
