"""Models quantized by ONNX Runtime: imported, they give its codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import Net, cnn, images, run_onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from weft.errors import ModelError, UnsupportedError
from weft.frontend.onnx import load_onnx
from weft.graph import Graph
from weft.ops import evaluate
from weft.passes.fuse import fuse

S8, U8 = QuantType.QInt8, QuantType.QUInt8
Codes = type[Any]


class Images(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(
            [{"x": images((8, *shape), seed)} for seed in range(3)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def quantize(model: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, target)
    quant_pre_process(target, source, skip_symbolic_shape=True)  # folds BatchNormalization
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])
    quantize_static(source, target, Images(shape), **options)
    return onnx.load(target)


def mlp() -> onnx.ModelProto:
    net = Net("n", 10)
    y = net.op("Relu", net.op("Add", net.op("MatMul", "x", net.weights(10, 16)), net.weights(16)))
    y = net.op("Sigmoid", net.op("Gemm", y, net.weights(16, 8), net.weights(8)))
    y = net.op("LeakyRelu", net.op("Gemm", y, net.weights(6, 8), transB=1), alpha=0.1)
    return net.model(net.op("MatMul", y, net.weights(6, 4)))


@pytest.mark.oracle
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [S8, U8], ids=["int8", "uint8"])
@pytest.mark.parametrize("form", list(QuantFormat), ids=lambda f: f.name)
@pytest.mark.parametrize("network", [cnn, mlp])
def test_networks_give_the_codes_of_onnxruntime(
    network: Any, form: QuantFormat, kind: QuantType, per_channel: bool, tmp_path: Path
) -> None:
    weight = S8 if per_channel else kind
    model = quantize(
        network(),
        tmp_path,
        quant_format=form,
        activation_type=kind,
        weight_type=weight,
        per_channel=per_channel,
    )
    graph = fuse(load_onnx(model))
    x = images((64, *graph["x"].shape[1:]), 7)
    (expected,) = run_onnx(model, {"x": x})
    quant = graph[graph.outputs[0]].quant
    assert quant is not None
    (result,) = evaluate(graph, {"x": x}, fake_quant=True).values()
    off = np.abs(result - expected) / quant.scale
    assert off.max() < 1.01  # sums in float32 may round a tie the other way
    assert np.mean(off > 0.01) < 0.1
    (real,) = evaluate(graph, {"x": x}).values()
    assert np.abs(real - expected).max() < 4 * quant.scale
    assert_canonical(graph)


def assert_canonical(graph: Graph) -> None:
    """Every node is quantized, its weights and bias as ARCHITECTURE.md has them."""
    for node in graph:
        assert node.attrs.get("requant") == "float_even", node
        out = graph[node.outputs[0]]
        assert out.quant is not None
        assert out.quant.scale.shape == ()
        assert out.dtype == "float32"
        if node.op not in ("Conv", "Linear"):
            continue
        x, w = graph[node.inputs[0]], graph[node.inputs[1]]
        assert w.quant is not None
        assert x.quant is not None
        assert w.data is not None
        assert w.data.dtype in (np.int8, np.int16)
        assert w.quant.zero_point == 0
        axis = 0 if node.op == "Conv" else 1
        assert w.quant.axis in (None, axis)
        if node.inputs[2]:
            bias = graph[node.inputs[2]]
            assert bias.data is not None
            assert bias.quant is not None
            assert bias.data.dtype == np.int32
            np.testing.assert_allclose(bias.quant.scale, x.quant.scale * w.quant.scale, rtol=1e-6)


def test_asymmetric_weights_become_int16(tmp_path: Path) -> None:
    net = Net("n", 6)
    w = net.const(net.random.uniform(0.5, 3, (6, 4)))
    model = quantize(
        net.model(net.op("Gemm", "x", w)),
        tmp_path,
        activation_type=U8,
        weight_type=U8,
        extra_options={"WeightSymmetric": False},
    )
    graph = load_onnx(model)
    weights = graph[graph.nodes[0].inputs[1]]
    assert weights.data is not None
    assert weights.data.dtype == np.int16
    assert weights.data.max() > 127
    x = images((9, 6))
    (result,) = evaluate(graph, {"x": x}, fake_quant=True).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], atol=0.06)


class Quantized(Net):
    """A network on codes; `q` holds scale and zero point names by tensor."""

    def __init__(self, *shape: int | str, kind: Codes, seed: int = 0) -> None:
        super().__init__(*shape, seed=seed)
        self.kind, self.low = kind, np.iinfo(kind).min

    def q(self, scale: float, zero: int) -> tuple[str, str]:
        return self.const(scale), self.const(self.low + zero, self.kind)

    def codes(self, *shape: int) -> str:
        info = np.iinfo(self.kind)
        return self.const(self.random.integers(info.min, info.max + 1, shape), self.kind)

    def symmetric(self, *shape: int) -> str:
        return self.const(self.random.integers(-127, 128, shape), np.int8)


def conv(net: Quantized, x: str, a: Any, y: Any) -> str:
    w, ws = net.symmetric(6, 2, 3, 3), net.const(net.random.uniform(0.001, 0.02, 6))
    bias = net.const(net.random.integers(-3000, 3000, 6), np.int32)
    zeros = net.const([0] * 6, np.int8)
    inputs = (x, *a, w, ws, zeros, *y, bias)
    return str(net.op("QLinearConv", *inputs, group=2, pads=[1, 1, 1, 1], strides=[2, 1]))


def matmul(net: Quantized, x: str, a: Any, y: Any) -> str:
    w = (net.symmetric(5, 7), net.const(0.02), net.const(0, np.int8))
    return str(net.op("QLinearMatMul", x, *a, *w, *y))


def ort(op: str, **attrs: Any) -> Any:
    def build(net: Quantized, x: str, a: Any, y: Any) -> str:
        return str(net.op(op, x, *a, *y, domain="com.microsoft", **attrs))

    return build


def ort_binary(op: str) -> Any:
    def build(net: Quantized, x: str, a: Any, y: Any) -> str:
        other = (net.codes(4, 1, 5), *net.q(0.013, 90))
        return str(net.op(op, x, *a, *other, *y, domain="com.microsoft"))

    return build


def concat(net: Quantized, x: str, a: Any, y: Any) -> str:
    other = net.op("QLinearSigmoid", x, *a, *net.q(1 / 256, 0), domain="com.microsoft")
    parts = (x, *a, other, *net.q(1 / 256, 0))
    return str(net.op("QLinearConcat", *y, *parts, domain="com.microsoft", axis=1))


def gemm(net: Quantized, x: str, a: Any, y: Any) -> str:
    flat = net.op("Reshape", x, net.const([0, -1], np.int64))
    w = (net.symmetric(9, 80), net.const(0.002), net.const(0, np.int8))
    bias = net.const(net.random.integers(-3000, 3000, 9), np.int32)
    return str(net.op("QGemm", flat, *a, *w, bias, *y, domain="com.microsoft", transB=1))


def max_pool(net: Quantized, x: str, a: Any, y: Any) -> str:
    return str(net.op("MaxPool", x, kernel_shape=[2, 2], pads=[0, 1, 1, 0]))


def moves(net: Quantized, x: str, a: Any, y: Any) -> str:
    x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    x = net.op("Reshape", x, net.const([0, -1], np.int64))
    return str(net.op("Concat", x, x, axis=1))


OPERATORS: dict[str, Any] = {
    "QLinearConv": conv,
    "QLinearMatMul": matmul,
    "QGemm": gemm,
    "QLinearConcat": concat,
    "MaxPool": max_pool,
    "moves": moves,
    **{op: ort_binary(op) for op in ("QLinearAdd", "QLinearMul")},
    "QLinearGlobalAveragePool": ort("QLinearGlobalAveragePool"),
    "QLinearAveragePool": ort(
        "QLinearAveragePool", kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1
    ),
    "QLinearSigmoid": ort("QLinearSigmoid"),
    "QLinearLeakyRelu": ort("QLinearLeakyRelu", alpha=0.2),
}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_codes_agree_with_onnxruntime(name: str, kind: Codes) -> None:
    net = Quantized("n", 4, 4, 5, kind=kind)
    a, y = net.q(0.02, 110), net.q(0.03, 128)
    x = net.op("QuantizeLinear", "x", *a)
    out = OPERATORS[name](net, x, a, y)
    scale = a if name in ("MaxPool", "moves") else y
    model = net.model(net.op("DequantizeLinear", out, *scale))
    feeds = {"x": images((6, 4, 4, 5))}
    graph = fuse(load_onnx(model))
    (expected,) = run_onnx(model, feeds)
    (result,) = evaluate(graph, feeds, fake_quant=True).values()
    off = np.abs(result - expected) / graph[graph.outputs[0]].quant.scale  # type: ignore[union-attr]
    assert off.max() < 1.01
    assert np.mean(off > 0.01) < 0.05
    assert_canonical(graph)
    assert not {"QuantizeLinear", "DequantizeLinear", "Identity"} & {n.op for n in graph}


def test_integer_inputs_and_outputs_keep_their_type() -> None:
    net = Net("n", 3, 4, 4, dtype=TensorProto.UINT8)
    s, z = net.const(0.1), net.const(128, np.uint8)
    y = net.op("Relu", net.op("DequantizeLinear", "x", s, z))
    model = net.model(net.op("QuantizeLinear", y, s, z))
    graph = fuse(load_onnx(model))
    assert graph["x"].dtype == "uint8"
    assert graph[graph.outputs[0]].dtype == "uint8"
    x = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)
    (result,) = evaluate(graph, {"x": x}).values()
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, run_onnx(model, {"x": x})[0])


def test_a_tensor_that_is_read_both_ways_stays_float() -> None:
    net = Net("n", 3)
    s, z = net.const(0.1), net.const(0, np.int8)
    y = net.op("Relu", "x")
    coded = net.op("DequantizeLinear", net.op("QuantizeLinear", y, s, z), s, z)
    model = net.model(net.op("Sub", y, coded), coded)
    graph = fuse(load_onnx(model))
    x = images((4, 3))
    results = evaluate(graph, {"x": x}, fake_quant=True)
    for name, expected in zip(graph.outputs, run_onnx(model, {"x": x}), strict=True):
        np.testing.assert_allclose(results[name], expected, atol=1e-6)
    assert graph[y].quant is None


def test_two_scales_in_a_row_round_twice() -> None:
    net = Net("n", 8)
    y = "x"
    for scale, zero in ((0.1, 5), (0.07, -3)):
        parameters = net.const(scale), net.const(zero, np.int8)
        y = net.op("DequantizeLinear", net.op("QuantizeLinear", y, *parameters), *parameters)
    model = net.model(y)
    graph = fuse(load_onnx(model))
    x = images((50, 8))
    (result,) = evaluate(graph, {"x": x}, fake_quant=True).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], atol=1e-6)


def test_activations_of_16_bits_run_on_the_host() -> None:
    net = Net("n", 8, opset=21)
    parameters = net.const(0.001), net.const(5, np.int16)
    coded = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", *parameters), *parameters)
    model = net.model(net.op("Relu", coded))
    graph = fuse(load_onnx(model))
    x = images((50, 8))
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], atol=1e-6)
    assert all(t.quant is None for t in graph.tensors.values())


def test_transposed_weights_keep_their_integers() -> None:
    net = Net("n", 5)
    w, ws = net.const(net.random.integers(-127, 128, (4, 5)), np.int8), net.weights(4)
    ws = net.const(np.linspace(0.01, 0.04, 4))
    real = net.op("DequantizeLinear", w, ws, net.const([0] * 4, np.int8), axis=0)
    model = net.model(net.op("MatMul", "x", net.op("Transpose", real, perm=[1, 0])))
    graph = load_onnx(model)
    weights = graph[graph.nodes[0].inputs[1]]
    assert weights.data is not None
    assert weights.quant is not None
    assert (weights.data.dtype, weights.quant.axis) == (np.int8, 1)
    x = images((4, 5))
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_make_no_sense(scale: float) -> None:
    net = Net("n", 5)
    y = net.op("QuantizeLinear", "x", net.const(scale), net.const(0, np.int8))
    with pytest.raises(ModelError, match="scale"):
        load_onnx(net.model(net.op("DequantizeLinear", y, net.const(0.1), net.const(0, np.int8))))


def test_dynamic_quantization_runs_on_the_host() -> None:
    net = Net("n", 5)
    q, s, z = net.op("DynamicQuantizeLinear", "x", outputs=3)
    w = net.const(net.random.integers(-127, 128, (5, 4)), np.int8)
    y = net.op("Cast", net.op("MatMulInteger", q, w, z), to=1)
    model = net.model(net.op("Mul", y, s))
    x = images((1, 5))
    (result,) = evaluate(fuse(load_onnx(model)), {"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5)


def test_scales_computed_at_run_time_are_refused_in_fused_operators() -> None:
    net = Net("n", 5, dtype=TensorProto.INT8)
    s = net.op("ReduceMax", net.op("Cast", "x", to=1), keepdims=0)
    z = net.const(0, np.int8)
    y = net.op("QLinearSigmoid", "x", s, z, s, z, domain="com.microsoft")
    with pytest.raises(UnsupportedError, match="run time"):
        load_onnx(net.model(y))
