"""Reshapes and changes of layout move below the operations that do not mind them, until they meet and cancel."""

import math

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.npu import MAX_RANK
from epfv2_jax.deploy.rules.shared import before_broadcast, reshaped

_TO_CHANNELS_LAST = [0, 2, 3, 1]


def layout(graph: Graph, node: Node) -> list[Node] | None:
    """An entry-by-entry operation on tensors turned to channels last: the operation first, the turn after it."""
    turned = [graph.producer(name, "Transpose") for name in node.inputs]
    turned = [t if t is not None and t.attributes["perm"] == _TO_CHANNELS_LAST else None for t in turned]
    if not any(turned):
        return None
    inputs = []
    for name, turn in zip(node.inputs, turned, strict=True):
        if turn is not None:
            inputs.append(turn.inputs[0])
        elif not name or (name in graph.constants and graph.constants[name].size == 1):
            inputs.append(name)
        elif name in graph.constants and graph.constants[name].ndim <= 4:
            value = graph.constants[name]
            value = value.reshape(*(1,) * (4 - value.ndim), *value.shape)
            inputs.append(graph.constant(value.transpose(0, 3, 1, 2)))
        else:
            return None
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [first, graph.node("Transpose", first.outputs[0], perm=_TO_CHANNELS_LAST, output=node.outputs[0])]


def layout_of_pad(graph: Graph, node: Node) -> list[Node] | None:
    """Pad of a tensor turned to channels last: the padding first, the turn after it."""
    turn = graph.producer(node.inputs[0], "Transpose")
    pads = graph.constants.get(node.inputs[1])
    if turn is None or turn.attributes["perm"] != _TO_CHANNELS_LAST or pads is None or any(node.inputs[3:]):
        return None
    begin, end = pads[:4], pads[4:]
    order = [0, 3, 1, 2]
    moved = graph.constant([*begin[order], *end[order]], np.int64)
    first = graph.node("Pad", turn.inputs[0], moved, *node.inputs[2:3], **node.attributes)
    return [first, graph.node("Transpose", first.outputs[0], perm=_TO_CHANNELS_LAST, output=node.outputs[0])]


def reshape(graph: Graph, node: Node) -> list[Node] | None:
    """An entry-by-entry operation on reshaped tensors: the operation first, so that reshapes meet and merge below."""
    target = graph.shape(node.outputs[0])
    above = [graph.producer(name, "Reshape") for name in node.inputs]
    sources = {graph.shape(reshape.inputs[0]) for reshape in above if reshape is not None}
    if not sources or None in sources or target is None:
        return None
    lower = _without_leading_units(graph, node, target)
    if lower is not None or len(sources) != 1:
        return lower
    (source,) = sources
    if len(source) > max(len(target), MAX_RANK):
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
    return [first, reshaped(graph, first.outputs[0], target, node.outputs[0])]


def _without_leading_units(graph: Graph, node: Node, target: tuple[int, ...]) -> list[Node] | None:
    """An entry-by-entry operation on tensors as they were before leading axes of one entry were added."""
    inputs = []
    for name in node.inputs:
        smaller = before_broadcast(graph, name)
        as_before = smaller is not None and isinstance(smaller[0], str) and graph.producer(name).op == "Reshape"
        inputs.append(smaller[0] if as_before else name)
    shapes = [graph.shape(name) for name in inputs]
    if None in shapes:
        return None
    shape = np.broadcast_shapes(*shapes)
    if len(shape) == len(target) or target != (*(1,) * (len(target) - len(shape)), *shape):
        return None
    first = Node(node.op, inputs, [graph.name(node.op.lower())], node.attributes)
    return [first, reshaped(graph, first.outputs[0], target, node.outputs[0])]


def reshape_along_axis(graph: Graph, node: Node) -> list[Node] | None:
    """Gather, Slice, Softmax, reductions and normalisation along axes that the Reshape above only renumbers."""
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
    return [first, reshaped(graph, first.outputs[0], target, node.outputs[0])]


def reshape_of_matmul(graph: Graph, node: Node) -> list[Node] | None:
    """MatMul of matrices from which a Reshape only stripped leading axes of one entry."""
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
        return [product, reshaped(graph, product.outputs[0], target, node.outputs[0])]
    return None


def reshape_of_concat(graph: Graph, node: Node) -> list[Node] | None:
    """Concat of tensors that were reshaped alike: one Reshape after it instead of one for each part."""
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
    return [joined, reshaped(graph, joined.outputs[0], target, node.outputs[0])]


def _unit_axes_only(graph: Graph, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """Returns (source, its shape, own shape) of a Reshape that only adds or removes axes of one entry."""
    reshape = graph.producer(name, "Reshape")
    source, shape = graph.shape(reshape.inputs[0]) if reshape is not None else None, graph.shape(name)
    if source is None or shape is None or [n for n in source if n != 1] != [n for n in shape if n != 1]:
        return None
    return reshape.inputs[0], source, shape


def _same_axis(source: tuple[int, ...], shape: tuple[int, ...], axis: int) -> int | None:
    """Returns the axis of `source` that `axis` of `shape` is, where they differ by axes of one entry only.

    None for an axis of one entry.
    """
    if shape[axis] == 1:
        return None
    place = sum(n != 1 for n in shape[:axis])
    return [i for i, n in enumerate(source) if n != 1][place]
