"""Rules that turn what an exporter writes down operation by operation into what runtimes run fast.

Every rule keeps the meaning of the graph. Batch normalisations and other affine maps move into the convolution before
them, changes of layout and reshapes move down until they cancel, einsum becomes a matrix product, shapes become
constants. Compilers for NPUs are minded: few axes, no exotic operations.
"""

import math
from collections.abc import Iterable

import numpy as np
from onnx import helper

from epfv2_jax.deploy.graph import Graph, Node, Rule

_ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "And", "Or", "Equal", "Less", "Greater"),
    *("LessOrEqual", "GreaterOrEqual"),
}
_UNARY = {
    *("Relu", "Gelu", "Sigmoid", "Tanh", "Erf", "Clip", "Neg", "Sqrt", "Exp", "Cast", "HardSwish", "Sin", "Cos", "Abs"),
    *("Softplus", "Atan"),
}
_MAX_RANK = 4  # of entry-by-entry operations on an NPU
_TO_CHANNELS_LAST = [0, 2, 3, 1]


def simplify(graph: Graph) -> None:
    """Rewrites a graph by all rules below."""
    graph.rewrite(RULES)


def _same(graph: Graph, node: Node) -> str | None:
    return node.inputs[0]


def _dropout(graph: Graph, node: Node) -> str | None:
    """Not in training it does nothing."""
    training = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.asarray(False)
    return None if training is None or training.any() else node.inputs[0]


def _cast(graph: Graph, node: Node) -> str | None:
    to = np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
    return node.inputs[0] if graph.dtype(node.inputs[0]) == to else None


def _reshaped(graph: Graph, source: str, shape: Iterable[int], output: str) -> Node:
    return graph.node("Reshape", source, graph.constant(list(shape), np.int64), output=output)


def _reshape(graph: Graph, node: Node) -> list[Node] | str | None:
    """Reshape, Squeeze, Unsqueeze: one Reshape to a constant shape, or nothing."""
    source, shape = node.inputs[0], graph.shape(node.outputs[0])
    if shape is None:
        return None
    if graph.shape(source) == shape:
        return source
    above = graph.producer(source, "Reshape")
    if above is not None:
        return [_reshaped(graph, above.inputs[0], shape, node.outputs[0])]
    plain = node.op == "Reshape" and not node.attributes and node.inputs[1] in graph.constants
    if plain and tuple(graph.constants[node.inputs[1]].tolist()) == shape:
        return None
    return [_reshaped(graph, source, shape, node.outputs[0])]


def _expand(graph: Graph, node: Node) -> list[Node] | str | None:
    source, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if source is None or target is None or math.prod(source) != math.prod(target):
        return None
    return [_reshaped(graph, node.inputs[0], target, node.outputs[0])]


def _transpose(graph: Graph, node: Node) -> list[Node] | str | None:
    source = node.inputs[0]
    shape = graph.shape(source)
    if shape is None:
        return None
    perm = list(node.attributes.get("perm", range(len(shape))[::-1]))
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):
        return [_reshaped(graph, source, [shape[axis] for axis in perm], node.outputs[0])]
    above = graph.producer(source, "Transpose")
    if above is not None:
        merged = [above.attributes["perm"][axis] for axis in perm]
        return [graph.node("Transpose", above.inputs[0], perm=merged, output=node.outputs[0])]
    return None


def _slice(graph: Graph, node: Node) -> list[Node] | str | None:
    """Names only the axes that are cut; a slice that is just one part of a Concat is that part."""
    shape, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if shape is None or target is None or any(name not in graph.constants for name in node.inputs[1:] if name):
        return None
    starts, ends = (graph.constants[name].tolist() for name in node.inputs[1:3])
    axes = graph.constants[node.inputs[3]].tolist() if len(node.inputs) > 3 else list(range(len(starts)))
    steps = graph.constants[node.inputs[4]].tolist() if len(node.inputs) > 4 else [1] * len(axes)
    cut = [i for i, axis in enumerate(axes) if shape[axis] != target[axis] or steps[i] != 1]
    if not cut:
        return node.inputs[0]
    if any(steps[i] != 1 for i in cut) or any(min(starts[i], ends[i]) < 0 for i in cut):
        return None
    above = graph.producer(node.inputs[0], "Concat")
    if above is not None and len(cut) == 1 and above.attributes["axis"] % len(shape) == axes[cut[0]]:
        start, place = starts[cut[0]], 0
        for part in above.inputs:
            part_shape = graph.shape(part)
            if part_shape is None or place > start:
                break
            if place == start and part_shape == target:
                return part
            place += part_shape[axes[cut[0]]]
    if len(cut) == len(axes) and len(node.inputs) == 4:
        return None
    columns = ([starts[i] for i in cut], [starts[i] + target[axes[i]] for i in cut], [axes[i] for i in cut])
    constants = [graph.constant(column, np.int64) for column in columns]
    return [graph.node("Slice", node.inputs[0], *constants, output=node.outputs[0])]


def _concat(graph: Graph, node: Node) -> list[Node] | str | None:
    if len(node.inputs) == 1:
        return node.inputs[0]
    full = [name for name in node.inputs if graph.shape(name) is None or 0 not in graph.shape(name)]
    parts = []
    for name in full:
        above = graph.producer(name, "Concat")
        same = above is not None and above.attributes["axis"] == node.attributes["axis"]
        parts += above.inputs if same else [name]
    if not parts or parts == node.inputs:
        return None
    return [graph.node("Concat", *parts, axis=node.attributes["axis"], output=node.outputs[0])]


def _gather(graph: Graph, node: Node) -> list[Node] | str | None:
    """Of a transposed tensor: gathers along the axis where it was; of neighbours: a slice."""
    source, index = node.inputs
    axis, shape = node.attributes.get("axis", 0), graph.shape(source)
    if index not in graph.constants or shape is None:
        return None
    above, rows = graph.producer(source, "Transpose"), graph.constants[index]
    if rows.ndim == 1 and shape[axis] == 1:
        target = [*shape[:axis], rows.size, *shape[axis + 1 :]]
        return [graph.node("Expand", source, graph.constant(target, np.int64), output=node.outputs[0])]
    if above is not None and rows.ndim == 1:
        perm = above.attributes["perm"]
        gathered = graph.node("Gather", above.inputs[0], index, axis=perm[axis % len(perm)])
        return [gathered, graph.node("Transpose", gathered.outputs[0], perm=perm, output=node.outputs[0])]
    if rows.ndim == 0:
        row = int(rows) % shape[axis]
        part = graph.node("Slice", source, *(graph.constant([i], np.int64) for i in (row, row + 1, axis)))
        return [part, graph.node("Squeeze", part.outputs[0], graph.constant([axis], np.int64), output=node.outputs[0])]
    if (
        rows.ndim == 1
        and rows.size
        and rows.min() >= 0
        and np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size))
    ):
        limits = (int(rows[0]), int(rows[-1]) + 1, axis)
        constants = [graph.constant([i], np.int64) for i in limits]
        return [graph.node("Slice", source, *constants, output=node.outputs[0])]
    return None


def _unbroadcast(graph: Graph, node: Node) -> list[Node] | None:
    """Feeds an operation with what was there before it was broadcast by hand; it broadcasts itself."""
    target, shapes = graph.shape(node.outputs[0]), [graph.shape(name) for name in node.inputs]
    if target is None or None in shapes:
        return None
    for i, name in enumerate(node.inputs):
        smaller = _before_broadcast(graph, name)
        if smaller is None:
            continue
        value, shape = smaller
        others = [*shapes[:i], *shapes[i + 1 :]]
        if node.op == "MatMul":  # its batch axes broadcast, the two axes of the matrices do not
            if isinstance(value, np.ndarray) or len(shape) < 2 or shape[-2:] != shapes[i][-2:]:
                continue
            fits = np.broadcast_shapes(shape[:-2], *(other[:-2] for other in others)) == target[:-2]
        else:
            fits = np.broadcast_shapes(shape, *others) == target
        if fits:
            name = value if isinstance(value, str) else graph.constant(value)
            inputs = [*node.inputs[:i], name, *node.inputs[i + 1 :]]
            return [Node(node.op, inputs, node.outputs, node.attributes)]
    return None


def _before_broadcast(graph: Graph, name: str) -> tuple[str | np.ndarray, tuple[int, ...]] | None:
    """A tensor or value of fewer axes or entries that broadcasts to `name`, and its shape; None if there is none."""
    if name in graph.constants:
        whole = graph.constants[name]
        value = _once(whole)
        while value.ndim and value.shape[0] == 1:
            value = value[0]
        return (value, value.shape) if value.ndim < whole.ndim else None
    above = graph.producer(name)
    if above is None or above.op not in ("Expand", "Reshape"):
        return None
    before, after = graph.shape(above.inputs[0]), graph.shape(name)
    if before is None:
        return None
    if above.op == "Reshape" and after != (*(1,) * (len(after) - len(before)), *before):
        return None
    return above.inputs[0], before


def _once(value: np.ndarray) -> np.ndarray:
    """A constant with one entry along each axis along which it only repeats."""
    for axis, size in enumerate(value.shape):
        if size > 1 and np.array_equal(value, np.broadcast_to(value.take([0], axis), value.shape), equal_nan=True):
            value = value.take([0], axis)
    return value


def _where(graph: Graph, node: Node) -> list[Node] | str | None:
    if node.inputs[0] not in graph.constants:
        return None
    condition = graph.constants[node.inputs[0]]
    if condition.all() or not condition.any():
        return _broadcast_like(graph, node, node.inputs[1 if condition.all() else 2])
    return None


def _logical(graph: Graph, node: Node) -> list[Node] | str | None:
    for name, other in (node.inputs, node.inputs[::-1]):
        if name in graph.constants:
            value = graph.constants[name]
            if (node.op == "And" and value.all()) or (node.op == "Or" and not value.any()):
                return _broadcast_like(graph, node, other)
            if (node.op == "And" and not value.any()) or (node.op == "Or" and value.all()):
                return _broadcast_like(graph, node, name)
    return None


def _broadcast_like(graph: Graph, node: Node, source: str) -> list[Node] | str | None:
    shape, target = graph.shape(source), graph.shape(node.outputs[0])
    if shape is None or target is None:
        return None
    if shape == target:
        return source
    return [graph.node("Expand", source, graph.constant(target, np.int64), output=node.outputs[0])]


def _static_shape(graph: Graph, node: Node) -> str | None:
    shape = graph.shape(node.inputs[0])
    if shape is None or node.attributes:
        return None
    return graph.constant(shape, np.int64)


def _cumsum(graph: Graph, node: Node) -> str | None:
    shape = graph.shape(node.inputs[0])
    axis = graph.constants.get(node.inputs[1])
    plain = not node.attributes.get("exclusive", 0)
    return node.inputs[0] if shape is not None and axis is not None and plain and shape[int(axis)] == 1 else None


def _reduce(graph: Graph, node: Node) -> list[Node] | None:
    """A reduction over axes of one entry."""
    shape, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if shape is None or target is None or math.prod(shape) != math.prod(target):
        return None
    return [_reshaped(graph, node.inputs[0], target, node.outputs[0])]


def _sum_of_products(graph: Graph, node: Node) -> list[Node] | None:
    """The sum over k of a[..., m, k, 1] * b[..., 1, k, n], a product of matrices written out."""
    product, target = graph.producer(node.inputs[0], "Mul"), graph.shape(node.outputs[0])
    axes = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if product is None or axes is None or target is None or node.attributes.get("keepdims", 1):
        return None
    a, b = (graph.shape(name) for name in product.inputs)
    if a is None or b is None or len(a) != len(b) or len(a) < 3 or axes.tolist() != [len(a) - 2]:
        return None
    if a[:-3] != b[:-3] or a[-1] != 1 or b[-3] != 1 or a[-2] != b[-2]:
        return None
    left = _reshaped(graph, product.inputs[0], a[:-1], graph.name("left"))
    right = _reshaped(graph, product.inputs[1], (*b[:-3], *b[-2:]), graph.name("right"))
    return [left, right, graph.node("MatMul", left.outputs[0], right.outputs[0], output=node.outputs[0])]


def _masked_cast(graph: Graph, node: Node) -> list[Node] | None:
    """where(mask, integers, 0) * scale: the mask chooses the scale instead, which is smaller."""
    for i, name in enumerate(node.inputs):
        cast, scale = graph.producer(name, "Cast"), node.inputs[1 - i]
        where = graph.producer(cast.inputs[0], "Where") if cast is not None else None
        zero = graph.constants.get(where.inputs[2]) if where is not None else None
        if zero is None or zero.size != 1 or zero.any() or scale not in graph.constants:
            continue
        if not np.issubdtype(graph.dtype(where.inputs[1]) or np.float32, np.integer) or graph.shape(scale) != ():
            continue
        shapes = graph.shape(where.inputs[1]), graph.shape(node.outputs[0])
        if None in shapes or math.prod(shapes[0]) != math.prod(shapes[1]):
            continue
        chosen = graph.node("Where", where.inputs[0], scale, graph.constant(0, graph.dtype(scale)))
        values = graph.node("Cast", where.inputs[1], **cast.attributes)
        return [chosen, values, graph.node("Mul", values.outputs[0], chosen.outputs[0], output=node.outputs[0])]
    return None


def _sum_square(graph: Graph, node: Node) -> list[Node]:
    """As product and sum: not every compiler for NPUs knows the sum of squares."""
    square = graph.node("Mul", node.inputs[0], node.inputs[0])
    return [square, Node("ReduceSum", [square.outputs[0], *node.inputs[1:]], node.outputs, node.attributes)]


def _neg(graph: Graph, node: Node) -> list[Node] | None:
    """-(a - b) = b - a; compilers for NPUs know no negative of integers."""
    above = graph.producer(node.inputs[0], "Sub")
    return [graph.node("Sub", *above.inputs[::-1], output=node.outputs[0])] if above is not None else None


def _pow(graph: Graph, node: Node) -> list[Node] | None:
    exponent = graph.constants.get(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2.0:
        return None
    return [graph.node("Mul", node.inputs[0], node.inputs[0], output=node.outputs[0])]


def _one_hot(graph: Graph, node: Node) -> list[Node] | None:
    """As a comparison with the row 0 ... depth - 1: scalars too, which OneHot itself refuses."""
    index, depth, values = node.inputs
    shape = graph.shape(index)
    if shape is None or depth not in graph.constants or values not in graph.constants:
        return None
    if node.attributes.get("axis", -1) not in (-1, len(shape)):
        return None
    row = np.arange(int(graph.constants[depth].reshape(())), dtype=graph.dtype(index))
    off, on = graph.constants[values]
    column = _reshaped(graph, index, (*shape, 1), graph.name("column"))
    equal = graph.node("Equal", column.outputs[0], graph.constant(row))
    return [
        column,
        equal,
        graph.node("Where", equal.outputs[0], graph.constant(on), graph.constant(off), output=node.outputs[0]),
    ]


def _gemm(graph: Graph, node: Node) -> list[Node] | None:
    """Without a bias (beta = 0) as a plain matrix product, which every compiler takes."""
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


def _einsum(graph: Graph, node: Node) -> list[Node] | None:
    """Of two operands, as transpositions round one matrix product."""
    shapes = [graph.shape(name) for name in node.inputs]
    target = graph.shape(node.outputs[0])
    if len(shapes) != 2 or None in shapes or target is None:
        return None
    equation = node.attributes["equation"]
    terms, result = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "").split("->")
    spare = [c for c in "ABCDEFGH" if c not in equation.decode()]
    labels = []
    for term, shape in zip([*terms.split(","), result], [*shapes, target], strict=True):
        dots = len(shape) - len(term.replace("...", ""))
        labels.append(term.replace("...", "".join(spare[len(spare) - dots :])))
    size = {
        c: n
        for term, shape in zip(labels, [*shapes, target], strict=True)
        for c, n in zip(term, shape, strict=True)
        if n != 1
    }

    operands = []  # (name, labels of more than one entry)
    nodes: list[Node] = []
    for name, term, shape in zip(node.inputs, labels[:2], shapes, strict=True):
        name, shape = _without_repetition(graph, name, shape)
        kept = [c for c, n in zip(term, shape, strict=True) if n != 1]
        operands.append((name, kept))
    (_, left), (_, right), out = *operands, [c for c in labels[2] if c in size]
    batch = [c for c in left if c in right and c in out]
    summed = [c for c in left if c in right and c not in out]
    rows, columns = ([c for c in own if c not in (*batch, *summed)] for own in (left, right))
    if any(c not in out for c in (*rows, *columns)):
        return None

    def arranged(operand, order: tuple[list[str], list[str], list[str]]) -> str:
        name, kept = operand
        flat = _reshaped(graph, name, [size[c] for c in kept], graph.name("squeezed"))
        turned = graph.node("Transpose", flat.outputs[0], perm=[kept.index(c) for group in order for c in group])
        joined = [size[c] for c in order[0]] + [math.prod(size[c] for c in group) for group in order[1:]]
        shaped = _reshaped(graph, turned.outputs[0], joined, graph.name("matrix"))
        nodes.extend([flat, turned, shaped])
        return shaped.outputs[0]

    product = graph.node(
        "MatMul", arranged(operands[0], (batch, rows, summed)), arranged(operands[1], (batch, summed, columns))
    )
    made = [*batch, *rows, *columns]
    split = _reshaped(graph, product.outputs[0], [size[c] for c in made], graph.name("split"))
    turned = graph.node("Transpose", split.outputs[0], perm=[made.index(c) for c in out])
    return [*nodes, product, split, turned, _reshaped(graph, turned.outputs[0], target, node.outputs[0])]


def _without_repetition(graph: Graph, name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The tensor behind a broadcast, with 1 for each axis along which it only repeats."""
    if name in graph.constants:
        value = _once(graph.constants[name])
        return (name, shape) if value.shape == shape else (graph.constant(value), value.shape)
    above = graph.producer(name, "Expand")
    before = graph.shape(above.inputs[0]) if above is not None else None
    if before is None:
        return name, shape
    return above.inputs[0], (*(1,) * (len(shape) - len(before)), *before)


def _batch_norm(graph: Graph, node: Node) -> list[Node] | None:
    """As a scale and an offset for each channel, which the convolution before it takes in."""
    if any(name not in graph.constants for name in node.inputs[1:]):
        return None
    scale, bias, mean, var = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
    rank = len(graph.shape(node.inputs[0]) or (0,) * 4)
    factor = scale / np.sqrt(var + node.attributes.get("epsilon", 1e-5))
    shape, dtype = (-1, *(1,) * (rank - 2)), graph.constants[node.inputs[1]].dtype
    scaled = graph.node("Mul", node.inputs[0], graph.constant(factor.reshape(shape), dtype))
    offset = graph.constant((bias - mean * factor).reshape(shape), dtype)
    return [scaled, graph.node("Add", scaled.outputs[0], offset, output=node.outputs[0])]


def _into_conv(graph: Graph, node: Node) -> list[Node] | None:
    """An affine map for each channel of a convolution's output moves into its weights and bias."""
    for i, name in enumerate(node.inputs):
        conv, other = graph.producer(name, "Conv"), node.inputs[1 - i]
        if conv is None or other not in graph.constants or any(x not in graph.constants for x in conv.inputs[1:]):
            continue
        if i == 1 and node.op in ("Sub", "Div"):
            continue
        weight, value = graph.constants[conv.inputs[1]], graph.constants[other]
        channels = weight.shape[0]
        if value.size > 1 and value.shape[-(weight.ndim - 1) :] != (channels, *(1,) * (weight.ndim - 2)):
            continue  # not one number for each channel
        value = np.broadcast_to(value.reshape(-1), channels).astype(np.float64)
        bias = graph.constants[conv.inputs[2]] if len(conv.inputs) > 2 else np.zeros(channels)
        factor = value if node.op == "Mul" else 1 / value if node.op == "Div" else np.ones(channels)
        offset = value if node.op == "Add" else -value if node.op == "Sub" else np.zeros(channels)
        new_weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        constants = [graph.constant(new_weight, weight.dtype), graph.constant(bias * factor + offset, weight.dtype)]
        return [graph.node("Conv", conv.inputs[0], *constants, output=node.outputs[0], **conv.attributes)]
    return None


def _layer_norm(graph: Graph, node: Node) -> list[Node] | None:
    """(x - mean) (1 / sqrt(mean((x - mean)^2) + epsilon) scale) + bias over the last axis, as one operation."""

    def above(name: str, op: str) -> list[str]:
        """Inputs of the operation `op` above a tensor, past a reshape; placeholders if it is another one."""
        reshape = graph.producer(name, "Reshape")
        found = graph.producer(name if reshape is None else reshape.inputs[0], op)
        return [*found.inputs, ""][:2] if found is not None else ["", ""]

    product, bias = node.inputs
    centered, factor = above(product, "Mul")
    inverse, scale = above(factor, "Mul")
    one, root = above(inverse, "Div")
    variance, epsilon = above(above(root, "Sqrt")[0], "Add")
    square_sum, count = above(variance, "Div")
    square, axis = above(square_sum, "ReduceSum")
    deviation, same_deviation = above(square, "Mul")
    x, mean = above(centered, "Sub")
    total, same_count = above(mean, "Div")
    summed, same_axis = above(total, "ReduceSum")
    constants = [graph.constants.get(name) for name in (bias, scale, one, epsilon, count, axis, same_count, same_axis)]
    shape = graph.shape(x)
    if any(value is None for value in constants) or shape is None or summed != x:
        return None
    width, last = shape[-1], len(shape) - 1
    other_x, other_mean = above(deviation, "Sub")
    if other_x != x or above(other_mean, "Div") != [total, same_count] or same_deviation != deviation:
        return None
    if [v.tolist() for v in constants[4:]] != [width, [last], width, [last]] or constants[2].tolist() != 1:
        return None
    if constants[0].shape != (width,) or constants[1].shape != (width,) or constants[3].size != 1:
        return None
    attributes = {"axis": -1, "epsilon": float(constants[3].reshape(()))}
    return [graph.node("LayerNormalization", x, scale, bias, output=node.outputs[0], **attributes)]


def _scalar_chain(graph: Graph, node: Node) -> list[Node] | None:
    """x -> x / a - b / c ... with scalars: one product and one sum."""

    def scalar(of: Node) -> float | None:
        value = graph.constants.get(of.inputs[1])
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    above, outer = graph.producer(node.inputs[0]), scalar(node)
    if above is None or above.op not in ("Add", "Sub", "Mul", "Div") or outer is None:
        return None
    inner = scalar(above)
    dtype = graph.dtype(above.inputs[0])
    if inner is None or dtype != np.float32:
        return None
    if above.op in ("Mul", "Div"):
        if node.op in ("Add", "Sub"):
            return None
        factor = (inner if above.op == "Mul" else 1 / inner) * (outer if node.op == "Mul" else 1 / outer)
        return [graph.node("Mul", above.inputs[0], graph.constant(factor, dtype), output=node.outputs[0])]
    shift = inner if above.op == "Add" else -inner
    if node.op in ("Add", "Sub"):
        shift += outer if node.op == "Add" else -outer
        return [graph.node("Add", above.inputs[0], graph.constant(shift, dtype), output=node.outputs[0])]
    factor = outer if node.op == "Mul" else 1 / outer
    scaled = graph.node("Mul", above.inputs[0], graph.constant(factor, dtype))
    return [scaled, graph.node("Add", scaled.outputs[0], graph.constant(shift * factor, dtype), output=node.outputs[0])]


def _sink_layout(graph: Graph, node: Node) -> list[Node] | None:
    """An operation on a tensor that was just turned to channels last: the operation first, the turn behind it."""
    turned = [graph.producer(name, "Transpose") for name in node.inputs]
    turned = [t if t is not None and t.attributes["perm"] == _TO_CHANNELS_LAST else None for t in turned]
    if not any(turned):
        return None
    inputs = []
    for name, turn in zip(node.inputs, turned, strict=True):
        if turn is not None:
            inputs.append(turn.inputs[0])
        elif not name or (name in graph.constants and (node.op in _UNARY or graph.constants[name].size == 1)):
            inputs.append(name)
        elif name in graph.constants and graph.constants[name].ndim <= 4:
            value = graph.constants[name]
            value = value.reshape(*(1,) * (4 - value.ndim), *value.shape)
            inputs.append(graph.constant(value.transpose(0, 3, 1, 2)))
        else:
            return None
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [first, graph.node("Transpose", first.outputs[0], perm=_TO_CHANNELS_LAST, output=node.outputs[0])]


def _sink_reshape(graph: Graph, node: Node) -> list[Node] | None:
    """An operation entry by entry on reshaped tensors: the operation first, so that reshapes meet and merge below."""
    target = graph.shape(node.outputs[0])
    above = [graph.producer(name, "Reshape") for name in node.inputs]
    sources = {graph.shape(reshape.inputs[0]) for reshape in above if reshape is not None}
    if not sources or None in sources or target is None:
        return None
    lower = _without_leading_units(graph, node, target)
    if lower is not None or len(sources) != 1:
        return lower
    (source,) = sources
    if len(source) > max(len(target), _MAX_RANK):
        return None  # the reshape is what lowers the rank
    inputs = []
    for name, reshape in zip(node.inputs, above, strict=True):
        if reshape is not None and graph.shape(name) == target:
            inputs.append(reshape.inputs[0])
        elif not name or (graph.shape(name) == () or (graph.shape(name) == (1,) and source)):
            inputs.append(name)
        else:
            return None
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [first, _reshaped(graph, first.outputs[0], target, node.outputs[0])]


def _lower_rank(graph: Graph, node: Node) -> list[Node] | None:
    """Entry by entry on more than four axes: without the first one of one entry, as compilers for NPUs want it."""
    target, shapes = graph.shape(node.outputs[0]), [graph.shape(name) for name in node.inputs if name]
    if target is None or None in shapes or len(target) <= _MAX_RANK or 1 not in target:
        return None
    nodes, inputs = [], []
    for name in node.inputs:
        axis = target.index(1) - len(target) + len(graph.shape(name)) if name else -1
        if axis >= 0:
            shape = graph.shape(name)
            nodes.append(_reshaped(graph, name, (*shape[:axis], *shape[axis + 1 :]), graph.name("lower")))
            name = nodes[-1].outputs[0]
        inputs.append(name)
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [*nodes, first, _reshaped(graph, first.outputs[0], target, node.outputs[0])]


def _without_leading_units(graph: Graph, node: Node, target: tuple[int, ...]) -> list[Node] | None:
    """Entry by entry on tensors as they were before leading axes of one entry were added."""
    inputs = []
    for name in node.inputs:
        smaller = _before_broadcast(graph, name)
        as_before = smaller is not None and isinstance(smaller[0], str) and graph.producer(name).op == "Reshape"
        inputs.append(smaller[0] if as_before else name)
    shapes = [graph.shape(name) for name in inputs]
    if None in shapes:
        return None
    shape = np.broadcast_shapes(*shapes)
    if len(shape) == len(target) or target != (*(1,) * (len(target) - len(shape)), *shape):
        return None
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [first, _reshaped(graph, first.outputs[0], target, node.outputs[0])]


def _unit_axes_only(graph: Graph, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """(source, its shape, own shape) of a Reshape that only adds or removes axes of one entry."""
    reshape = graph.producer(name, "Reshape")
    source, shape = graph.shape(reshape.inputs[0]) if reshape is not None else None, graph.shape(name)
    if source is None or shape is None or [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    return reshape.inputs[0], source, shape


def _same_axis(source: tuple[int, ...], shape: tuple[int, ...], axis: int) -> int | None:
    """The axis of `source` that `axis` of `shape` is, where they differ by axes of one entry; None for such a one."""
    if shape[axis] == 1:
        return None
    place = sum(n != 1 for n in shape[:axis])
    return [i for i, n in enumerate(source) if n != 1][place]


def _sink_reshape_axis(graph: Graph, node: Node) -> list[Node] | None:
    """Gather, Slice, sums, Softmax and normalisation along axes that the reshape above them only renumbers."""
    found = _unit_axes_only(graph, node.inputs[0])
    target = graph.shape(node.outputs[0])
    if found is None or target is None:
        return None
    name, source, shape = found
    attributes, inputs = dict(node.attributes), [name, *node.inputs[1:]]
    if node.op in ("Gather", "Softmax"):
        axis = _same_axis(source, shape, attributes.get("axis", 0 if node.op == "Gather" else -1))
        if axis is None or (node.op == "Gather" and len(graph.shape(node.inputs[1]) or ()) != 1):
            return None
        attributes["axis"] = axis
    elif node.op == "LayerNormalization":
        if attributes.get("axis", -1) != -1 or not source or source[-1] != shape[-1]:
            return None
    else:
        axes_input = 3 if node.op == "Slice" else 1
        if len(node.inputs) != axes_input + 1 or node.inputs[axes_input] not in graph.constants:
            return None
        axes = [_same_axis(source, shape, axis) for axis in graph.constants[node.inputs[axes_input]].tolist()]
        if None in axes:
            return None
        inputs[axes_input] = graph.constant(axes, np.int64)
    first = Node(node.op, inputs, [graph.name(node.op.lower())], attributes)
    return [first, _reshaped(graph, first.outputs[0], target, node.outputs[0])]


def _sink_reshape_matmul(graph: Graph, node: Node) -> list[Node] | None:
    """A product of matrices that were only stripped of leading axes of one entry."""
    target = graph.shape(node.outputs[0])
    for i, name in enumerate(node.inputs):
        found, other = _unit_axes_only(graph, name), graph.shape(node.inputs[1 - i])
        if found is None or target is None or other is None:
            continue
        source, before, after = found
        if min(len(before), len(after), len(other)) < 2 or before[-2:] != after[-2:]:
            continue
        batch = np.broadcast_shapes(before[:-2], other[:-2])
        if math.prod(batch) != math.prod(target[:-2]) or math.prod(before[:-2]) != 1:
            continue
        inputs = [source, node.inputs[1]] if i == 0 else [node.inputs[0], source]
        product = graph.node("MatMul", *inputs)
        return [product, _reshaped(graph, product.outputs[0], target, node.outputs[0])]
    return None


def _sink_reshape_concat(graph: Graph, node: Node) -> list[Node] | None:
    """Of tensors that were reshaped alike: one Reshape behind instead of one for each part."""
    target, axis = graph.shape(node.outputs[0]), node.attributes["axis"]
    shapes = [graph.shape(name) for name in node.inputs]
    above = [graph.producer(name, "Reshape") for name in node.inputs]
    sources = [graph.shape(reshape.inputs[0]) for reshape in above if reshape is not None]
    if target is None or None in shapes or None in sources or len({len(s) for s in sources}) != 1:
        return None
    if any(r is None and name not in graph.constants for r, name in zip(above, node.inputs, strict=True)):
        return None
    outer, inner = math.prod(target[: axis % len(target)]), math.prod(target[axis % len(target) + 1 :])
    for k in range(len(sources[0])):
        parts = {(*s[:k], *s[k + 1 :]) for s in sources}
        if len(parts) == 1 and all(math.prod(s[:k]) == outer and math.prod(s[k + 1 :]) == inner for s in sources):
            break
    else:
        return None
    inputs = []
    for name, reshape, shape in zip(node.inputs, above, shapes, strict=True):
        if reshape is not None:
            inputs.append(reshape.inputs[0])
        else:
            size = shape[axis]
            inputs.append(graph.constant(graph.constants[name].reshape(*sources[0][:k], size, *sources[0][k + 1 :])))
    joined = graph.node("Concat", *inputs, axis=k)
    return [joined, _reshaped(graph, joined.outputs[0], target, node.outputs[0])]


def _sink_layout_pad(graph: Graph, node: Node) -> list[Node] | None:
    turn = graph.producer(node.inputs[0], "Transpose")
    pads = graph.constants.get(node.inputs[1])
    if turn is None or turn.attributes["perm"] != _TO_CHANNELS_LAST or pads is None or any(node.inputs[3:]):
        return None
    begin, end = pads[:4], pads[4:]
    order = [0, 3, 1, 2]
    moved = graph.constant([*begin[order], *end[order]], np.int64)
    first = graph.node("Pad", turn.inputs[0], moved, *node.inputs[2:3], **node.attributes)
    return [first, graph.node("Transpose", first.outputs[0], perm=_TO_CHANNELS_LAST, output=node.outputs[0])]


def _pad_into(graph: Graph, node: Node) -> list[Node] | None:
    """Padding before a MaxPool by its neutral element, or before a Conv by zero, becomes the operation's own."""
    pad = graph.producer(node.inputs[0], "Pad")
    if pad is None or pad.inputs[1] not in graph.constants or pad.attributes.get("mode", b"constant") != b"constant":
        return None
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or node.attributes.get("ceil_mode", 0):
        return None
    value = graph.constants.get(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] else np.zeros(())
    neutral = -np.inf if node.op == "MaxPool" else 0.0
    pads = graph.constants[pad.inputs[1]].tolist()
    rank = len(pads) // 2
    spatial = [*pads[2:rank], *pads[rank + 2 :]]
    if value is None or float(value.reshape(())) != neutral or any(pads[:2] + pads[rank : rank + 2]) or min(pads) < 0:
        return None
    own = node.attributes.get("pads", [0] * len(spatial))
    attributes = {**node.attributes, "pads": [a + b for a, b in zip(own, spatial, strict=True)]}
    attributes.pop("auto_pad", None)
    return [Node(node.op, [pad.inputs[0], *node.inputs[1:]], node.outputs, attributes)]


#: What is tried for each kind of operation, in this order.
RULES: dict[str, tuple[Rule, ...]] = {
    "Identity": (_same,),
    "Dropout": (_dropout,),
    "Cast": (_cast,),
    "Reshape": (_reshape,),
    "Squeeze": (_reshape,),
    "Unsqueeze": (_reshape,),
    "Expand": (_expand,),
    "Transpose": (_transpose,),
    "Slice": (_slice, _sink_reshape_axis),
    "Concat": (_concat, _sink_reshape_concat),
    "Gather": (_gather, _sink_reshape_axis),
    "ReduceSumSquare": (_sum_square,),
    **dict.fromkeys(("Softmax", "LayerNormalization"), (_sink_reshape_axis,)),
    "Neg": (_neg,),
    "MatMul": (_unbroadcast, _sink_reshape_matmul),
    "Shape": (_static_shape,),
    "Where": (_where,),
    "And": (_logical,),
    "Or": (_logical,),
    "CumSum": (_cumsum,),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"), (_reduce, _sink_reshape_axis)),
    "ReduceSum": (_reduce, _sum_of_products, _sink_reshape_axis),
    "Pow": (_pow,),
    "OneHot": (_one_hot,),
    "Gemm": (_gemm,),
    "Einsum": (_einsum,),
    "BatchNormalization": (_batch_norm,),
    "Pad": (_sink_layout_pad,),
    "MaxPool": (_pad_into,),
    "Conv": (_pad_into,),
}
for _op in ("Add", "Sub", "Mul", "Div"):
    RULES[_op] = (*RULES.get(_op, ()), _into_conv, _scalar_chain)
RULES["Add"] = (*RULES["Add"], _layer_norm)
RULES["Mul"] = (*RULES["Mul"], _masked_cast)
for _op in _ELEMENTWISE:
    RULES[_op] = (*RULES.get(_op, ()), _unbroadcast)
for _op in _ELEMENTWISE | _UNARY:
    RULES[_op] = (*RULES.get(_op, ()), _sink_layout, _sink_reshape, _lower_rank)
