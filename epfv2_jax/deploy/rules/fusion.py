"""Several operations become one: convolutions with what surrounds them, layer normalisation, chains of scalars."""

import math

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node


def batch_norm(graph: Graph, node: Node) -> list[Node] | None:
    """BatchNormalization: a scale and an offset for each channel, which `into_conv` moves into the convolution."""
    if any(name not in graph.constants for name in node.inputs[1:]):
        return None
    scale, bias, mean, var = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
    rank = len(graph.shape(node.inputs[0]) or (0,) * 4)
    factor = scale / np.sqrt(var + node.attributes.get("epsilon", 1e-5))
    shape, dtype = (-1, *(1,) * (rank - 2)), graph.constants[node.inputs[1]].dtype
    scaled = graph.node("Mul", node.inputs[0], graph.constant(factor.reshape(shape), dtype))
    offset = graph.constant((bias - mean * factor).reshape(shape), dtype)
    return [scaled, graph.node("Add", scaled.outputs[0], offset, output=node.outputs[0])]


def into_conv(graph: Graph, node: Node) -> list[Node] | None:
    """A scale or an offset for each channel of a convolution's output moves into its weights and bias."""
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


def pad_into(graph: Graph, node: Node) -> list[Node] | None:
    """Padding before a MaxPool by minus infinity, or before a Conv by zero, becomes the operation's own padding."""
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


def layer_norm(graph: Graph, node: Node) -> list[Node] | None:
    """(x - mean) (1 / sqrt(mean((x - mean)^2) + epsilon) scale) + bias over the last axis: LayerNormalization."""

    def above(name: str, op: str) -> list[str]:
        """Returns the inputs of the operation `op` above a tensor, past a Reshape; empty names for another one."""
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


def scalar_chain(graph: Graph, node: Node) -> list[Node] | None:
    """Sums and products with scalars in a row, x / a - b / c: one product and one sum."""

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


def masked_cast(graph: Graph, node: Node) -> list[Node] | None:
    """where(mask, integers, 0) * scale: the mask chooses the scale instead, which has fewer entries."""
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
