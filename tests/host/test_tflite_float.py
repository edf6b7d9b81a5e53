"""Float TFLite models: every operator gives what LiteRT gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

from tflite_models import Model, litert
from weft import ops
from weft.compiler import load_model
from weft.frontend.tflite import load_tflite
from weft.passes.fuse import fuse

RNG = np.random.default_rng(0)
Build = Callable[[Model], int]
WINDOW = {"strideW": 1, "strideH": 2, "dilationWFactor": 1, "dilationHFactor": 1}


def f32(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def conv(m: Model) -> int:
    x, y = m.input((1, 9, 8, 3)), m.tensor((1, 5, 8, 4))
    w, b = m.constant(f32(4, 3, 3, 3)), m.constant(f32(4))
    m.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=0, fusedActivationFunction=3, **WINDOW)
    return y


def depthwise(m: Model) -> int:
    x, y = m.input((1, 9, 8, 3)), m.tensor((1, 4, 6, 6))
    w, b = m.constant(f32(1, 3, 3, 6)), m.constant(f32(6))
    options = {"padding": 1, "depthMultiplier": 2, "fusedActivationFunction": 1, **WINDOW}
    m.op("DEPTHWISE_CONV_2D", [x, w, b], [y], "DepthwiseConv2DOptions", **options)
    return y


def transpose_conv(m: Model) -> int:
    x, y = m.input((1, 4, 5, 3)), m.tensor((1, 8, 10, 2))
    w, shape = m.constant(f32(2, 3, 3, 3)), m.constant(i32(1, 8, 10, 2))
    options = {"padding": 0, "strideW": 2, "strideH": 2}
    m.op("TRANSPOSE_CONV", [shape, w, x], [y], "TransposeConvOptions", **options)
    return y


def residual_block(m: Model) -> int:
    """Convolution, addition, concatenation, padding, mean and a matrix product in one."""
    x = m.input((1, 8, 8, 4))
    w, b = m.constant(f32(4, 3, 3, 4)), m.constant(f32(4))
    options = {"padding": 0, "strideW": 1, "strideH": 1, **dict.fromkeys(list(WINDOW)[2:], 1)}
    y, z, c, p = (m.tensor(s) for s in [(1, 8, 8, 4)] * 2 + [(1, 8, 8, 8), (1, 10, 9, 8)])
    m.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", **options)
    m.op("ADD", [y, x], [z], "AddOptions", fusedActivationFunction=1)
    m.op("CONCATENATION", [z, y], [c], "ConcatenationOptions", axis=3)
    m.op("PAD", [c, m.constant(i32(0, 0, 1, 1, 0, 1, 0, 0).reshape(4, 2))], [p], "PadOptions")
    k, o = m.tensor((1, 8)), m.tensor((1, 3))
    m.op("MEAN", [p, m.constant(i32(1, 2))], [k], "ReducerOptions", keepDims=False)
    m.op("FULLY_CONNECTED", [k, m.constant(f32(3, 8)), -1], [o], "FullyConnectedOptions")
    return o


def unary(name: str, options: str = "", **fields: float) -> Build:
    def build(m: Model) -> int:
        x, y = m.input((1, 5, 6, 3)), m.tensor((1, 5, 6, 3))
        m.op(name, [x], [y], options, **fields)
        return y

    return build


def binary(name: str, options: str = "", shape: tuple[int, ...] = (1, 5, 6, 3)) -> Build:
    def build(m: Model) -> int:
        x, z, y = m.input((1, 5, 6, 3)), m.input(shape), m.tensor((1, 5, 6, 3))
        m.op(name, [x, z], [y], options)
        return y

    return build


def constant(name: str, value: np.ndarray, shape: tuple[int, ...], options: str = "") -> Build:
    """An operator with a constant behind its input [1, 6, 4, 8]; `shape` of the output."""

    def build(m: Model) -> int:
        x, y = m.input((1, 6, 4, 8)), m.tensor(shape)
        m.op(name, [x, m.constant(value)], [y], options)
        return y

    return build


def pool(name: str) -> Build:
    def build(m: Model) -> int:
        x, y = m.input((1, 7, 6, 3)), m.tensor((1, 4, 3, 3))
        sizes = {"padding": 0, "strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 2}
        m.op(name, [x], [y], "Pool2DOptions", **sizes)
        return y

    return build


def resize(name: str, size: tuple[int, int], **how: bool) -> Build:
    def build(m: Model) -> int:
        x, y = m.input((1, 4, 5, 3)), m.tensor((1, *size, 3))
        options = "ResizeBilinearOptions" if "BIL" in name else "ResizeNearestNeighborOptions"
        m.op(name, [x, m.constant(i32(*size))], [y], options, **how)
        return y

    return build


def strided(m: Model) -> int:
    x, y = m.input((1, 6, 4, 8)), m.tensor((1, 2, 8))
    bounds = [m.constant(i32(*v)) for v in ((0, 1, 2, 0), (1, 6, 9, 0), (1, 3, 1, 1))]
    masks = {"shrinkAxisMask": 4, "endMask": 8}
    m.op("STRIDED_SLICE", [x, *bounds], [y], "StridedSliceOptions", **masks)
    return y


def split(m: Model) -> int:
    x, parts = m.input((1, 6, 4, 8)), [m.tensor((1, 6, 4, 4)) for _ in range(2)]
    m.op("SPLIT", [m.constant(i32(3)), x], parts, "SplitOptions", numSplits=2)
    y = m.tensor((1, 6, 4, 4))
    m.op("SUB", parts[::-1], [y], "SubOptions")
    return y


def shapes_computed(m: Model) -> int:
    """A Reshape whose shape is computed from SHAPE, as Keras's Flatten writes it."""
    x, y = m.input((1, 6, 4)), m.tensor((1, 24))
    shape, first, whole = m.tensor((3,), "int32"), m.tensor((), "int32"), m.tensor((2,), "int32")
    m.op("SHAPE", [x], [shape], "ShapeOptions", outType=2)
    bounds = [m.constant(i32(v)) for v in (0, 1, 1)]
    m.op("STRIDED_SLICE", [shape, *bounds], [first], "StridedSliceOptions", shrinkAxisMask=1)
    rest = m.constant(np.array(24, np.int32))
    m.op("PACK", [first, rest], [whole], "PackOptions", valuesCount=2, axis=0)
    m.op("RESHAPE", [x, whole], [y], "ReshapeOptions")
    return y


def lstm(m: Model, *, major: bool = False, coupled: bool = False, projected: bool = False) -> int:
    steps, inputs, cells = 5, 4, 6
    outputs = 3 if projected else cells
    x, y = m.input((1, steps, inputs)), m.tensor((1, steps, outputs))
    if major:
        given, x = x, m.tensor((steps, 1, inputs))
        m.op("TRANSPOSE", [given, m.constant(i32(1, 0, 2))], [x])
        y = m.tensor((steps, 1, outputs))
    w = [-1 if coupled and g == 0 else m.constant(f32(cells, inputs)) for g in range(4)]
    r = [-1 if coupled and g == 0 else m.constant(f32(cells, outputs)) for g in range(4)]
    b = [-1 if coupled and g == 0 else m.constant(f32(cells)) for g in range(4)]
    p = [m.constant(f32(outputs, cells)) if projected else -1, -1]
    state = [m.tensor((1, n), variable=True) for n in (outputs, cells)]
    every = [x, *w, *r, -1, -1, -1, *b, *p, *state, -1, -1, -1, -1]
    options = {"fusedActivationFunction": 4, "cellClip": 0.7, "timeMajor": major}
    kind = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    m.op(kind, every, [y], "UnidirectionalSequenceLSTMOptions", **options)
    if major:
        made, y = y, m.tensor((1, steps, outputs))
        m.op("TRANSPOSE", [made, m.constant(i32(1, 0, 2))], [y])
    return y


WIDE = i32(0, 0, 1, 2, 2, 1, 0, 0).reshape(4, 2)
CASES: dict[str, Build] = {
    "conv": conv,
    "depthwise": depthwise,
    "transpose_conv": transpose_conv,
    "residual_block": residual_block,
    **{n.lower(): unary(n) for n in ("LOGISTIC", "TANH", "RELU", "RELU6", "HARD_SWISH", "ABS")},
    **{n.lower(): unary(n) for n in ("EXP", "FLOOR", "NEG", "SQUARE", "SIN", "COS")},
    "relu_n1_to_1": unary("RELU_N1_TO_1"),
    "leaky_relu": unary("LEAKY_RELU", "LeakyReluOptions", alpha=0.2),
    "softmax": unary("SOFTMAX", "SoftmaxOptions", beta=0.7),
    "add": binary("ADD", "AddOptions"),
    "sub": binary("SUB", "SubOptions"),
    "mul": binary("MUL", "MulOptions", (1, 1, 1, 3)),
    "div": binary("DIV", "DivOptions"),
    "maximum": binary("MAXIMUM", "MaximumMinimumOptions"),
    "minimum": binary("MINIMUM", "MaximumMinimumOptions"),
    "add_constant": constant("ADD", f32(8), (1, 6, 4, 8), "AddOptions"),
    "prelu": constant("PRELU", f32(1, 1, 8), (1, 6, 4, 8)),
    "max_pool": pool("MAX_POOL_2D"),
    "average_pool": pool("AVERAGE_POOL_2D"),
    "reshape": constant("RESHAPE", i32(1, -1, 16), (1, 12, 16), "ReshapeOptions"),
    "squeeze_mean": constant("MEAN", i32(3), (1, 6, 4), "ReducerOptions"),
    "sum": constant("SUM", i32(1), (1, 4, 8), "ReducerOptions"),
    "reduce_max": constant("REDUCE_MAX", i32(2), (1, 6, 8), "ReducerOptions"),
    "expand_dims": constant("EXPAND_DIMS", i32(1), (1, 1, 6, 4, 8), "ExpandDimsOptions"),
    "transpose": constant("TRANSPOSE", i32(0, 3, 1, 2), (1, 8, 6, 4), "TransposeOptions"),
    "pad": constant("PAD", WIDE, (1, 9, 7, 8), "PadOptions"),
    "mirror_pad": constant("MIRROR_PAD", WIDE, (1, 9, 7, 8), "MirrorPadOptions"),
    "strided_slice": strided,
    "split": split,
    "shapes_computed": shapes_computed,
    "nearest": resize("RESIZE_NEAREST_NEIGHBOR", (8, 10)),
    "nearest_odd": resize("RESIZE_NEAREST_NEIGHBOR", (7, 9), halfPixelCenters=True),
    "bilinear": resize("RESIZE_BILINEAR", (8, 10)),
    "bilinear_half": resize("RESIZE_BILINEAR", (7, 9), halfPixelCenters=True),
    "bilinear_corners": resize("RESIZE_BILINEAR", (7, 9), alignCorners=True),
    "lstm": lstm,
    "lstm_time_major": lambda m: lstm(m, major=True),
    "lstm_coupled": lambda m: lstm(m, coupled=True),
    "lstm_projected": lambda m: lstm(m, projected=True),
}


def written(build: Build, tmp_path: Path) -> tuple[Path, Model]:
    m = Model()
    y = build(m)
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(y))
    return path, m


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_operator_gives_what_litert_gives(name: str, tmp_path: Path) -> None:
    path, m = written(CASES[name], tmp_path)
    graph = load_model(path)
    x = [f32(3, *m.tensors[i].shape[1:]) for i in m.inputs]
    found = ops.evaluate(graph, dict(zip(graph.inputs, x, strict=True)))[graph.outputs[0]]
    expected = litert(path.read_bytes(), *x)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.oracle
def test_moves_between_axes(tmp_path: Path) -> None:
    def build(m: Model) -> int:
        x, y, z = m.input((1, 2, 3, 8)), m.tensor((1, 4, 6, 2)), m.tensor((1, 4, 3, 2))
        m.op("DEPTH_TO_SPACE", [x], [y], "DepthToSpaceOptions", blockSize=2)
        m.op("GATHER", [y, m.constant(i32(5, 0, 2))], [z], "GatherOptions", axis=2)
        return z

    path, _ = written(build, tmp_path)
    graph, x = load_model(path), f32(4, 2, 3, 8)
    found = ops.evaluate(graph, {graph.inputs[0]: x})[graph.outputs[0]]
    np.testing.assert_array_equal(found, litert(path.read_bytes(), x)[0])


def test_layout_transposes_disappear_from_a_network(tmp_path: Path) -> None:
    path, _ = written(residual_block, tmp_path)
    graph = load_model(path)
    kinds = [node.op for node in graph]
    assert kinds.count("Transpose") == 1, "only the input's is left"
    assert kinds[0] == "Transpose"


def test_names_are_the_files(tmp_path: Path) -> None:
    m = Model()
    x, y = m.input((1, 4), name="image"), m.tensor((1, 4), name="score")
    m.op("RELU", [x], [y])
    graph = fuse(load_tflite(m.bytes(y)))
    assert graph.inputs == ("image",)
    assert graph.outputs == ("score",)


def test_weights_of_a_hybrid_model_become_real(shared_data: Path) -> None:
    """Keyword spotting with int8 weights and float activations."""
    graph = load_model(shared_data / "kws_dscnn" / "kws_ref_model_float32.tflite")
    assert all(t.quant is None for t in graph.tensors.values())


def test_half_precision_weights_are_widened() -> None:
    m = Model()
    x, y, w = m.input((1, 4)), m.tensor((1, 2)), m.tensor((2, 4))
    half = m.constant(f32(2, 4).astype(np.float16))
    m.op("DEQUANTIZE", [half], [w])
    m.op("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    graph = fuse(load_tflite(m.bytes(y)))
    assert graph[graph.nodes[0].inputs[1]].dtype == "float32"
