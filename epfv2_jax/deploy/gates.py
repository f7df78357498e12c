"""The conditions that a graph meets before it is published."""

import onnx
from onnx import helper, shape_inference

#: Operator sets that a deployed graph may use, and the newest version of the file format: ONNX Runtime 1.17 knows them.
OPSETS = range(17, 21)
NEWEST_IR = 9
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_QUANTISATION = {"QuantizeLinear", "DequantizeLinear"}


def check(model: onnx.ModelProto) -> None:
    """Raises unless a graph is fit for deployment.

    Raises:
      ValueError: the graph holds control flow, a dynamic shape, an operation outside the default domain or of an
        operator set outside 17-20, a newer file format than version 9, functions, data outside the file, a Gemm with
        beta = 0, a batch normalisation, a change of layout between convolutions, or a vector of one scale, which ONNX
        Runtime 1.26 refuses; or the checker of ONNX refuses it.
    """
    problems = [*_problems_of_model(model), *_problems_of_nodes(model)]
    if problems:
        raise ValueError(f"the ONNX graph holds {'; '.join(problems)}; it is not published")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises errors of several unrelated classes
        raise ValueError(f"the checker of ONNX refuses the graph: {error}") from error
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    for value in inferred.value_info:
        if any(not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim):
            raise ValueError(f"the ONNX graph holds the dynamic shape of {value.name}; it is not published")


def _problems_of_model(model: onnx.ModelProto) -> list[str]:
    problems = []
    versions = {o.domain: o.version for o in model.opset_import}
    if set(versions) != {""} or versions[""] not in OPSETS:
        problems.append(f"operator sets {versions}; only the default one, {OPSETS[0]} to {OPSETS[-1]}, is portable")
    if model.ir_version > NEWEST_IR:
        problems.append(f"version {model.ir_version} of the file format; runtimes in use know up to {NEWEST_IR}")
    if model.functions:
        problems.append(f"functions {sorted(f.name for f in model.functions)}")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        problems.append("data outside the file")
    if model.graph.value_info:
        problems.append("value_info, which may contradict the rewritten graph")
    for value in [*model.graph.input, *model.graph.output]:
        if any(not d.HasField("dim_value") or d.dim_value < 1 for d in value.type.tensor_type.shape.dim):
            problems.append(f"the dynamic or empty shape of {value.name}")
    return problems


def _problems_of_nodes(model: onnx.ModelProto) -> list[str]:
    problems = []
    convolutions = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    single = {t.name for t in model.graph.initializer if list(t.dims) == [1]}
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.domain not in ("", "ai.onnx"):
            problems.append(f"{node.op_type} of the domain {node.domain}")
        if node.op_type in _CONTROL_FLOW:
            problems.append(f"control flow ({node.op_type})")
        if node.op_type == "Gemm" and attributes.get("beta", 1.0) == 0:
            problems.append(f"Gemm with beta = 0 ({node.name})")
        if node.op_type in _QUANTISATION and single & set(node.input[1:]):
            problems.append(f"a scale or zero point that is no scalar ({node.name})")
        if node.op_type == "BatchNormalization":
            problems.append(f"a batch normalisation that was not folded ({node.name})")
        if node.op_type == "Transpose" and convolutions & set(node.input) and convolutions & _readers(model, node):
            problems.append(f"a change of layout between convolutions ({node.name})")
    return problems


def _readers(model: onnx.ModelProto, node: onnx.NodeProto) -> set[str]:
    """Returns the tensors that are computed directly from what `node` computes."""
    return {name for other in model.graph.node if set(node.output) & set(other.input) for name in other.output}
