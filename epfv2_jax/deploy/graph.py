"""A static ONNX graph that rules rewrite (see `deploy.rules`)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

_MAX_PASSES = 100  # a handful are needed
_SHAPE_CONSTANT = 1024  # constants of more entries cannot be shapes, and are hidden from shape inference


@dataclasses.dataclass(eq=False)
class Node:
    """One operation; `inputs` holds "" where an optional input is absent."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def proto(self) -> onnx.NodeProto:
        """Returns the node as an ONNX message."""
        return helper.make_node(self.op, self.inputs, self.outputs, self.outputs[0], **self.attributes)


#: Returns nodes in place of a node, the name of a tensor equal to the node's output, or None where it does not apply.
Rule = Callable[["Graph", Node], "list[Node] | str | None"]


class Graph:
    """A graph of static shapes: nodes in order of execution, constants and types by name."""

    def __init__(self, model: onnx.ModelProto):
        graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain == "")
        self.inputs, self.outputs = list(graph.input), list(graph.output)
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.nodes = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            else:
                self.nodes.append(Node(node.op_type, list(node.input), list(node.output), attributes))
        self._given = {name for node in self.nodes for name in (*node.inputs, *node.outputs)} | set(self.constants)
        self._types: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._made = 0
        self._small: dict[tuple, str] = {}
        self._producers: dict[str, Node] = {}

    def model(self) -> onnx.ModelProto:
        """Returns the graph as an ONNX model in one file, without value_info."""
        used = {name for node in self.nodes for name in node.inputs} | {o.name for o in self.outputs}
        tensors = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in self.constants.items() if k in used]
        graph = helper.make_graph([n.proto() for n in self.nodes], "step", self.inputs, self.outputs, tensors)
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset]))

    def rewrite(self, rules: Mapping[str, Sequence[Rule]]) -> None:
        """Applies the rules of each kind of operation, in order, until none applies.

        Also evaluates what depends on constants alone, and removes what is computed twice or never used.
        """
        output_names = {o.name for o in self.outputs}
        for _ in range(_MAX_PASSES):
            self._infer_types()
            changed = self._pass(rules, output_names)
            self._drop_dead(output_names)
            if not changed:
                break
        assert not changed, "two rules undo each other"
        self._name_outputs(output_names)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Returns the shape of a tensor, or None where it is not known yet."""
        if name in self.constants:
            return self.constants[name].shape
        return self._types[name][0] if name in self._types else None

    def dtype(self, name: str) -> np.dtype | None:
        """Returns the element type of a tensor, or None where it is not known yet."""
        if name in self.constants:
            return self.constants[name].dtype
        return self._types[name][1] if name in self._types else None

    def producer(self, name: str, op: str | None = None) -> Node | None:
        """Returns the node that computes a tensor if it is of kind `op` (None: any), else None."""
        node = self._producers.get(name)
        return node if node is not None and op in (None, node.op) else None

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Returns the name of a constant. Equal small ones share it, so that equal nodes are recognised as such."""
        value = np.asarray(value, dtype)
        if value.size > _SHAPE_CONSTANT:
            name = self.name("weights")
            self.constants[name] = value
            return name
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._small:
            self._small[key] = self.name("constant")
        self.constants[self._small[key]] = value
        return self._small[key]

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> Node:
        """Returns a new node with one output, called `output` or given a new name."""
        return Node(op, list(inputs), [output or self.name(op.lower())], attributes)

    def name(self, stem: str) -> str:
        """Returns a name that is not in use."""
        while True:
            self._made += 1
            name = f"{stem}__{self._made}"
            if name not in self._given:
                return name

    def _pass(self, rules: Mapping[str, Sequence[Rule]], output_names: set[str]) -> bool:
        """Rewrites the nodes once, in order of execution: a rule sees what is above its node already rewritten."""
        alias: dict[str, str] = {}
        seen: dict[Any, Node] = {}
        done: list[Node] = []
        self._producers = {}
        changed = False
        todo = self.nodes[::-1]
        while todo:
            node = todo.pop()
            node.inputs = [self._canonical(alias.get(name, name)) for name in node.inputs]
            replacement = self._rewrite(rules, node)
            if isinstance(replacement, str) and not output_names & set(node.outputs):
                changed = True
                alias[node.outputs[0]] = replacement
                continue
            if isinstance(replacement, str):  # an output keeps its name
                kept = node.op == "Identity"
                replacement = None if kept else [Node("Identity", [replacement], node.outputs)]
            if replacement is not None:
                changed = True
                todo += replacement[::-1]
                continue
            key = (node.op, tuple(node.inputs), len(node.outputs), repr(sorted(node.attributes.items())))
            twin = seen.setdefault(key, node)
            if twin is not node and not output_names & set(node.outputs):
                changed = True
                alias.update(zip(node.outputs, twin.outputs, strict=True))
                continue
            done.append(node)
            self._producers.update(dict.fromkeys(node.outputs, node))
        self.nodes = done
        return changed

    def _canonical(self, name: str) -> str:
        """Returns the shared name of a small constant; any other name as it is."""
        small = name in self.constants and self.constants[name].size <= _SHAPE_CONSTANT
        return self.constant(self.constants[name]) if small else name

    def _rewrite(self, rules: Mapping[str, Sequence[Rule]], node: Node) -> list[Node] | str | None:
        if node.op != "Identity" and all(not name or name in self.constants for name in node.inputs):
            values = ReferenceEvaluator(node.proto(), opsets={"": self.opset}).run(
                None, {name: self.constants[name] for name in node.inputs if name}
            )
            outputs = [np.asarray(value) for value in values]
            if len(outputs) == 1:
                return self.constant(outputs[0])
            return [
                self.node("Identity", self.constant(v), output=o) for v, o in zip(outputs, node.outputs, strict=True)
            ]
        for rule in rules.get(node.op, ()):
            replacement = rule(self, node)
            if replacement is not None:
                return replacement
        return None

    def _drop_dead(self, output_names: set[str]) -> None:
        needed, kept = set(output_names), []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}

    def _name_outputs(self, output_names: set[str]) -> None:
        """Gives a tensor that is only copied to an output the name of that output."""
        made = {name for node in self.nodes for name in node.outputs}
        names: dict[str, str] = {}
        for node in self.nodes:
            if node.op == "Identity" and node.inputs[0] in made - output_names - set(names):
                names[node.inputs[0]] = node.outputs[0]
        self.nodes = [
            node
            for node in self.nodes
            if node.op != "Identity" or node.inputs[0] not in names or names[node.inputs[0]] != node.outputs[0]
        ]
        for node in self.nodes:
            node.inputs = [names.get(name, name) for name in node.inputs]
            node.outputs = [names.get(name, name) for name in node.outputs]

    def _infer_types(self) -> None:
        """Infers all shapes and types. Large constants are passed as inputs, so that no weights are copied."""
        hidden = {k: v for k, v in self.constants.items() if v.size > _SHAPE_CONSTANT}
        shown = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k not in hidden]
        inputs = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in hidden.items()
        ]
        graph = helper.make_graph([n.proto() for n in self.nodes], "step", self.inputs + inputs, self.outputs, shown)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        for value in [*inferred.input, *inferred.output, *inferred.value_info]:
            tensor = value.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            if tensor.HasField("shape") and None not in dims:
                self._types[value.name] = tuple(dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
