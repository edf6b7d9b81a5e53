"""weft's integers against onnxruntime's, element for element, on real layers and real inputs.

onnxruntime's quantizer makes the models, QOperator and QDQ. Each quantized convolution and matrix
product is cut out with what it reads, and both compute it from the codes that onnxruntime has
there. The rounding is that of onnxruntime (float_even).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
import weft

SAMPLES = 24
LINEAR = ("QLinearConv", "QLinearMatMul", "QGemm")
VARIANTS = [
    pytest.param(name, signed, id=f"{name}-{'int8' if signed else 'uint8'}")
    for name in models.BUILDERS
    if name != "jet_mlp"  # onnxruntime has no QGemm for the oracle's uint8 weights
    for signed in (False, True)
]


@dataclass(frozen=True)
class Layer:
    """One layer as a model of its own: float in, quantize, the layer, dequantize, float out."""

    name: str
    model: Any
    x: np.ndarray
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray

    def to_codes(self, y: np.ndarray) -> np.ndarray:
        """Codes of real outputs, which lie on the grid."""
        return np.rint(y.astype(np.float64) / self.scale) + np.int64(self.zero_point)


def constants(model: Any) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def with_outputs(model: Any, names: list[str]) -> Any:
    """The model with some of its inner tensors as its outputs."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    seen.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return seen


def parameters(node: Any) -> tuple[list[str], list[str]]:
    """Names of (scale, zero point) of a quantized layer's input and of its output."""
    at = {"QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7}[node.op_type]
    return list(node.input[1:3]), list(node.input[at : at + 2])


def cut(model: Any, node: Any, codes: np.ndarray, result: np.ndarray) -> Layer:
    """`node` as a model, with the real input that `codes` stand for."""
    values = constants(model)
    inside, outside = parameters(node)
    layer = onnx.NodeProto()
    layer.CopyFrom(node)
    layer.input[0], layer.output[0] = "x_codes", "y_codes"
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *inside], ["x_codes"]),
        layer,
        helper.make_node("DequantizeLinear", ["y_codes", *outside], ["y"]),
    ]
    needed = dict.fromkeys(n for part in nodes for n in part.input if n in values)
    graph = helper.make_graph(
        nodes,
        node.name or node.output[0],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *codes.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *result.shape[1:]])],
        [numpy_helper.from_array(values[name], name) for name in needed],
    )
    opsets = [helper.make_opsetid("", models.OPSET), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = 8
    scale, zero = (values[name] for name in inside)
    x = (codes.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale
    return Layer(graph.name, made, x, result, *(values[name] for name in outside))


def quantized_layers(path: Path, x: np.ndarray) -> list[Layer]:
    """Every convolution and matrix product of a QOperator model, with onnxruntime's codes."""
    model = onnx.load(str(path))
    nodes = [n for n in model.graph.node if n.op_type in LINEAR]
    names = list(dict.fromkeys([*(n.input[0] for n in nodes), *(n.output[0] for n in nodes)]))
    codes = dict(zip(names, models.run_ort(with_outputs(model, names), x, names), strict=True))
    return [cut(model, n, codes[n.input[0]], codes[n.output[0]]) for n in nodes]


def assert_same(
    layer: Layer, folder: Path, device: str, overlay: str = "lab", **options: Any
) -> None:
    path = folder / f"{layer.name.replace('/', '_')}.onnx"
    onnx.save(layer.model, str(path))
    with weft.open(weft.compile(path, overlay), device, **options) as session:
        y = session.run(layer.x)
    np.testing.assert_array_equal(layer.to_codes(y), layer.codes, err_msg=layer.name)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "signed"), VARIANTS)
def test_quantized_layers_equal_onnxruntime(
    name: str,
    signed: bool,
    network: Callable[[str], models.Network],
    quantized: Callable[[str, bool, bool], Path],
    tmp_path: Path,
) -> None:
    layers = quantized_layers(quantized(name, False, signed), network(name).some(SAMPLES))
    assert len(layers) == {"mnist": 3, "resnet8": 10, "har": 4}[name]
    for layer in layers:
        assert len(np.unique(layer.codes)) > 8, f"{layer.name}: a trivial output proves nothing"
        assert_same(layer, tmp_path, "golden")
        assert_same(layer, tmp_path, "csim")


@pytest.mark.oracle
@pytest.mark.parametrize("overlay", ["tiny", "edge"])
def test_cycle_form_equals_onnxruntime(
    overlay: str,
    network: Callable[[str], models.Network],
    quantized: Callable[[str, bool, bool], Path],
    tmp_path: Path,
) -> None:
    for layer in quantized_layers(quantized("mnist", False, False), network("mnist").some(SAMPLES)):
        assert_same(layer, tmp_path, "csim", overlay, form="cycle")


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["mnist", "har"])  # resnet8's pooling has another scale in QDQ
def test_qdq_and_qoperator_forms_give_the_same_result(
    name: str,
    network: Callable[[str], models.Network],
    quantized: Callable[[str, bool, bool], Path],
) -> None:
    """Both forms hold the same scales and weights; only softmax's grid differs (1/256, 1/255)."""
    x = network(name).some(SAMPLES)
    results = []
    for qdq in (False, True):
        program = weft.compile(quantized(name, qdq, False), "lab")
        with weft.open(program, "golden") as session:
            results.append(session.run(x))
    step = 0 if name == "mnist" else 1 / 255
    np.testing.assert_allclose(*results, rtol=0, atol=step)


@pytest.mark.oracle
@pytest.mark.parametrize("qdq", [False, True], ids=["qoperator", "qdq"])
@pytest.mark.parametrize(("name", "signed"), VARIANTS)
def test_whole_quantized_model_classifies_as_onnxruntime(
    name: str,
    signed: bool,
    qdq: bool,
    network: Callable[[str], models.Network],
    quantized: Callable[[str, bool, bool], Path],
) -> None:
    """Pooling, adding and softmax round differently in onnxruntime, so here classes count."""
    x = network(name).some(200)
    path = quantized(name, qdq, signed)
    expected = models.run_ort(onnx.load(str(path)), x)[0]
    with weft.open(weft.compile(path, "lab"), "csim") as session:
        y = session.run(x)
    assert y.shape == expected.shape
    same = np.mean(y.argmax(1) == expected.argmax(1))
    assert same >= 0.98, f"{name}: the same class for {100 * same:.1f} % of the images only"
