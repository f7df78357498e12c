"""What several rules need: reshapes to a constant shape, and tensors as they were before they were broadcast."""

from collections.abc import Iterable

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node


def reshaped(graph: Graph, source: str, shape: Iterable[int], output: str) -> Node:
    """Returns a Reshape of `source` to a constant shape."""
    return graph.node("Reshape", source, graph.constant(list(shape), np.int64), output=output)


def broadcast_like(graph: Graph, node: Node, source: str) -> list[Node] | str | None:
    """Returns a replacement of `node` that is `source` broadcast to the shape of the node's output."""
    shape, target = graph.shape(source), graph.shape(node.outputs[0])
    if shape is None or target is None:
        return None
    if shape == target:
        return source
    return [graph.node("Expand", source, graph.constant(target, np.int64), output=node.outputs[0])]


def before_broadcast(graph: Graph, name: str) -> tuple[str | np.ndarray, tuple[int, ...]] | None:
    """Returns a tensor or value of fewer axes or entries that broadcasts to `name`, and its shape; None without one."""
    if name in graph.constants:
        whole = graph.constants[name]
        value = without_repeats(whole)
        while value.ndim and value.shape[0] == 1:
            value = value[0]
        return (value, value.shape) if value.ndim < whole.ndim else None
    above = graph.producer(name)
    if above is None or above.op not in ("Expand", "Reshape"):
        return None
    before, after = graph.shape(above.inputs[0]), graph.shape(name)
    if before is None or after is None:  # a node of this sweep: its shape is not known yet
        return None
    if above.op == "Reshape" and after != (*(1,) * (len(after) - len(before)), *before):
        return None
    return above.inputs[0], before


def without_repeats(value: np.ndarray) -> np.ndarray:
    """Returns a constant cut to one entry along each axis along which it only repeats."""
    for axis, size in enumerate(value.shape):
        if size > 1 and np.array_equal(value, np.broadcast_to(value.take([0], axis), value.shape), equal_nan=True):
            value = value.take([0], axis)
    return value
