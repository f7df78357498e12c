"""Operations that do nothing, or whose result is known: they become their input or a constant."""

import math

import numpy as np
from onnx import helper

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.shared import broadcast_like, reshaped


def identity(graph: Graph, node: Node) -> str | None:
    """Identity: its input."""
    return node.inputs[0]


def dropout(graph: Graph, node: Node) -> str | None:
    """Dropout outside training: its input."""
    training = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.asarray(False)
    return None if training is None or training.any() else node.inputs[0]


def cast(graph: Graph, node: Node) -> str | None:
    """Cast to the type that the input already has: its input."""
    to = np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
    return node.inputs[0] if graph.dtype(node.inputs[0]) == to else None


def static_shape(graph: Graph, node: Node) -> str | None:
    """Shape of a tensor of known shape: a constant."""
    shape = graph.shape(node.inputs[0])
    if shape is None or node.attributes:
        return None
    return graph.constant(shape, np.int64)


def cumulative_sum(graph: Graph, node: Node) -> str | None:
    """CumSum along an axis of one entry: its input."""
    shape = graph.shape(node.inputs[0])
    axis = graph.constants.get(node.inputs[1])
    inclusive = not node.attributes.get("exclusive", 0)
    return node.inputs[0] if shape is not None and axis is not None and inclusive and shape[int(axis)] == 1 else None


def reduction(graph: Graph, node: Node) -> list[Node] | None:
    """A sum, mean or extremum over axes of one entry: a Reshape."""
    shape, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if shape is None or target is None or math.prod(shape) != math.prod(target):
        return None
    return [reshaped(graph, node.inputs[0], target, node.outputs[0])]


def where(graph: Graph, node: Node) -> list[Node] | str | None:
    """Where with a constant condition that is the same everywhere: one of its branches."""
    if node.inputs[0] not in graph.constants:
        return None
    condition = graph.constants[node.inputs[0]]
    if condition.all() or not condition.any():
        return broadcast_like(graph, node, node.inputs[1 if condition.all() else 2])
    return None


def logical(graph: Graph, node: Node) -> list[Node] | str | None:
    """And or Or with a constant that is the same everywhere: the other input, or the constant."""
    for name, other in (node.inputs, node.inputs[::-1]):
        if name in graph.constants:
            value = graph.constants[name]
            if (node.op == "And" and value.all()) or (node.op == "Or" and not value.any()):
                return broadcast_like(graph, node, other)
            if (node.op == "And" and not value.any()) or (node.op == "Or" and value.all()):
                return broadcast_like(graph, node, name)
    return None
