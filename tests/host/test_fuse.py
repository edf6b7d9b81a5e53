"""Fusing: random networks keep their results, and the patterns it is for disappear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import Net, cnn, images, run_onnx

from weft.errors import ModelError
from weft.frontend.onnx import load_onnx
from weft.graph import Graph, Node, Quant, Tensor
from weft.ops import evaluate
from weft.passes.bias import integer_bias
from weft.passes.fuse import fuse

STEPS = (
    *("conv", "conv", "depthwise", "transposed", "batch_norm", "batch_norm", "relu", "clip"),
    *("leaky", "prelu", "add", "mul", "sub", "pad", "max_pool", "average_pool", "residual"),
    *("identity", "transposes", "reshapes", "slice"),
)


class Chain:
    """A random network on [n, c, 7, 7] maps."""

    def __init__(self, seed: int) -> None:
        self.net = Net("n", 4, 7, 7, seed=seed)
        self.y, self.c = "x", 4
        self.older: list[tuple[str, int]] = []

    def add(self, step: str) -> None:
        self.older.append((self.y, self.c))
        self.y = getattr(self, step)(self.net, self.y)

    def conv(self, net: Net, y: str) -> str:
        bias = [net.weights(6)] if net.random.integers(2) else []
        w, self.c = net.weights(6, self.c, 3, 3), 6
        return net.op("Conv", y, w, *bias, pads=[1, 1, 1, 1])

    def depthwise(self, net: Net, y: str) -> str:
        return net.op("Conv", y, net.weights(self.c, 1, 3, 3), group=self.c, pads=[1, 1, 1, 1])

    def transposed(self, net: Net, y: str) -> str:
        group = 2 - self.c % 2
        w, self.c = net.weights(self.c, 4 // group, 3, 3), 4
        return net.op("ConvTranspose", y, w, group=group, pads=[1, 1, 1, 1])

    def batch_norm(self, net: Net, y: str) -> str:
        r, c = net.random, self.c
        stats = [r.normal(size=c), r.normal(size=c), r.normal(size=c), r.uniform(0.3, 2, c)]
        return net.op("BatchNormalization", y, *map(net.const, stats))

    def relu(self, net: Net, y: str) -> str:
        return net.op("Relu", y)

    def clip(self, net: Net, y: str) -> str:
        return net.op("Clip", y, net.const(-0.5), net.const(1.5))

    def leaky(self, net: Net, y: str) -> str:
        return net.op("LeakyRelu", y, alpha=0.2)

    def prelu(self, net: Net, y: str) -> str:
        return net.op("PRelu", y, net.weights(self.c, 1, 1))

    def _constant(self, net: Net) -> str:
        shape = [(self.c, 1, 1), (), (1, self.c, 1, 1), (7,)][net.random.integers(4)]
        return net.const(net.random.uniform(-2, 2, shape))

    def add_(self, net: Net, y: str) -> str:
        return net.op("Add", self._constant(net), y)

    def mul(self, net: Net, y: str) -> str:
        return net.op("Mul", y, self._constant(net))

    def sub(self, net: Net, y: str) -> str:
        inputs = [y, self._constant(net)]
        return net.op("Sub", *(inputs if net.random.integers(2) else inputs[::-1]))

    def pad(self, net: Net, y: str) -> str:
        y = net.op("Pad", y, net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        kind = net.random.integers(3)
        if kind == 0:
            return net.op("MaxPool", y, kernel_shape=[3, 3])
        if kind == 1:
            return net.op("AveragePool", y, kernel_shape=[3, 3], count_include_pad=1)
        w, self.c = net.weights(5, self.c, 3, 3), 5
        return net.op("Conv", y, w)

    def max_pool(self, net: Net, y: str) -> str:
        return net.op("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def average_pool(self, net: Net, y: str) -> str:
        return net.op("AveragePool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def residual(self, net: Net, y: str) -> str:
        same = [name for name, c in self.older if c == self.c]
        return net.op("Add", y, same[net.random.integers(len(same))])

    def identity(self, net: Net, y: str) -> str:
        return net.op("Dropout", net.op("Identity", y))

    def transposes(self, net: Net, y: str) -> str:
        y = net.op("Transpose", y, perm=[0, 2, 3, 1])
        return net.op("Transpose", net.op("Relu", y), perm=[0, 3, 1, 2])

    def reshapes(self, net: Net, y: str) -> str:
        y = net.op("Reshape", y, net.const([0, 0, -1], np.int64))
        return net.op("Reshape", y, net.const([0, 0, 7, 7], np.int64))

    def slice(self, net: Net, y: str) -> str:
        bounds = [net.const([v], np.int64) for v in (0, 7, 2)]
        return net.op("Slice", y, *bounds)


@pytest.mark.oracle
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.sampled_from(STEPS), max_size=9), seed=st.integers(0, 999))
def test_random_networks_keep_their_results(steps: list[str], seed: int) -> None:
    chain = Chain(seed)
    for step in steps:
        chain.add("add_" if step == "add" else step)
    net = chain.net
    flat = net.op("Flatten", chain.y)
    y = net.op("MatMul", flat, net.weights(49 * chain.c, 6))
    y = net.op("Add", y, net.weights(6))
    model = net.model(net.op("BatchNormalization", y, *[net.const([1.5] * 6)] * 4), chain.y)
    x = images((3, 4, 7, 7), seed)
    expected = run_onnx(model, {"x": x})
    graph = fuse(load_onnx(model))
    for name, result in evaluate(graph, {"x": x}).items():
        reference = expected[graph.outputs.index(name)]
        scale = float(np.abs(reference).max()) or 1.0
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5 * scale)
    assert not {"Dropout", "BatchNormalization"} & set(ops(graph))


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph]


def fused(net: Net, y: str) -> Graph:
    return fuse(load_onnx(net.model(y)))


def test_a_residual_network_is_left_with_what_computes() -> None:
    graph = fuse(load_onnx(cnn()))
    assert ops(graph) == [
        *("Conv", "Conv", "Conv", "Add", "MaxPool", "Conv", "AveragePool", "Concat"),
        *("GlobalAveragePool", "Reshape", "Linear"),
    ]
    assert [n.attrs.get("activation") for n in graph][:4] == [
        ("Relu",),
        ("Clip", 0.0, 6.0),
        None,
        ("Relu",),
    ]


def test_prelu_keeps_one_slope_per_channel_and_one_slope_is_leaky() -> None:
    net = Net("n", 3, 4, 4)
    slopes = net.const(np.reshape([0.1, 0.2, 0.3], (3, 1, 1)))
    graph = fused(net, net.op("PRelu", net.op("Conv", "x", net.weights(3, 3, 1, 1)), slopes))
    kind, values = graph.nodes[0].attrs["activation"]
    assert kind == "PRelu"
    np.testing.assert_allclose(values, [0.1, 0.2, 0.3], rtol=1e-6)
    net = Net("n", 3)
    y = net.op("PRelu", net.op("Gemm", "x", net.weights(3, 3)), net.const([0.25]))
    assert fused(net, y).nodes[0].attrs["activation"] == ("LeakyRelu", 0.25)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("pads", "value", "op", "attrs", "expected"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "AveragePool", {"count_include_pad": 1}, 1),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "AveragePool", {}, 1),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "AveragePool", {"pads": [1, 1, 1, 1]}, 2),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.5, "AveragePool", {}, 2),
        ([0, 1, 0, 0, 0, 0, 1, 1], 0.0, "AveragePool", {}, 2),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "MaxPool", {}, 2),
        ([0, 0, 1, 1, 0, 0, 1, 1], -np.inf, "MaxPool", {}, 1),
        ([0, 1, 0, 0, 0, 1, 1, 1], 0.0, "Conv", {}, 2),
        ([0, 0, 2, 0, 0, 0, 1, 1], 0.0, "Conv", {"pads": [0, 1, 1, 0]}, 1),
        ([0, 0, 2, 0, 0, 0, 1, 1], 1.0, "Conv", {}, 2),
    ],
)
def test_a_pad_is_merged_where_the_window_means_the_same(
    pads: list[int], value: float, op: str, attrs: dict[str, Any], expected: int
) -> None:
    net = Net("n", 3, 6, 6)
    y = net.op("Pad", "x", net.const(pads, np.int64), net.const(value))
    if op == "Conv":
        y = net.op("Conv", y, net.weights(2, 3 + pads[1] + pads[5], 3, 3), **attrs)
    else:
        y = net.op(op, y, kernel_shape=[3, 3], **attrs)
    model = net.model(y)
    graph = fuse(load_onnx(model))
    assert len(graph.nodes) == expected
    x = images((2, 3, 6, 6)) - 2
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5, atol=1e-6)


def written_out(kind: str, net: Net) -> str:
    """The ways in which exporters write activations."""
    if kind == "swish":
        return str(net.op("Mul", "x", net.op("Sigmoid", "x")))
    if kind == "hard_swish":
        return str(net.op("Mul", net.op("HardSigmoid", "x", alpha=1 / 6), "x"))
    if kind.startswith("relu6"):
        gate = net.op("Add", "x", net.const(3.0))
        gate = net.op("Clip", gate, net.const(0.0), net.const(6.0))
        if kind == "relu6 first":
            return str(net.op("Mul", "x", net.op("Div", gate, net.const(6.0))))
        return str(net.op("Div", net.op("Mul", "x", gate), net.const([6.0])))
    gate = net.op("Erf", net.op("Div", "x", net.const(np.sqrt(2.0))))
    gate = net.op("Add", gate, net.const(1.0))
    if kind == "gelu half first":
        return str(net.op("Mul", net.op("Mul", "x", net.const(0.5)), gate))
    return str(net.op("Mul", net.op("Mul", "x", gate), net.const(0.5)))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("kind", "op"),
    [
        ("swish", "Swish"),
        ("hard_swish", "HardSwish"),
        ("relu6 first", "HardSwish"),
        ("relu6 last", "HardSwish"),
        ("gelu", "Gelu"),
        ("gelu half first", "Gelu"),
    ],
)
def test_activations_that_are_written_out_become_one_node(kind: str, op: str) -> None:
    net = Net("n", 3, 5)
    model = net.model(written_out(kind, net))
    graph = fuse(load_onnx(model))
    assert ops(graph) == [op]
    x = images((9, 3, 5)) * 3
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_what_only_looks_like_an_activation_stays() -> None:
    for slope in (0.2, 0.16):
        net = Net("n", 3)
        graph = fused(net, net.op("Mul", "x", net.op("HardSigmoid", "x", alpha=slope)))
        assert ops(graph) == ["HardSigmoid", "Mul"]
    net = Net("n", 3)
    gate = net.op("Sigmoid", "x")
    assert ops(fused(net, net.op("Mul", "x", net.op("Add", gate, gate)))) == [
        "Sigmoid",
        "Add",
        "Mul",
    ]
    net = Net("n", 3)
    net.add_input("z", "n", 3)
    assert ops(fused(net, net.op("Mul", "z", net.op("Sigmoid", "x")))) == ["Sigmoid", "Mul"]
    net = Net("n", 3)
    gate = net.op("Clip", net.op("Add", "x", net.const(2.0)), net.const(0.0), net.const(6.0))
    assert "HardSwish" not in ops(
        fused(net, net.op("Div", net.op("Mul", "x", gate), net.const(6.0)))
    )


def test_statistics_that_give_no_finite_factor_are_refused() -> None:
    net = Net("n", 3, 4, 4)
    stats = [net.const([v] * 3) for v in (1.0, 1.0, 1.0, -2.0)]
    with pytest.raises(ModelError, match="variance -2"):
        fused(net, net.op("BatchNormalization", "x", *stats))


def test_a_result_that_is_read_twice_is_not_fused_into() -> None:
    net = Net("n", 3, 4, 4)
    y = net.op("Conv", "x", net.weights(3, 3, 1, 1))
    graph = fused(net, net.op("Add", net.op("Relu", y), y))
    assert ops(graph) == ["Conv", "Relu", "Add"]


def test_batch_normalization_before_everything_is_a_depthwise_conv() -> None:
    net = Net("n", 3, 4, 4)
    graph = fused(
        net, net.op("Relu", net.op("BatchNormalization", "x", *[net.const([2.0] * 3)] * 4))
    )
    assert ops(graph) == ["Conv"]
    assert graph.nodes[0].attrs["group"] == 3
    assert graph.nodes[0].attrs["activation"] == ("Relu",)


def test_outputs_keep_their_names() -> None:
    net = Net("n", 3)
    first = net.op("Identity", net.op("Relu", "x"))
    second = net.op("Identity", "x")
    graph = fuse(load_onnx(net.model(first, second)))
    assert graph.outputs == (first, second)
    x = images((2, 3))
    result = evaluate(graph, {"x": x})
    np.testing.assert_array_equal(result[first], np.maximum(x, 0))
    np.testing.assert_array_equal(result[second], x)


def test_weights_shared_by_two_layers_are_scaled_for_one_only() -> None:
    net = Net("n", 3)
    w = net.weights(3, 3)
    a = net.op("Mul", net.op("MatMul", "x", w), net.const([1.0, 2.0, 3.0]))
    y = net.op("MatMul", a, w)
    x = images((2, 3))
    model = net.model(y)
    (result,) = evaluate(fused(net, y), {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5)


def quantized(op: str, middle: Quant | None, **attrs: Any) -> Graph:
    """Conv → `op`, with codes after it and perhaps between the two."""
    q = Quant(np.float32(0.1), 3)
    w = np.ones((2, 2, 1, 1), np.int8)
    window = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
    tensors = [
        Tensor("x", (1, 2, 3, 3), quant=q),
        Tensor("w", w.shape, "float32", w, Quant(np.float32(0.05))),
        Tensor("b", (2,), "float32", np.array([0.5, -0.25], np.float32)),
        Tensor("m", (1, 2, 3, 3), quant=middle),
        Tensor("y", (1, 2, 3, 3), quant=q),
    ]
    nodes = (
        Node("Conv", "c", ("x", "w", "b"), ("m",), window),
        Node(op, "a", ("m",), ("y",), attrs),
    )
    return Graph("g", {t.name: t for t in tensors}, nodes, ("x",), ("y",))


def test_nothing_is_fused_across_other_codes() -> None:
    same, other = Quant(np.float32(0.1), 3), Quant(np.float32(0.2), 3)
    assert ops(fuse(quantized("Relu", None))) == ["Conv"]
    assert ops(fuse(quantized("Relu", same))) == ["Conv"]
    assert ops(fuse(quantized("Relu", other))) == ["Conv", "Relu"]
    assert ops(fuse(quantized("LeakyRelu", same, alpha=0.1))) == ["Conv", "LeakyRelu"]


def test_the_bias_of_a_quantized_node_is_int32() -> None:
    graph = fuse(quantized("Relu", None))
    bias = graph[graph.nodes[0].inputs[2]]
    assert bias.data is not None
    assert bias.data.dtype == np.int32
    assert bias.quant is not None
    assert float(bias.quant.scale) == np.float32(0.1) * np.float32(0.05)
    np.testing.assert_allclose(bias.real(), [0.5, -0.25], atol=0.003)


def test_integer_bias_keeps_integers_that_fit_and_saturates() -> None:
    x, w = Quant(np.float32(0.5)), Quant(np.array([0.5, 1e-30], np.float32), 0, 0)
    fits = Tensor(
        "b", (2,), "float32", np.array([1, 2], np.int32), Quant(np.float32(0.5) * w.scale, 0, 0)
    )
    assert integer_bias(fits, x, w) is fits
    wide = integer_bias(Tensor("b", (2,), data=np.array([1.0, 7.0], np.float32)), x, w)
    assert wide.data is not None
    assert wide.data.tolist() == [4, 2**31 - 1]
