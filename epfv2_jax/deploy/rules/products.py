"""Products of matrices that are written otherwise become MatMul."""

import math

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.shared import reshaped, without_repeats


def gemm(graph: Graph, node: Node) -> list[Node] | None:
    """Gemm without a bias (or with beta = 0, which some compilers refuse): MatMul."""
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if bias and attributes["beta"] != 0 and (bias not in graph.constants or graph.constants[bias].any()):
        return None
    if attributes["alpha"] != 1:
        return None
    nodes, names = [], list(node.inputs[:2])
    for i, flag in enumerate(("transA", "transB")):
        if attributes[flag]:
            nodes.append(graph.node("Transpose", names[i], perm=[1, 0]))
            names[i] = nodes[-1].outputs[0]
    return [*nodes, graph.node("MatMul", *names, output=node.outputs[0])]


def sum_of_products(graph: Graph, node: Node) -> list[Node] | None:
    """The sum over k of a[..., m, k, 1] * b[..., 1, k, n]: MatMul."""
    product, target = graph.producer(node.inputs[0], "Mul"), graph.shape(node.outputs[0])
    axes = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if product is None or axes is None or target is None or node.attributes.get("keepdims", 1):
        return None
    a, b = (graph.shape(name) for name in product.inputs)
    if a is None or b is None or len(a) != len(b) or len(a) < 3 or axes.tolist() != [len(a) - 2]:
        return None
    if a[:-3] != b[:-3] or a[-1] != 1 or b[-3] != 1 or a[-2] != b[-2]:
        return None
    left = reshaped(graph, product.inputs[0], a[:-1], graph.name("left"))
    right = reshaped(graph, product.inputs[1], (*b[:-3], *b[-2:]), graph.name("right"))
    return [left, right, graph.node("MatMul", left.outputs[0], right.outputs[0], output=node.outputs[0])]


def einsum(graph: Graph, node: Node) -> list[Node] | None:
    """Einsum of two operands: transpositions around one MatMul."""
    shapes = [graph.shape(name) for name in node.inputs]
    target = graph.shape(node.outputs[0])
    if len(shapes) != 2 or None in shapes or target is None:
        return None
    labels = _labels(node.attributes["equation"].decode(), [*shapes, target])
    size = {
        c: n
        for term, shape in zip(labels, [*shapes, target], strict=True)
        for c, n in zip(term, shape, strict=True)
        if n != 1
    }

    operands = []  # (name, labels of more than one entry)
    for name, term, shape in zip(node.inputs, labels[:2], shapes, strict=True):
        name, shape = _behind_broadcast(graph, name, shape)
        operands.append((name, [c for c, n in zip(term, shape, strict=True) if n != 1]))
    (_, left), (_, right), out = *operands, [c for c in labels[2] if c in size]
    batch = [c for c in left if c in right and c in out]
    summed = [c for c in left if c in right and c not in out]
    rows, columns = ([c for c in own if c not in (*batch, *summed)] for own in (left, right))
    if any(c not in out for c in (*rows, *columns)):
        return None

    nodes: list[Node] = []

    def matrix(operand: tuple[str, list[str]], order: tuple[list[str], list[str], list[str]]) -> str:
        """Returns the operand with its axes in `order`: those of the batch, then rows and columns as one axis each."""
        name, kept = operand
        flat = reshaped(graph, name, [size[c] for c in kept], graph.name("squeezed"))
        turned = graph.node("Transpose", flat.outputs[0], perm=[kept.index(c) for group in order for c in group])
        joined = [size[c] for c in order[0]] + [math.prod(size[c] for c in group) for group in order[1:]]
        shaped = reshaped(graph, turned.outputs[0], joined, graph.name("matrix"))
        nodes.extend([flat, turned, shaped])
        return shaped.outputs[0]

    product = graph.node(
        "MatMul", matrix(operands[0], (batch, rows, summed)), matrix(operands[1], (batch, summed, columns))
    )
    made = [*batch, *rows, *columns]
    split = reshaped(graph, product.outputs[0], [size[c] for c in made], graph.name("split"))
    turned = graph.node("Transpose", split.outputs[0], perm=[made.index(c) for c in out])
    return [*nodes, product, split, turned, reshaped(graph, turned.outputs[0], target, node.outputs[0])]


def _labels(equation: str, shapes: list[tuple[int, ...]]) -> list[str]:
    """Returns a letter for each axis of both operands and of the result; an ellipsis becomes spare capitals."""
    terms, result = equation.replace(" ", "").split("->")
    spare = [c for c in "ABCDEFGH" if c not in equation]
    labels = []
    for term, shape in zip([*terms.split(","), result], shapes, strict=True):
        dots = len(shape) - len(term.replace("...", ""))
        labels.append(term.replace("...", "".join(spare[len(spare) - dots :])))
    return labels


def _behind_broadcast(graph: Graph, name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Returns the tensor behind a broadcast, and its shape with 1 for each axis along which it only repeats."""
    if name in graph.constants:
        value = without_repeats(graph.constants[name])
        return (name, shape) if value.shape == shape else (graph.constant(value), value.shape)
    above = graph.producer(name, "Expand")
    before = graph.shape(above.inputs[0]) if above is not None else None
    if before is None:
        return name, shape
    return above.inputs[0], (*(1,) * (len(shape) - len(before)), *before)
