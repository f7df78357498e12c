"""The first convolution for runtimes that quantise it: their kernels for eight bits take channels in fours."""

import numpy as np

from epfv2_jax.deploy.graph import Graph, Node
from epfv2_jax.deploy.rules.shared import reshaped


def cells(graph: Graph, node: Node) -> list[Node] | None:
    """A convolution of monochrome images with stride 2: one with stride 1 of cells of 2x2 pixels, as four channels."""
    source, weight, *bias = node.inputs
    attributes, shape, target = node.attributes, graph.shape(source), graph.shape(node.outputs[0])
    if shape is None or target is None or len(shape) != 4 or shape[1] != 1 or shape[2] % 2 or shape[3] % 2:
        return None
    plain = attributes.get("dilations", [1, 1]) == [1, 1] and "auto_pad" not in attributes
    if not plain or weight not in graph.constants or attributes.get("strides") != [2, 2]:
        return None
    N, _, H, W = shape
    old, before = graph.constants[weight], attributes.get("pads", [0] * 4)[:2]
    # Along each axis: padding by whole cells before the image, then a kernel of whole cells in which the old one lies.
    start = [-(-pad // 2) for pad in before]
    offset = [2 * cells - pad for cells, pad in zip(start, before, strict=True)]
    size = [-(-(skipped + taps) // 2) for skipped, taps in zip(offset, old.shape[2:], strict=True)]
    end = [target[2 + i] + size[i] - 1 - start[i] - shape[2 + i] // 2 for i in range(2)]
    if min(end) < 0:
        return None
    pixels = np.zeros((len(old), 2 * size[0], 2 * size[1]), old.dtype)
    pixels[:, offset[0] : offset[0] + old.shape[2], offset[1] : offset[1] + old.shape[3]] = old[:, 0]
    new = pixels.reshape(-1, size[0], 2, size[1], 2).transpose(0, 2, 4, 1, 3)
    rows = reshaped(graph, source, (N * H // 2, 2, W // 2, 2), graph.name("rows"))
    swapped = graph.node("Transpose", rows.outputs[0], perm=[0, 2, 1, 3])
    last = reshaped(graph, swapped.outputs[0], (N, H // 2, W // 2, 4), graph.name("cells"))
    first = graph.node("Transpose", last.outputs[0], perm=[0, 3, 1, 2])
    kernel = graph.constant(new.reshape(-1, 4, *size))
    own = {"kernel_shape": size, "strides": [1, 1], "pads": [*start, *end]}
    conv = graph.node("Conv", first.outputs[0], kernel, *bias, output=node.outputs[0], **{**attributes, **own})
    return [rows, swapped, last, first, conv]
