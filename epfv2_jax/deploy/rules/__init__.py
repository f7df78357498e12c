"""Rules that turn a graph as an exporter writes it, operation by operation, into one that runtimes run fast.

Every rule keeps what the graph computes: a function (graph, node) that returns nodes in place of the node, the name of
a tensor equal to its output, or None where it does not apply.
"""

from epfv2_jax.deploy.graph import Graph, Rule
from epfv2_jax.deploy.rules import folding, fusion, movement, npu, products, sinking

_ENTRY_BY_ENTRY = (sinking.layout, sinking.reshape, npu.lower_rank)
_BROADCASTING = (movement.unbroadcast, *_ENTRY_BY_ENTRY)
_ALONG_AXES = (folding.reduction, sinking.reshape_along_axis)

#: What is tried for each kind of operation, in this order; the first rule that applies counts.
RULES: dict[str, tuple[Rule, ...]] = {
    # Operations that move entries.
    "Identity": (folding.identity,),
    "Dropout": (folding.dropout,),
    "Reshape": (movement.reshape,),
    "Squeeze": (movement.reshape,),
    "Unsqueeze": (movement.reshape,),
    "Expand": (movement.expand,),
    "Transpose": (movement.transpose,),
    "Slice": (movement.slicing, sinking.reshape_along_axis),
    "Concat": (movement.concat, sinking.reshape_of_concat),
    "Gather": (movement.gather, sinking.reshape_along_axis),
    "Pad": (sinking.layout_of_pad,),
    "Shape": (folding.static_shape,),
    "OneHot": (npu.one_hot,),
    # Convolutions, products and normalisation.
    "Conv": (fusion.pad_into,),
    "MaxPool": (fusion.pad_into,),
    "BatchNormalization": (fusion.batch_norm,),
    "LayerNormalization": (sinking.reshape_along_axis,),
    "Softmax": (sinking.reshape_along_axis,),
    "MatMul": (movement.unbroadcast, sinking.reshape_of_matmul),
    "Gemm": (products.gemm,),
    "Einsum": (products.einsum,),
    # Sums along axes.
    "CumSum": (folding.cumulative_sum,),
    "ReduceSum": (folding.reduction, products.sum_of_products, sinking.reshape_along_axis),
    "ReduceSumSquare": (npu.sum_square,),
    "ReduceMean": _ALONG_AXES,
    "ReduceMax": _ALONG_AXES,
    "ReduceMin": _ALONG_AXES,
    # Entry by entry, with broadcasting.
    "Add": (fusion.into_conv, fusion.scalar_chain, fusion.layer_norm, *_BROADCASTING),
    "Sub": (fusion.into_conv, fusion.scalar_chain, *_BROADCASTING),
    "Mul": (fusion.into_conv, fusion.scalar_chain, fusion.masked_cast, *_BROADCASTING),
    "Div": (fusion.into_conv, fusion.scalar_chain, *_BROADCASTING),
    "Pow": (npu.power, *_BROADCASTING),
    "Max": _BROADCASTING,
    "Min": _BROADCASTING,
    "Where": (folding.where, *_BROADCASTING),
    "And": (folding.logical, *_BROADCASTING),
    "Or": (folding.logical, *_BROADCASTING),
    "Equal": _BROADCASTING,
    "Less": _BROADCASTING,
    "LessOrEqual": _BROADCASTING,
    "Greater": _BROADCASTING,
    "GreaterOrEqual": _BROADCASTING,
    # Entry by entry, of one tensor.
    "Cast": (folding.cast, *_ENTRY_BY_ENTRY),
    "Neg": (npu.negative, *_ENTRY_BY_ENTRY),
    "Abs": _ENTRY_BY_ENTRY,
    "Sqrt": _ENTRY_BY_ENTRY,
    "Exp": _ENTRY_BY_ENTRY,
    "Sin": _ENTRY_BY_ENTRY,
    "Cos": _ENTRY_BY_ENTRY,
    "Atan": _ENTRY_BY_ENTRY,
    "Erf": _ENTRY_BY_ENTRY,
    "Tanh": _ENTRY_BY_ENTRY,
    "Sigmoid": _ENTRY_BY_ENTRY,
    "Softplus": _ENTRY_BY_ENTRY,
    "Relu": _ENTRY_BY_ENTRY,
    "Gelu": _ENTRY_BY_ENTRY,
    "HardSwish": _ENTRY_BY_ENTRY,
    "Clip": _ENTRY_BY_ENTRY,
}


def simplify(graph: Graph) -> None:
    """Rewrites a graph by all rules until none applies."""
    graph.rewrite(RULES)
