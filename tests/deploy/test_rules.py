"""Rewriting keeps what a graph computes and leaves what runs fast."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto
from onnx_models import RNG, build, conv_net, normal, ops, ranks, run, simplified

from epfv2_jax.deploy.graph import Graph
from epfv2_jax.deploy.rules import stem

pytestmark = pytest.mark.extras


def test_convolutions_take_in_what_surrounds_them():
    inputs, nodes, constants = conv_net()
    model = build(inputs, nodes, constants)
    expected = run(model, inputs)
    result = simplified(model)
    np.testing.assert_allclose(run(result, inputs), expected, rtol=1e-4, atol=1e-4)
    assert ops(result) == ["Transpose", "Conv", "Relu", "MaxPool", "Conv", "Add", "Relu", "Transpose"]


def layer_norm():
    inputs = {"x": normal(2, 5, 6)}
    constants = {
        **{"axis": np.array([2]), "n": np.float32(6), "shape": np.array([2, 5, 1]), "eps": np.float32(1e-5)},
        **{"one": np.float32(1), "scale": normal(6), "bias": normal(6)},
    }
    nodes = [
        ("ReduceSum", ["x", "axis"], ["sum"], {"keepdims": 0}),
        ("Div", ["sum", "n"], ["mean"], {}),
        ("Reshape", ["mean", "shape"], ["mean_column"], {}),
        ("Sub", ["x", "mean_column"], ["centered"], {}),
        ("ReduceSumSquare", ["centered", "axis"], ["square"], {"keepdims": 0}),
        ("Div", ["square", "n"], ["variance"], {}),
        ("Reshape", ["variance", "shape"], ["variance_column"], {}),
        ("Add", ["variance_column", "eps"], ["safe"], {}),
        ("Sqrt", ["safe"], ["root"], {}),
        ("Div", ["one", "root"], ["inverse"], {}),
        ("Mul", ["inverse", "scale"], ["factor"], {}),
        ("Mul", ["centered", "factor"], ["product"], {}),
        ("Add", ["product", "bias"], ["y"], {}),
    ]
    return inputs, nodes, constants


def with_einsum(equation, *shapes, repeated: int | None = None):
    arrays = {name: normal(*shape) for name, shape in zip("ab", shapes, strict=True)}
    if repeated is not None:  # the second operand, a constant, repeats along its first axis
        constant = np.repeat(arrays.pop("b")[:1], repeated, axis=0)
        return arrays, [("Einsum", ["a", "b"], ["y"], {"equation": equation})], {"b": constant}
    return arrays, [("Einsum", ["a", "b"], ["y"], {"equation": equation})], {}


CASES = {
    "layer norm": (layer_norm(), ["LayerNormalization"]),
    "einsum of weights": (with_einsum("...c,...cak->...ak", (3, 4), (3, 4, 2, 5), repeated=3), ["MatMul", "Reshape"]),
    "einsum over batches": (with_einsum("btak,bnak->batn", (2, 3, 2, 5), (2, 4, 2, 5)), None),
    "einsum with a turned result": (with_einsum("ab,cb->ca", (3, 4), (5, 4)), None),
    "einsum with ones": (with_einsum("...ac,...nc->...an", (1, 1, 2, 3), (1, 1, 4, 3)), None),
    "gemm without bias": (
        (
            {"x": normal(3, 4)},
            [("Gemm", ["x", "w", "zero"], ["y"], {"beta": 0.0, "transB": 1})],
            {"w": normal(5, 4), "zero": np.float32(0)},
        ),
        ["MatMul"],
    ),
    "one-hot of a scalar": (
        (
            {"x": normal(2, 3)},
            [
                ("ArgMin", ["x"], ["i"], {"axis": 1, "keepdims": 0}),
                ("OneHot", ["i", "depth", "values"], ["y"], {"axis": -1}),
            ],
            {"depth": np.int64(3), "values": np.array([0.0, 1.0], np.float32)},
        ),
        None,
    ),
    "broadcast by hand": (
        (
            {"x": normal(4), "z": normal(3, 4)},
            [
                ("Reshape", ["x", "row"], ["x_row"], {}),
                ("Expand", ["x_row", "both"], ["x_all"], {}),
                ("Mul", ["x_all", "z"], ["y"], {}),
            ],
            {"row": np.array([1, 4]), "both": np.array([3, 4])},
        ),
        ["Mul"],
    ),
    "gather on a turned tensor": (
        (
            {"x": normal(2, 5, 3)},
            [
                ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
                ("Gather", ["t", "rows"], ["g"], {"axis": 0}),
                ("Transpose", ["g"], ["y"], {"perm": [1, 0, 2]}),
            ],
            {"rows": np.array([4, 0, 2, 0])},
        ),
        ["Gather"],
    ),
    "product written out": (
        (
            {"a": normal(2, 3, 4), "b": normal(2, 4, 5)},
            [
                ("Reshape", ["a", "column"], ["a4"], {}),
                ("Reshape", ["b", "row"], ["b4"], {}),
                ("Mul", ["a4", "b4"], ["ab"], {}),
                ("ReduceSum", ["ab", "axis"], ["y"], {"keepdims": 0}),
            ],
            {"column": np.array([2, 3, 4, 1]), "row": np.array([2, 1, 4, 5]), "axis": np.array([2])},
        ),
        ["MatMul"],
    ),
    "masked images": (
        (
            {"x": RNG.integers(0, 255, (2, 3, 4), np.uint8), "mask": np.array([[[True]], [[False]]])},
            [
                ("Where", ["mask", "x", "zero"], ["seen"], {}),
                ("Cast", ["seen"], ["float"], {"to": TensorProto.FLOAT}),
                ("Div", ["float", "full"], ["unit"], {}),
                ("Sub", ["unit", "mean"], ["centered"], {}),
                ("Div", ["centered", "std"], ["y"], {}),
            ],
            {"zero": np.uint8(0), "full": np.float32(255), "mean": np.float32(0.45), "std": np.float32(0.225)},
        ),
        ["Where", "Cast", "Mul", "Add"],
    ),
    "reshapes between operations": (
        (
            {"x": normal(1, 6), "w": normal(6, 6)},
            [
                ("MatMul", ["x", "w"], ["m"], {}),
                ("Reshape", ["m", "three"], ["m3"], {}),
                ("Tanh", ["m3"], ["t"], {}),
                ("Softmax", ["t"], ["s"], {"axis": -1}),
                ("Squeeze", ["s", "axis"], ["q"], {}),
                ("MatMul", ["q", "w"], ["y"], {}),
            ],
            {"three": np.array([1, 1, 6]), "axis": np.array([0])},
        ),
        ["MatMul", "Tanh", "Softmax", "MatMul"],
    ),
    "stack of slices": (
        (
            {"x": normal(2, 5)},
            [
                ("Slice", ["x", "0", "1", "axis"], ["a"], {}),
                ("Slice", ["x", "3", "4", "axis"], ["b"], {}),
                ("Squeeze", ["a", "axis"], ["a1"], {}),
                ("Squeeze", ["b", "axis"], ["b1"], {}),
                ("Unsqueeze", ["a1", "axis"], ["a2"], {}),
                ("Unsqueeze", ["b1", "axis"], ["b2"], {}),
                ("Concat", ["b2", "a2"], ["y"], {"axis": 1}),
            ],
            {"0": np.array([0]), "1": np.array([1]), "3": np.array([3]), "4": np.array([4]), "axis": np.array([1])},
        ),
        ["Slice", "Slice", "Concat"],
    ),
    "stack of columns": (
        (
            {"a": normal(4, 1), "b": normal(4, 1)},
            [
                ("Unsqueeze", ["a", "axis"], ["a3"], {}),
                ("Unsqueeze", ["b", "axis"], ["b3"], {}),
                ("Concat", ["a3", "b3"], ["ab"], {"axis": 2}),
                ("Tanh", ["ab"], ["y"], {}),
            ],
            {"axis": np.array([0])},
        ),
        ["Concat", "Tanh"],
    ),
    "a slice of what was joined": (
        (
            {"a": normal(2, 3), "b": normal(2, 4)},
            [
                ("Concat", ["a", "b"], ["ab"], {"axis": 1}),
                ("Slice", ["ab", "from", "to", "axis"], ["b_again"], {}),
                ("Neg", ["b_again"], ["y"], {}),
            ],
            {"from": np.array([0, 3]), "to": np.array([2, 7]), "axis": np.array([0, 1])},
        ),
        ["Neg"],
    ),
    "a sum over one entry": (
        (
            {"x": normal(3, 1)},
            [
                ("CumSum", ["x", "axis"], ["c"], {}),
                ("ReduceSum", ["c", "axes"], ["s"], {"keepdims": 0}),
                ("Pow", ["s", "two"], ["y"], {}),
            ],
            {"axis": np.int64(1), "axes": np.array([1]), "two": np.float32(2)},
        ),
        ["Reshape", "Mul"],
    ),
    "many axes": (
        (
            {"x": normal(2, 1, 3, 4, 5), "z": normal(3, 1, 5)},
            [("Tanh", ["x"], ["t"], {}), ("Max", ["t", "z"], ["m"], {}), ("ReduceSum", ["m", "axis"], ["y"], {})],
            {"axis": np.array([3])},
        ),
        ["Tanh", "Max", "ReduceSum"],
    ),
    "gather that repeats": (
        (
            {"x": normal(1, 4), "z": normal(3, 4)},
            [("Gather", ["x", "rows"], ["g"], {"axis": 0}), ("Mul", ["g", "z"], ["y"], {})],
            {"rows": np.array([0, 0, 0])},
        ),
        ["Mul"],
    ),
    "negative of a difference": (
        ({"x": normal(3), "z": normal(3)}, [("Sub", ["x", "z"], ["d"], {}), ("Neg", ["d"], ["y"], {})], {}),
        ["Sub"],
    ),
    "sum of squares": (({"x": normal(3, 4)}, [("ReduceSumSquare", ["x"], ["y"], {})], {}), ["Mul", "ReduceSum"]),
    "turned twice": (
        (
            {"x": normal(2, 3, 4)},
            [
                ("Transpose", ["x"], ["t"], {"perm": [1, 2, 0]}),
                ("Transpose", ["t"], ["u"], {"perm": [0, 2, 1]}),
                ("Exp", ["u"], ["y"], {}),
            ],
            {},
        ),
        ["Transpose", "Exp"],
    ),
    "computed twice": (
        (
            {"x": normal(3)},
            [("Exp", ["x"], ["a"], {}), ("Exp", ["x"], ["b"], {}), ("Neg", ["x"], ["c"], {}), ("Add", "ab", ["y"], {})],
            {},
        ),
        ["Exp", "Add"],
    ),
}


MOST_RESHAPES = {
    **dict.fromkeys(("reshapes between operations", "stack of slices", "product written out", "broadcast by hand"), 0),
    "stack of columns": 1,
}


@pytest.mark.parametrize("name", CASES)
def test_rules_keep_the_values(name):
    (inputs, nodes, constants), kinds = CASES[name]
    model = build(inputs, nodes, constants)
    expected = run(model, inputs)
    result = simplified(model)
    np.testing.assert_allclose(run(result, inputs), expected, rtol=1e-5, atol=1e-5)
    assert not {"Einsum", "OneHot"} & set(ops(result))
    assert ops(result).count("Reshape") <= MOST_RESHAPES.get(name, 100)
    for node in result.graph.node:
        if node.op_type in ("Tanh", "Max"):
            assert len(ranks(result)[node.output[0]]) <= 4
    if kinds is not None:
        assert sorted(set(ops(result)) - {"Reshape"}) == sorted(set(kinds) - {"Reshape"})
        assert len([op for op in ops(result) if op != "Reshape"]) == len([k for k in kinds if k != "Reshape"])


def test_a_mask_is_applied_to_the_scale_and_not_to_the_image():
    (inputs, nodes, constants), _ = CASES["masked images"]
    result = simplified(build(inputs, nodes, constants))
    chosen = next(node.output[0] for node in result.graph.node if node.op_type == "Where")
    assert [d.dim_value for d in ranks(result)[chosen]] == [2, 1, 1]


def test_a_constant_scalar_index_is_evaluated():
    model = build(
        {"x": normal(3)},
        [("OneHot", ["i", "depth", "values"], ["hot"], {}), ("Mul", ["hot", "x"], ["y"], {})],
        {"i": np.int64(1), "depth": np.int64(3), "values": np.array([0.0, 1.0], np.float32)},
        (3,),
    )
    x = normal(3)
    np.testing.assert_array_equal(run(simplified(model), {"x": x}), x * np.array([0, 1, 0], np.float32))


def stem_conv(size: tuple[int, int], kernel: tuple[int, int], pads: list[int], channels: int = 1):
    """Returns an image and a convolution with stride 2."""
    x = normal(2, channels, *size)
    constants = {"w": normal(5, channels, *kernel), "b": normal(5)}
    model = build({"x": x}, [("Conv", ["x", "w", "b"], ["y"], {"pads": pads, "strides": [2, 2]})], constants)
    del model.graph.value_info[:]
    return x, model


@pytest.mark.parametrize(
    ("size", "kernel", "pads"),
    [
        ((8, 12), (3, 3), [1, 1, 1, 1]),  # MobileNetV4
        ((16, 12), (7, 7), [3, 3, 3, 3]),  # ResNet
        ((8, 6), (3, 5), [0, 2, 1, 1]),
        ((6, 8), (4, 2), [2, 0, 0, 3]),
    ],
)
def test_first_convolution_in_cells_of_pixels_is_the_same(size, kernel, pads):
    x, model = stem_conv(size, kernel, pads)
    expected = run(model, {"x": x})
    graph = Graph(model)
    graph.rewrite({"Conv": (stem.cells,)})
    (weight,) = (t for t in graph.model().graph.initializer if len(t.dims) == 4)
    assert weight.dims[1] == 4
    np.testing.assert_allclose(run(graph.model(), {"x": x}), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [((7, 8), 1), ((8, 8), 2)])
def test_other_convolutions_stay(size, channels):
    _, model = stem_conv(size, (3, 3), [1, 1, 1, 1], channels)
    graph = Graph(model)
    graph.rewrite({"Conv": (stem.cells,)})
    assert [node.op for node in graph.nodes] == ["Conv"]


def test_scalars_stay_scalars():
    model = simplified(build({"x": normal(2, 3)}, [("Mul", ["x", "two"], ["y"], {})], {"two": np.float32(2)}))
    (constant,) = model.graph.initializer
    assert list(constant.dims) == []  # ONNX Runtime Web refuses scales of quantised products with an axis
