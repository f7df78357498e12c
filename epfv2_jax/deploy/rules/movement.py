"""Operations that move entries without computing: each in its plainest form, merged with the one above it."""

import math

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.shared import before_broadcast, reshaped


def reshape(graph: Graph, node: Node) -> list[Node] | str | None:
    """Reshape, Squeeze or Unsqueeze: one Reshape to a constant shape, or its input."""
    source, shape = node.inputs[0], graph.shape(node.outputs[0])
    if shape is None:
        return None
    if graph.shape(source) == shape:
        return source
    above = graph.producer(source, "Reshape")
    if above is not None:
        return [reshaped(graph, above.inputs[0], shape, node.outputs[0])]
    plain = node.op == "Reshape" and not node.attributes and node.inputs[1] in graph.constants
    if plain and tuple(graph.constants[node.inputs[1]].tolist()) == shape:
        return None
    return [reshaped(graph, source, shape, node.outputs[0])]


def expand(graph: Graph, node: Node) -> list[Node] | str | None:
    """Expand that adds no entries: a Reshape."""
    source, target = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if source is None or target is None or math.prod(source) != math.prod(target):
        return None
    return [reshaped(graph, node.inputs[0], target, node.outputs[0])]


def transpose(graph: Graph, node: Node) -> list[Node] | str | None:
    """Transpose that only moves axes of one entry: a Reshape; two in a row: one."""
    source = node.inputs[0]
    shape = graph.shape(source)
    if shape is None:
        return None
    perm = list(node.attributes.get("perm", range(len(shape))[::-1]))
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):
        return [reshaped(graph, source, [shape[axis] for axis in perm], node.outputs[0])]
    above = graph.producer(source, "Transpose")
    if above is not None:
        merged = [above.attributes["perm"][axis] for axis in perm]
        return [graph.node("Transpose", above.inputs[0], perm=merged, output=node.outputs[0])]
    return None


def slicing(graph: Graph, node: Node) -> list[Node] | str | None:
    """Slice: names only the axes that are cut. A Slice that is exactly one part of a Concat is that part."""
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
    if len(cut) == 1 and (part := _part_of_concat(graph, node, axes[cut[0]], starts[cut[0]])) is not None:
        return part
    if len(cut) == len(axes) and len(node.inputs) == 4:
        return None
    columns = ([starts[i] for i in cut], [starts[i] + target[axes[i]] for i in cut], [axes[i] for i in cut])
    constants = [graph.constant(column, np.int64) for column in columns]
    return [graph.node("Slice", node.inputs[0], *constants, output=node.outputs[0])]


def _part_of_concat(graph: Graph, node: Node, axis: int, start: int) -> str | None:
    """Returns the input of the Concat above a Slice that begins at `start` and has the slice's shape."""
    above, target = graph.producer(node.inputs[0], "Concat"), graph.shape(node.outputs[0])
    if above is None or above.attributes["axis"] % len(target) != axis:
        return None
    place = 0
    for part in above.inputs:
        shape = graph.shape(part)
        if shape is None or place > start:
            break
        if place == start and shape == target:
            return part
        place += shape[axis]
    return None


def concat(graph: Graph, node: Node) -> list[Node] | str | None:
    """Concat: without empty parts, and with the parts of a Concat along the same axis in that one's place."""
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


def gather(graph: Graph, node: Node) -> list[Node] | str | None:
    """Gather of a transposed tensor: along the axis where it was before; of neighbouring rows: a Slice."""
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
    if rows.ndim == 1 and rows.size and rows.min() >= 0 and (np.diff(rows) == 1).all():
        limits = (int(rows[0]), int(rows[-1]) + 1, axis)
        constants = [graph.constant([i], np.int64) for i in limits]
        return [graph.node("Slice", source, *constants, output=node.outputs[0])]
    return None


def unbroadcast(graph: Graph, node: Node) -> list[Node] | None:
    """An operation that broadcasts by itself takes what was there before an explicit broadcast."""
    target, shapes = graph.shape(node.outputs[0]), [graph.shape(name) for name in node.inputs]
    if target is None or None in shapes:
        return None
    for i, name in enumerate(node.inputs):
        smaller = before_broadcast(graph, name)
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
