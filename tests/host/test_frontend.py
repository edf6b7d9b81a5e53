"""The canonical form that load_onnx gives: attributes, folding, old opsets, host operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import Net, images, run_onnx

from weft.frontend.onnx import load_onnx
from weft.graph import Graph
from weft.ops import evaluate
from weft.passes.fuse import fuse


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph]


def agrees(model: onnx.ModelProto, *shape: int, tolerance: float = 1e-5) -> Graph:
    """The fused graph, after a comparison with ONNX Runtime."""
    x = images(shape)
    expected = run_onnx(model, {"x": x})
    for graph in (load_onnx(model), fuse(load_onnx(model))):
        results = evaluate(graph, {"x": x})
        for name, want in zip(graph.outputs, expected, strict=True):
            assert results[name].shape == want.shape
            np.testing.assert_allclose(results[name], want, rtol=tolerance, atol=tolerance)
    return graph


def test_attributes_are_complete() -> None:
    net = Net("n", 4, 9, 8)
    w = net.weights(6, 2, 3, 2)
    y = net.op("Conv", "x", w, auto_pad="SAME_LOWER", strides=[2, 1], group=2)
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    conv, pool = load_onnx(net.model(y)).nodes
    assert conv.inputs == ("x", w, "")
    assert conv.attrs == {
        "strides": (2, 1),
        "pads": (1, 1, 1, 0),
        "dilations": (1, 1),
        "group": 2,
    }
    assert pool.attrs == {
        "kernel_shape": (2, 2),
        "strides": (2, 2),
        "pads": (0, 0, 1, 0),
        "dilations": (1, 1),
        "count_include_pad": 0,
    }


@pytest.mark.oracle
def test_operators_of_opset_7() -> None:
    net = Net("n", 4, 6, 6, opset=7)
    y = net.op("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="constant", value=0.0)
    y = net.op("Conv", y, net.weights(8, 4, 3, 3))
    y = net.op("BatchNormalization", y, *[net.const(np.linspace(0.5, 2, 8))] * 4)
    y = net.op("Upsample", net.op("Dropout", y, ratio=0.5), scales=[1.0, 1.0, 2.0, 2.0])
    a, b = net.op("Split", y, outputs=2, axis=1, split=[3, 5])
    y = net.op("Slice", net.op("Concat", b, a, axis=1), starts=[1], ends=[100], axes=[1])
    y = net.op("Squeeze", net.op("ReduceMean", y, axes=[2, 3]), axes=[2, 3])
    y = net.op("Softmax", net.op("Flatten", net.op("Unsqueeze", y, axes=[2])))
    graph = agrees(net.model(y), 2, 4, 6, 6)
    assert ops(graph) == [
        *("Conv", "Resize", "Slice", "Slice", "Concat", "Slice", "GlobalAveragePool"),
        *("Reshape", "Softmax"),
    ]


@pytest.mark.oracle
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_arithmetic_on_shapes_is_folded(opset: int) -> None:
    net = Net("n", 4, 6, opset=opset)
    n = net.op("Gather", net.op("Shape", "x"), net.const(0, np.int64))
    n = net.op("Cast", net.op("Mul", net.op("Cast", n, to=1), net.const(1.0)), to=7)
    axes = () if opset < 13 else (net.const([0], np.int64),)
    n = net.op("Unsqueeze", n, *axes, **({"axes": [0]} if opset < 13 else {}))
    shape = net.op("Concat", n, net.const([24], np.int64), axis=0)
    graph = agrees(net.model(net.op("Reshape", net.op("Sum", "x", "x", "x"), shape)), 2, 4, 6)
    assert ops(graph) == ["Add", "Add", "Reshape"]


@pytest.mark.oracle
def test_operators_without_a_form_stay_and_run_on_the_host() -> None:
    cases: list[tuple[str, list[Any], dict[str, Any], str]] = [
        ("Einsum", ["x"], {"equation": "bij->bji"}, "Einsum"),
        ("InstanceNormalization", ["x", [1.0, 2, 3, 4], [0.5] * 4], {}, "InstanceNormalization"),
        ("LpPool", ["x"], {"kernel_shape": [3], "p": 2}, "LpPool"),
        ("Hardmax", ["x"], {}, "Hardmax"),
        ("Mod", ["x", 2.0], {"fmod": 1}, "Mod"),
        ("ReduceL2", ["x"], {"axes": [2]}, "ReduceL2"),
        ("Resize", ["x", "", [1.0, 1.0, 1.5]], {"mode": "linear"}, "onnx.Resize"),
    ]
    for op, inputs, attrs, expected in cases:
        net = Net("n", 4, 8)
        names = [v if isinstance(v, str) else net.const(v) for v in inputs]
        graph = agrees(net.model(net.op(op, *names, **attrs)), 2, 4, 8)
        assert ops(graph) == [expected]
        assert graph.nodes[0].attrs["opset"] == 17


@pytest.mark.oracle
def test_outputs_beyond_the_first() -> None:
    net = Net("n", 4, 8)
    top, index = net.op("TopK", "x", net.const([2], np.int64), outputs=2)
    agrees(net.model(top, index), 3, 4, 8)
    for attrs in ({"pads": [1, 0, 1, 1]}, {"strides": [2, 1]}, {"dilations": [2, 2]}):
        net = Net("n", 3, 6, 5)
        both = net.op("MaxPool", "x", kernel_shape=[2, 2], outputs=2, **attrs)
        assert ops(agrees(net.model(*both), 1, 3, 6, 5)) == ["MaxPool"]
    net = Net("n", 3, 6, 5)
    first, _ = net.op("MaxPool", "x", kernel_shape=[2, 2], outputs=2)
    assert load_onnx(net.model(first)).nodes[0].outputs == (first,)


def test_half_precision_becomes_single() -> None:
    net = Net("n", 4, dtype=onnx.TensorProto.FLOAT16)
    w = net.const(net.random.standard_normal((4, 3)), np.float16)
    y = net.op("Cast", net.op("MatMul", "x", w), to=onnx.TensorProto.DOUBLE)
    graph = fuse(load_onnx(net.model(y)))
    assert ops(graph) == ["Linear"]
    assert {t.dtype for t in graph.tensors.values()} == {"float32"}


@pytest.mark.parametrize(
    ("kind", "values", "raw"),
    [
        (onnx.TensorProto.BFLOAT16, [1.5, -2.0], b"\xc0\x3f\x00\xc0"),
        (onnx.TensorProto.FLOAT16, [1.5, -2.0], b"\x00\x3e\x00\xc0"),
        (onnx.TensorProto.DOUBLE, [1.5, -2.0], np.array([1.5, -2.0]).tobytes()),
        (onnx.TensorProto.FLOAT8E5M2, [1.5, -2.0], b"\x3e\xc0"),
    ],
)
def test_floats_of_any_width_become_single(kind: int, values: list[float], raw: bytes) -> None:
    net = Net("n", 2)
    net.constants.append(onnx.TensorProto(name="w", data_type=kind, dims=[2], raw_data=raw))
    y = net.op("Add", "x", net.op("Cast", "w", to=onnx.TensorProto.FLOAT))
    net.opset = 19
    graph = load_onnx(net.model(y))
    constant = graph[graph.nodes[0].inputs[1]].data
    assert constant is not None
    assert constant.dtype == np.float32
    assert constant.tolist() == values


def test_weights_of_4_bits_keep_their_integers() -> None:
    net = Net("n", 2, opset=21)
    kind = onnx.TensorProto.INT4
    net.constants.append(
        onnx.TensorProto(name="w", data_type=kind, dims=[2, 2], raw_data=b"\x7f\x81")
    )
    w = net.op("DequantizeLinear", "w", net.const(0.5))
    graph = load_onnx(net.model(net.op("MatMul", "x", w)))
    weights = graph[graph.nodes[0].inputs[1]]
    assert weights.data is not None
    assert weights.data.tolist() == [[-1, 7], [1, -8]]
    assert weights.real().tolist() == [[-0.5, 3.5], [0.5, -4]]


def test_functions_of_the_model_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    function = helper.make_function(
        "mine", "NegatedRelu", ["a"], ["b"], body, [helper.make_opsetid("", 17)]
    )
    net = Net("n", 4)
    y = net.op("NegatedRelu", "x", domain="mine")
    model = net.model()
    model.graph.output.append(onnx.ValueInfoProto(name=y))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    x = images((3, 4))
    graph = load_onnx(model)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})[graph.outputs[0]], -np.maximum(x, 0))


def test_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    net = Net("n", 4)
    w = net.weights(4, 3)
    net.add_input(w, 4, 3)
    graph = load_onnx(net.model(net.op("MatMul", "x", w)))
    assert graph.inputs == ("x",)
    assert ops(graph) == ["Linear"]


def test_names_that_new_nodes_would_take_are_avoided() -> None:
    net = Net("n", 4, 5, 5)
    y = net.op("Flatten", net.op("ReduceMean", "x", axes=[2, 3], keepdims=0))
    model = net.model(y)
    for i in range(1, 4):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, "f4"), f"n0.{i}"))
    assert ops(load_onnx(model)) == ["GlobalAveragePool", "Reshape", "Reshape"]


@pytest.mark.oracle
def test_quantized_values_that_only_move_keep_their_codes() -> None:
    """As torch exports it: no QuantizeLinear behind a reshape or a pool."""
    net = Net("n", 3, 6, 6)
    s, z = net.const(0.05), net.const(-7, np.int8)

    def coded(name: str) -> str:
        q = net.op("QuantizeLinear", name, s, z)
        return str(net.op("DequantizeLinear", q, s, z))

    y = net.op("MaxPool", coded("x"), kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Flatten", net.op("Transpose", y, perm=[0, 2, 3, 1]))
    y = coded(
        net.op("Reshape", net.op("Gemm", y, net.weights(27, 4)), net.const([0, 2, 2], np.int64))
    )
    model = net.model(y)
    graph = fuse(load_onnx(model))
    assert all(graph[name].quant is not None for node in graph for name in node.outputs)
    x = images((4, 3, 6, 6))
    (result,) = evaluate(graph, {"x": x}, fake_quant=True).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], atol=1e-6)
