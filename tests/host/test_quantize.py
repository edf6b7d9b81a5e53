"""The quantization pass: what becomes int8, with which scales, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft import ops
from weft.errors import InputError, ModelError, UsageError
from weft.graph import Graph, Node, Tensor
from weft.passes.quantize import BIAS_LIMIT, quantize, simulate

RNG = np.random.default_rng(5)
WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
POOL = {**WINDOW, "kernel_shape": (2, 2), "strides": (2, 2), "count_include_pad": 0}


class Net:
    """Builds a graph from node to node; shapes are the registry's."""

    def __init__(self, *shape: int) -> None:
        self.tensors = {"x": Tensor("x", shape)}
        self.nodes: list[Node] = []

    def add(self, op: str, *inputs: str | np.ndarray, **attrs: Any) -> str:
        """Output name of a node; arrays become constants."""
        name = f"{op}_{len(self.nodes)}"
        names = []
        for i, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                key = f"{name}_c{i}"
                self.tensors[key] = Tensor(key, value.shape, str(value.dtype), value)
                names.append(key)
            else:
                names.append(value)
        node = Node(op, name, tuple(names), (f"{name}_y",), attrs)
        self.nodes.append(node)
        for tensor in ops.describe_outputs(node, self.tensors):
            self.tensors[tensor.name] = tensor
        return node.outputs[0]

    def conv(self, x: str, channels: int, kernel: int = 3, **attrs: Any) -> str:
        shape = (channels, self.tensors[x].shape[1], kernel, kernel)
        bias = RNG.normal(size=channels).astype(np.float32)
        weights = RNG.normal(size=shape).astype(np.float32)
        return self.add("Conv", x, weights, bias, group=1, **{**WINDOW, **attrs})

    def linear(self, x: str, units: int, bias: np.ndarray | None = None, **attrs: Any) -> str:
        weights = RNG.normal(size=(self.tensors[x].shape[-1], units)).astype(np.float32)
        return self.add("Linear", x, weights, *([] if bias is None else [bias]), **attrs)

    def graph(self, *outputs: str) -> Graph:
        return Graph("net", self.tensors, tuple(self.nodes), ("x",), outputs).verify()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def same_quant(graph: Graph, *names: str) -> bool:
    quants = [graph[n].quant for n in names]
    return all(
        q is not None and (q.scale, q.zero_point) == (quants[0].scale, quants[0].zero_point)
        for q in quants
    )


def test_weights_activations_and_bias_follow_the_contract() -> None:
    net = Net(1, 3, 8, 8)
    y = net.linear(
        net.add("Reshape", net.conv("x", 5, activation=("Relu",)), shape=(1, 180)),
        7,
        normal(7),
    )
    graph, x = net.graph(y), normal(20, 3, 8, 8) + 0.5
    found = quantize(graph, {"x": x}, requant="float_even")
    for node, axis in ((found.nodes[0], 0), (found.nodes[2], 1)):
        source, weights, bias = (found[n] for n in node.inputs)
        real = graph[weights.name].data
        assert real is not None
        assert weights.data is not None
        assert weights.data.dtype == np.int8
        assert weights.quant is not None
        assert weights.quant.zero_point == 0
        others = tuple(a for a in range(real.ndim) if a != axis)
        np.testing.assert_array_equal(np.abs(weights.data.astype(int)).max(others), 127)
        assert np.abs(weights.real() - real).max() <= weights.quant.scale.max() * 0.50001
        assert bias.data is not None
        assert bias.data.dtype == np.int32
        assert bias.quant is not None
        assert source.quant is not None
        unit = source.quant.scale * weights.quant.scale
        np.testing.assert_allclose(bias.quant.scale, unit, rtol=1e-6)
        assert (np.abs(bias.real() - graph[bias.name].data) <= unit * 0.51).all()
    assert all(node.attrs["requant"] == "float_even" for node in found)
    for name in ("x", *(n.outputs[0] for n in found)):
        quant = found[name].quant
        assert quant is not None
        assert quant.scale.shape == ()
        assert found[name].dtype == "float32"
    quant = found["x"].quant
    assert quant is not None
    assert abs(quant.dequantize(np.int8(-128)) - x.min()) <= quant.scale * 0.51
    assert abs(quant.dequantize(np.int8(127)) - x.max()) <= quant.scale * 0.51
    relu = found[found.nodes[0].outputs[0]].quant
    assert relu is not None
    assert relu.zero_point == -128
    assert all(t.quant is None for t in graph.tensors.values())  # the given graph is untouched


def test_what_moves_values_shares_the_scale() -> None:
    net = Net(1, 4, 8, 8)
    head = net.conv("x", 4)
    names = [head]
    for op, attrs in (
        ("MaxPool", POOL),
        ("Slice", {"starts": (0,), "ends": (2,), "axes": (2,), "steps": (1,)}),
        ("Resize", {"scales": (1, 1, 2, 2)}),
        ("Pad", {"pads": (0, 0, 0, 0, 0, 0, 0, 2), "value": 0.0}),
        ("DepthToSpace", {"blocksize": 2, "mode": "DCR"}),
        ("Transpose", {"perm": (0, 2, 3, 1)}),
    ):
        names.append(net.add(op, names[-1], **attrs))
    size = int(np.prod(net.tensors[names[-1]].shape))
    names.append(net.add("Reshape", names[-1], shape=(1, size)))
    y = net.linear(names[-1], 3)
    found = quantize(net.graph(y), {"x": normal(8, 4, 8, 8)})
    assert same_quant(found, *names)
    assert not same_quant(found, head, y)
    assert all("requant" in node.attrs for node in found)


def test_a_pad_with_a_number_has_its_own_range() -> None:
    net = Net(1, 2, 4, 4)
    head = net.conv("x", 2, 1)
    out = net.add("Pad", head, pads=(0, 0, 1, 1, 0, 0, 1, 1), value=1000.0)
    lowest = net.add("Pad", head, pads=(0, 0, 1, 1, 0, 0, 1, 1), value=-np.inf)
    pooled = net.add("MaxPool", lowest, **POOL)
    found = quantize(net.graph(out, pooled), {"x": normal(8, 2, 4, 4)})
    assert same_quant(found, head, lowest, pooled)
    quant = found[out].quant
    assert quant is not None
    assert abs(quant.dequantize(np.int8(127)) - 1000) <= quant.scale * 0.51


def test_concat_keeps_each_inputs_scale() -> None:
    net = Net(1, 3, 6, 6)
    a, b = net.conv("x", 2), net.conv("x", 3)
    both = net.add("Concat", a, b, axis=1)
    found = quantize(net.graph(both), {"x": normal(8, 3, 6, 6)})
    assert not same_quant(found, a, b)
    assert found[both].quant is not None


def test_host_operators_stay_float_and_tensors_between_carry_scales() -> None:
    net = Net(1, 6)
    logits = net.linear("x", 5)
    probabilities = net.add("Softmax", logits, axis=1)
    turned = net.add("Reshape", probabilities, shape=(1, 1, 5))
    joined = net.add("Concat", turned, turned, axis=1)
    found = quantize(net.graph(joined), {"x": normal(30, 6)})
    assert found[logits].quant is not None
    assert all(found[n].quant is None for n in (probabilities, turned, joined))
    assert ["requant" in node.attrs for node in found] == [True, False, False, False]


def test_concat_beside_a_layer_is_quantized_whole() -> None:
    net = Net(1, 6)
    a = net.linear("x", 5)
    soft = net.add("Softmax", a, axis=1)
    joined = net.add("Concat", a, soft, axis=1)
    found = quantize(net.graph(net.linear(joined, 2)), {"x": normal(30, 6)})
    assert all(found[n].quant is not None for n in (a, soft, joined))


def test_constants_of_arithmetic_are_codes_unless_per_channel() -> None:
    net = Net(1, 3, 2, 2)
    per_channel = net.add("Mul", "x", normal(3, 1, 1))
    number = net.add("Add", per_channel, np.array(2.0, np.float32))
    whole = net.add("Sub", number, normal(1, 3, 2, 2) + 3)
    found = quantize(net.graph(whole), {"x": normal(9, 3, 2, 2)})
    kinds = [found[node.inputs[1]].data.dtype for node in found]  # type: ignore[union-attr]
    assert kinds == [np.float32, np.float32, np.int8]
    constant = found[found.nodes[2].inputs[1]]
    assert constant.quant is not None
    assert np.abs(constant.real() - normal(1, 3, 2, 2) - 3).max() <= constant.quant.scale * 0.51


def test_functions_of_one_activation_are_quantized() -> None:
    net = Net(1, 4)
    y = "x"
    for op, attrs in (("Sigmoid", {}), ("HardSwish", {}), ("Clip", {"min": -1.0, "max": 0.5})):
        y = net.add(op, y, **attrs)
    y = net.add("Div", y, np.array([0.5], np.float32))
    y = net.add("PRelu", y, np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    found = quantize(net.graph(y), {"x": normal(9, 4)})
    assert all("requant" in node.attrs for node in found)
    simulated = simulate(found, {"x": normal(9, 4)})[y]
    assert np.abs(simulated - ops.evaluate(net.graph(y), {"x": normal(9, 4)})[y]).max() < 0.05


def test_activations_that_become_infinite_stay_float() -> None:
    net = Net(1, 4)
    log = net.add("Log", net.add("Relu", net.linear("x", 4)))
    found = quantize(net.graph(log), {"x": normal(50, 4)})
    assert found[log].quant is None
    assert ["requant" in node.attrs for node in found] == [True, True, False]


def test_shared_constants_get_codes_per_reader() -> None:
    net = Net(1, 4)
    weights, bias = normal(4, 4), normal(4)
    a = net.add("Linear", "x", weights, bias, activation=("Relu",))
    w, b = net.nodes[0].inputs[1:]
    y = net.add("Linear", a, w, b)
    found = quantize(net.graph(y), {"x": normal(9, 4)})
    first, second = found.nodes
    assert first.inputs[2] != second.inputs[2]  # the scales of their inputs differ
    for node in found:
        tensor = found[node.inputs[2]]
        assert tensor.quant is not None
        assert (np.abs(tensor.real() - bias) <= tensor.quant.scale).all()


def test_dead_channels_are_exact() -> None:
    net = Net(1, 4)
    bias = np.array([0, 0.7371, -3e-3, 2.5], np.float32)
    weights = normal(4, 4)
    weights[:, :3] = 0
    y = net.add("Linear", "x", weights, bias)
    found = quantize(net.graph(y), {"x": normal(9, 4)})
    node = found.nodes[0]
    assert "notes" not in node.attrs
    np.testing.assert_allclose(found[node.inputs[2]].real()[:3], bias[:3], rtol=1e-6)
    assert not found[node.inputs[1]].real()[:, :3].any()


def test_a_layer_of_zeros() -> None:
    net = Net(1, 4)
    y = net.add("Linear", "x", np.zeros((4, 2), np.float32), np.zeros(2, np.float32))
    found = quantize(net.graph(y), {"x": np.zeros((3, 4), np.float32)})
    for name in ("x", y):
        quant = found[name].quant
        assert quant is not None
        assert (float(quant.scale), quant.zero_point) == (1.0, 0)
    assert not simulate(found, {"x": np.zeros((3, 4), np.float32)})[y].any()


def test_a_bias_that_exceeds_int32_widens_its_channel_and_says_so() -> None:
    net = Net(1, 4)
    weights, bias = normal(4, 3), np.array([1, -2, 3], np.float32)
    weights[:, 1] *= 1e-12
    found = quantize(net.graph(net.add("Linear", "x", weights, bias)), {"x": normal(9, 4)})
    node = found.nodes[0]
    (note,) = node.attrs["notes"]
    assert "output channel 1" in note
    assert "bias of -2" in note
    codes = found[node.inputs[2]].data
    assert codes is not None
    assert np.abs(codes.astype(np.int64)).max() <= BIAS_LIMIT
    np.testing.assert_allclose(found[node.inputs[2]].real(), bias, rtol=1e-4)
    assert found[node.inputs[1]].real()[:, 1] == pytest.approx(weights[:, 1], abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(
    scale=st.floats(-9, 9).map(lambda e: 10.0**e),
    weight=st.floats(-9, 9).map(lambda e: 10.0**e),
    bias=st.floats(-9, 9).map(lambda e: 10.0**e),
    symmetric=st.booleans(),
)
def test_error_is_bounded_at_any_scale(
    scale: float, weight: float, bias: float, symmetric: bool
) -> None:
    """A linear layer's error is its input's, weights' and output's half steps, added up."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 6)) * scale).astype(np.float32)
    w = (rng.normal(size=(6, 5)) * weight).astype(np.float32)
    b = (rng.normal(size=5) * bias).astype(np.float32)
    net = Net(1, 6)
    y = net.add("Linear", "x", w, b)
    graph = net.graph(y)
    found = quantize(graph, {"x": x}, symmetric=symmetric)
    assert symmetric is False or found["x"].quant.zero_point == 0  # type: ignore[union-attr]
    steps = [float(found[n].quant.scale) / 2 for n in ("x", y)]  # type: ignore[union-attr]
    w_step = found[found.nodes[0].inputs[1]].quant.scale / 2  # type: ignore[union-attr]
    bound = steps[0] * np.abs(w).sum(0) + (np.abs(x).max() + steps[0]) * 6 * w_step + steps[1]
    bound += steps[0] * w_step * 2 + np.abs(b) * 1e-6
    error = np.abs(simulate(found, {"x": x})[y] - ops.evaluate(graph, {"x": x})[y])
    assert (error <= bound * 1.01 + np.abs(x).max() * np.abs(w).sum(0) * 1e-5).all()


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse", "entropy"])
def test_every_calibrator_gives_a_graph_near_the_float_one(calibrator: str) -> None:
    net = Net(1, 3, 8, 8)
    a = net.conv("x", 6, activation=("Relu",), pads=(1, 1, 1, 1))
    b = net.add("Add", a, net.conv(a, 6, pads=(1, 1, 1, 1)))
    y = net.add("Reshape", net.add("GlobalAveragePool", b), shape=(1, 6))
    graph, x = net.graph(y), normal(50, 3, 8, 8)
    seen: list[tuple[int, int]] = []
    found = quantize(
        graph, {"x": x}, calibrator=calibrator, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (50, 50)
    exact, simulated = (f(g, {"x": x})[y] for f, g in ((ops.evaluate, graph), (simulate, found)))
    assert np.abs(simulated - exact).mean() < 0.05 * np.abs(exact).mean()


def test_dynamic_marks_linear_nodes_only() -> None:
    net = Net(1, 3, 8)
    hidden = net.linear("x", 16, normal(16), activation=("Relu",))
    y = net.linear(net.add("Softmax", hidden, axis=2), 4)
    graph = net.graph(y)
    found = quantize(graph, {}, dynamic=True)
    assert [node.attrs.get("dynamic", False) for node in found] == [True, False, True]
    assert all(t.quant is None for t in found.tensors.values() if t.data is None)
    for node in (found.nodes[0], found.nodes[2]):
        assert found[node.inputs[1]].data.dtype == np.int8  # type: ignore[union-attr]
    assert found[found.nodes[0].inputs[2]].data.dtype == np.float32  # type: ignore[union-attr]
    x = normal(5, 3, 8) * np.float32([[1e-3], [1], [1e3]])  # a scale per row matters here
    exact, simulated = ops.evaluate(graph, {"x": x})[y], simulate(found, {"x": x})[y]
    assert simulated.shape == exact.shape
    assert 0 < np.abs(simulated - exact).max() < 0.05


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros((5, 3), np.float32)}, r"shape \(5, 3\)"),
        ({"x": np.zeros((0, 4), np.float32)}, r"shape \(0, 4\)"),
        ({"x": np.zeros((5, 4), np.float32), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.array([[1, np.nan, np.inf, 2]])}, "input 'x': 2 of 4 values are NaN"),
    ],
)
def test_bad_calibration_data_is_named(data: dict[str, np.ndarray], text: str) -> None:
    net = Net(1, 4)
    with pytest.raises(InputError, match=text):
        quantize(net.graph(net.linear("x", 2)), data)


def test_bad_names_and_graphs_are_refused() -> None:
    net = Net(1, 4)
    graph, data = net.graph(net.linear("x", 2)), {"x": normal(3, 4)}
    with pytest.raises(UsageError, match="Did you mean 'minmax'"):
        quantize(graph, data, calibrator="minmx")
    with pytest.raises(UsageError, match="requantization mode"):
        quantize(graph, data, requant="half_up")
    with pytest.raises(UsageError, match="quantized already"):
        quantize(quantize(graph, data), data)
    weights = normal(4, 2)
    weights[1, 1] = np.nan
    bad = Net(1, 4)
    broken = bad.graph(bad.add("Linear", bad.add("Relu", "x"), weights))
    with pytest.raises(ModelError, match="1 of 8 values of 'Linear_1_c1'"):
        quantize(broken, {}, dynamic=True)


def mnist(network: Callable[[str], Any], calibrator: str, count: int) -> tuple[float, float]:
    """Top-1 of the float model and of the quantized one, on the first `count` images."""
    from weft.frontend.onnx import load_onnx
    from weft.passes.fuse import fuse

    net = network("mnist")
    graph = fuse(load_onnx(net.path))
    (name,) = graph.inputs
    x, labels = {name: net.x[:count]}, net.labels[:count]
    found = quantize(graph, {name: net.some(100)}, calibrator=calibrator)
    assert all("requant" in node.attrs for node in found)
    (exact,), (rounded,) = ops.evaluate(graph, x).values(), simulate(found, x).values()
    return float(np.mean(exact.argmax(1) == labels)), float(np.mean(rounded.argmax(1) == labels))


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse", "entropy"])
def test_mnist_loses_two_images_of_a_thousand_at_most(
    network: Callable[[str], Any], calibrator: str
) -> None:
    exact, rounded = mnist(network, calibrator, 1000)
    assert exact >= 0.987
    assert rounded >= exact - 0.002


@pytest.mark.slow
def test_mnist_keeps_its_accuracy_on_all_images(network: Callable[[str], Any]) -> None:
    exact, rounded = mnist(network, "minmax", 10_000)
    assert rounded >= max(0.987, exact - 0.001)
