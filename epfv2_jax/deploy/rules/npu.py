"""What compilers for NPUs refuse is written otherwise: rare operations, and entry-by-entry ones on many axes."""

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.shared import reshaped

#: Most axes that an entry-by-entry operation may have on an NPU.
MAX_RANK = 4


def sum_square(graph: Graph, node: Node) -> list[Node]:
    """ReduceSumSquare: a product and a sum."""
    square = graph.node("Mul", node.inputs[0], node.inputs[0])
    return [square, Node("ReduceSum", [square.outputs[0], *node.inputs[1:]], node.outputs, node.attributes)]


def negative(graph: Graph, node: Node) -> list[Node] | None:
    """-(a - b): b - a, since compilers for NPUs lack the negative of integers."""
    above = graph.producer(node.inputs[0], "Sub")
    return [graph.node("Sub", *above.inputs[::-1], output=node.outputs[0])] if above is not None else None


def power(graph: Graph, node: Node) -> list[Node] | None:
    """x ** 2: x * x."""
    exponent = graph.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2.0:
        return None
    return [graph.node("Mul", node.inputs[0], node.inputs[0], output=node.outputs[0])]


def one_hot(graph: Graph, node: Node) -> list[Node] | None:
    """OneHot: a comparison with the row 0 ... depth - 1, also for scalars, which OneHot itself refuses."""
    index, depth, values = node.inputs
    shape = graph.shape(index)
    if shape is None or depth not in graph.constants or values not in graph.constants:
        return None
    if node.attributes.get("axis", -1) not in (-1, len(shape)):
        return None
    row = np.arange(int(graph.constants[depth].reshape(())), dtype=graph.dtype(index))
    off, on = graph.constants[values]
    column = reshaped(graph, index, (*shape, 1), graph.name("column"))
    equal = graph.node("Equal", column.outputs[0], graph.constant(row))
    chosen = graph.node("Where", equal.outputs[0], graph.constant(on), graph.constant(off), output=node.outputs[0])
    return [column, equal, chosen]


def lower_rank(graph: Graph, node: Node) -> list[Node] | None:
    """An entry-by-entry operation on more than `MAX_RANK` axes: without the first axis of one entry."""
    target, shapes = graph.shape(node.outputs[0]), [graph.shape(name) for name in node.inputs if name]
    if target is None or None in shapes or len(target) <= MAX_RANK or 1 not in target:
        return None
    nodes, inputs = [], []
    for name in node.inputs:
        axis = target.index(1) - len(target) + len(graph.shape(name)) if name else -1
        if axis >= 0:
            shape = graph.shape(name)
            nodes.append(reshaped(graph, name, (*shape[:axis], *shape[axis + 1 :]), graph.name("lower")))
            name = nodes[-1].outputs[0]
        inputs.append(name)
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [*nodes, first, reshaped(graph, first.outputs[0], target, node.outputs[0])]
