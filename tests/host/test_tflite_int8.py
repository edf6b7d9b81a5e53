"""Int8 TFLite models on the accelerator: every code is LiteRT's, in both sets of kernels."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")


import weft
from tflite_models import Model, litert
from weft import fixed_point, tflite_kernels
from weft.demo import MODELS, load_data
from weft.errors import UsageError
from weft.graph import Node, Quant
from weft.lower import exact
from weft.program import HostSegment

MODES = {"xnnpack": None, "reference": "double_round"}
HOSTED = {"DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Softmax8", "Resize8"}
PAIRS = [np.ascontiguousarray(a.reshape(1, -1)) for a in np.mgrid[-128:128, -128:128]]
Build = Callable[[Model, np.random.Generator], int]
ONE = {"strideW": 1, "strideH": 1}
UNDILATED = {"dilationWFactor": 1, "dilationHFactor": 1}


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def biases(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(-5000, 5000, n).astype(np.int32)


def conv(m: Model, rng: np.random.Generator) -> int:
    x, y = m.input((1, 9, 9, 16), "int8", scale=0.05, zero=-5), 0
    w = m.constant(weights(rng, 24, 3, 3, 16), scale=rng.uniform(1e-3, 1e-2, 24), axis=0)
    b = m.constant(biases(rng, 24), scale=np.ones(24))
    y = m.tensor((1, 5, 5, 24), "int8", scale=0.7, zero=3)
    stride = {"strideW": 2, "strideH": 2, "padding": 0, "fusedActivationFunction": 1}
    m.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", **stride, **UNDILATED)
    return y


def depthwise(m: Model, rng: np.random.Generator) -> int:
    x = m.input((1, 9, 9, 16), "int8", scale=0.05, zero=-5)
    w = m.constant(weights(rng, 1, 3, 3, 16), scale=rng.uniform(1e-3, 1e-2, 16), axis=3)
    y = m.tensor((1, 9, 9, 16), "int8", scale=0.2, zero=3)
    b = m.constant(biases(rng, 16), scale=np.ones(16))
    options = {"padding": 0, "depthMultiplier": 1, "fusedActivationFunction": 3}
    kind = "DepthwiseConv2DOptions"
    m.op("DEPTHWISE_CONV_2D", [x, w, b], [y], kind, **options, **ONE, **UNDILATED)
    return y


def fully_connected(m: Model, rng: np.random.Generator) -> int:
    x = m.input((1, 60), "int8", scale=0.05, zero=-5)
    w, b = m.constant(weights(rng, 64, 60), scale=0.0037), 0
    b = m.constant(biases(rng, 64), scale=0.05 * 0.0037)
    y = m.tensor((1, 64), "int8", scale=0.17, zero=3)
    m.op("FULLY_CONNECTED", [x, w, b], [y], "FullyConnectedOptions")
    return y


def pool(name: str, kernel: tuple[int, int], padding: int) -> Build:
    def build(m: Model, rng: np.random.Generator) -> int:
        x = m.input((1, 10, 10, 16), "int8", scale=0.1, zero=-3)
        size = [-(-10 // 2)] * 2 if padding == 0 else [(10 - k) // 2 + 1 for k in kernel]
        y = m.tensor((1, *size, 16), "int8", scale=0.1, zero=-3)
        sizes = {"filterHeight": kernel[0], "filterWidth": kernel[1], "padding": padding}
        m.op(name, [x], [y], "Pool2DOptions", strideW=2, strideH=2, **sizes)
        return y

    return build


def mean(scale: float, zero: int, keep: bool, size: tuple[int, int] = (7, 5)) -> Build:
    def build(m: Model, rng: np.random.Generator) -> int:
        x = m.input((1, *size, 16), "int8", scale=0.1, zero=-3)
        y = m.tensor((1, 1, 1, 16) if keep else (1, 16), "int8", scale=scale, zero=zero)
        axes = m.constant(np.array([1, 2], np.int32))
        m.op("MEAN", [x, axes], [y], "ReducerOptions", keepDims=keep)
        return y

    return build


def softmax(m: Model, rng: np.random.Generator) -> int:
    x = m.input((1, 12), "int8", scale=0.1447, zero=14)
    y = m.tensor((1, 12), "int8", scale=1 / 256, zero=-128)
    m.op("SOFTMAX", [x], [y], "SoftmaxOptions", beta=1.0)
    return y


def joined(m: Model, rng: np.random.Generator) -> int:
    """Concat, Pad, Slice, Transpose and a nearest-neighbour enlargement: codes only move."""
    same = {"scale": 0.1, "zero": -3}
    x = m.input((1, 4, 4, 16), "int8", **same)
    y, z = m.tensor((1, 4, 4, 32), "int8", **same), m.tensor((1, 6, 5, 32), "int8", **same)
    m.op("CONCATENATION", [x, x], [y], "ConcatenationOptions", axis=3)
    m.op("PAD", [y, m.constant(np.array([[0, 0], [1, 1], [0, 1], [0, 0]], np.int32))], [z])
    s, r = m.tensor((1, 3, 5, 32), "int8", **same), m.tensor((1, 6, 10, 32), "int8", **same)
    bounds = [m.constant(np.array(v, np.int32)) for v in ((0, 1, 0, 0), (1, 3, -1, -1))]
    m.op("SLICE", [z, *bounds], [s])
    size = m.constant(np.array([6, 10], np.int32))
    m.op("RESIZE_NEAREST_NEIGHBOR", [s, size], [r], "ResizeNearestNeighborOptions")
    y = m.tensor((1, 6, 10, 32), "int8", **same)
    m.op("MAX_POOL_2D", [r], [y], "Pool2DOptions", filterHeight=1, filterWidth=1, **ONE)
    return y


CASES: dict[str, Build] = {
    "conv": conv,
    "depthwise": depthwise,
    "fully_connected": fully_connected,
    "max_pool": pool("MAX_POOL_2D", (3, 3), 0),
    "average_pool_2x2": pool("AVERAGE_POOL_2D", (2, 2), 1),
    "average_pool_4x4": pool("AVERAGE_POOL_2D", (4, 4), 1),
    "average_pool_same": pool("AVERAGE_POOL_2D", (3, 3), 0),
    "mean": mean(0.1, -3, True),
    "mean_rescaled": mean(0.05, 4, False),
    "mean_8x8": mean(0.1, -3, False, (8, 8)),
    "mean_4x5": mean(0.1, -3, True, (4, 5)),
    "softmax": softmax,
    "joined": joined,
}


def run(
    m: Model,
    y: int,
    x: list[np.ndarray],
    kernels: str,
    folder: Path,
    device: str = "golden",
    hosted: tuple[str, ...] = (),
) -> None:
    """Compiles for the smallest overlay, runs it, and compares with LiteRT."""
    path = folder / "m.tflite"
    path.write_bytes(m.bytes(y))
    program = weft.compile(path, "tiny", requant=MODES[kernels])
    with weft.open(program, device) as session:
        found = session.run(dict(zip((i.name for i in program.inputs), x, strict=True)))
    found = next(iter(found.values())) if isinstance(found, dict) else found
    expected = litert(path.read_bytes(), *x, reference=kernels == "reference")[0]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    segments = [s for s in program.segments if isinstance(s, HostSegment)]
    names = {node.op for s in segments for node in s.graph}
    assert names - HOSTED == set(hosted)


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", CASES)
def test_every_code_is_that_of_litert(name: str, kernels: str, tmp_path: Path) -> None:
    rng, m = np.random.default_rng(len(name)), Model()
    y = CASES[name](m, rng)
    shape = m.tensors[m.inputs[0]].shape
    x = rng.integers(-128, 128, (100, *shape[1:])).astype(np.int8)
    x[50:] = x[50:] % 8  # means that lie between two codes
    run(m, y, [x], kernels, tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("axes", [(1,), (3,), (1, 3), (2, 3)])
@pytest.mark.parametrize(("scale", "zero"), [(0.1, -3), (0.1, 4), (0.037, 5)])
def test_means_over_any_axes(
    axes: tuple[int, ...], scale: float, zero: int, kernels: str, tmp_path: Path
) -> None:
    m, shape = Model(), (1, 8, 6, 4)
    x = m.input(shape, "int8", scale=0.1, zero=-3)
    left = [d for a, d in enumerate(shape) if a not in axes]
    y = m.tensor(left, "int8", scale=scale, zero=zero)
    m.op("MEAN", [x, m.constant(np.array(axes, np.int32))], [y], "ReducerOptions")
    codes = np.random.default_rng(0).integers(-128, 128, (200, *shape[1:])).astype(np.int8)
    run(m, y, [codes], kernels, tmp_path, hosted=("Mean8",))


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("size", [(8, 10), (12, 15), (7, 9), (3, 2), (1, 1)])
@pytest.mark.parametrize("way", ["", "alignCorners", "halfPixelCenters"])
def test_bilinear_resizes(way: str, size: tuple[int, int], kernels: str, tmp_path: Path) -> None:
    m = Model()
    x = m.input((1, 4, 5, 3), "int8", scale=0.1, zero=3)
    y = m.tensor((1, *size, 3), "int8", scale=0.1, zero=3)
    options = {way: True} if way else {}
    wanted = m.constant(np.array(size, np.int32))
    m.op("RESIZE_BILINEAR", [x, wanted], [y], "ResizeBilinearOptions", **options)
    codes = np.random.default_rng(0).integers(-128, 128, (30, 4, 5, 3)).astype(np.int8)
    run(m, y, [codes], kernels, tmp_path)


def lstm(m: Model, rng: np.random.Generator, coupled: bool, zero: int, cell_bits: int) -> int:
    steps, inputs, cells = 6, 5, 7
    x = m.input((1, steps, inputs), "int8", scale=0.031, zero=-9)
    y = m.tensor((1, steps, cells), "int8", scale=0.0071, zero=zero)
    absent = [coupled and gate == 0 for gate in range(4)]

    def gates(*shape: int, scale: float, bias: bool = False) -> list[int]:
        make = biases if bias else weights
        return [
            -1 if off else m.constant(make(rng, *shape), scale=scale * (1 + gate / 9))
            for gate, off in enumerate(absent)
        ]

    w, r = gates(cells, inputs, scale=0.013), gates(cells, cells, scale=0.017)
    b = gates(cells, scale=0.031 * 0.013, bias=True)
    state = m.tensor((1, cells), "int8", scale=0.0071, zero=zero, variable=True)
    cell = m.tensor((1, cells), "int16", scale=2.0**-cell_bits, variable=True)
    between = [m.tensor((0,)) for _ in range(4)]
    between.append(m.tensor((0,), "int8", scale=0.0071, zero=zero))
    every = [x, *w, *r, -1, -1, -1, *b, -1, -1, state, cell, -1, -1, -1, -1]
    options = {"fusedActivationFunction": 4, "cellClip": 3.0}
    kind = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    table = "UnidirectionalSequenceLSTMOptions"
    m.op(kind, every, [y], table, intermediates=between, **options)
    return y


@pytest.mark.oracle
@pytest.mark.parametrize(("zero", "cell_bits"), [(0, 12), (5, 11), (-13, 15), (0, 9)])
@pytest.mark.parametrize("coupled", [False, True])
def test_every_code_of_an_lstm(coupled: bool, zero: int, cell_bits: int, tmp_path: Path) -> None:
    m, rng = Model(), np.random.default_rng(2)
    y = lstm(m, rng, coupled, zero, cell_bits)
    x = rng.integers(-128, 128, (60, 6, 5)).astype(np.int8)
    run(m, y, [x], "xnnpack", tmp_path, hosted=("SequenceLstm8",))


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", ["conv", "depthwise", "mean_rescaled", "average_pool_same"])
def test_the_simulation_gives_the_same_codes(name: str, kernels: str, tmp_path: Path) -> None:
    rng, m = np.random.default_rng(1), Model()
    y = CASES[name](m, rng)
    x = rng.integers(-128, 128, (20, *m.tensors[m.inputs[0]].shape[1:])).astype(np.int8)
    run(m, y, [x], kernels, tmp_path, "csim")


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("scales", [(0.1, 0.07, 0.13), (0.05, 0.0123, 0.04), (0.1, 0.1, 0.17)])
def test_every_pair_of_codes(
    name: str, scales: tuple[float, ...], kernels: str, tmp_path: Path
) -> None:
    m = Model()
    a = m.input((1, 256, 256), "int8", scale=scales[0], zero=3)
    b = m.input((1, 256, 256), "int8", scale=scales[1], zero=-120)
    out = scales[2] * (0.1 if name == "MUL" else 1)
    y = m.tensor((1, 256, 256), "int8", scale=out, zero=-17)
    m.op(name, [a, b], [y], f"{name.title()}Options", fusedActivationFunction=1)
    x = [p.astype(np.int8).reshape(1, 256, 256) for p in PAIRS]
    run(m, y, x, kernels, tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
def test_the_host_computes_codes_too(name: str, kernels: str, tmp_path: Path) -> None:
    """Without windows nothing says that the last dimension holds channels: it can't be mapped."""
    m, rng = Model(), np.random.default_rng(0)
    a = m.input((1, 1, 1, 16), "int8", scale=0.1137, zero=3)
    b = m.input((1, 6, 5, 16), "int8", scale=0.07313, zero=-20)
    y = m.tensor((1, 6, 5, 16), "int8", scale=0.0317 if name == "MUL" else 0.1613, zero=-17)
    m.op(name, [a, b], [y], f"{name.title()}Options")
    x = [rng.integers(-128, 128, (50, *m.tensors[i].shape[1:])).astype(np.int8) for i in (a, b)]
    run(m, y, x, kernels, tmp_path, hosted=(name.title(),))


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
def test_the_smaller_operand_may_come_first(name: str, kernels: str, tmp_path: Path) -> None:
    m, rng = Model(), np.random.default_rng(0)
    a = m.input((1, 6, 5, 16), "int8", scale=0.1137, zero=3)
    b = m.input((1, 6, 5, 16), "int8", scale=0.07313, zero=-20)
    c = m.tensor((1, 1, 1, 16), "int8", scale=0.1137, zero=3)
    sizes = {"filterHeight": 6, "filterWidth": 5, "padding": 1, **ONE}
    m.op("MAX_POOL_2D", [a], [c], "Pool2DOptions", **sizes)
    y = m.tensor((1, 6, 5, 16), "int8", scale=0.0317 if name == "MUL" else 0.1613, zero=-17)
    m.op(name, [c, b], [y], f"{name.title()}Options")
    x = [rng.integers(-128, 128, (50, 6, 5, 16)).astype(np.int8) for _ in (a, b)]
    run(m, y, x, kernels, tmp_path)


@pytest.mark.oracle
def test_models_of_uint8_are_read_too(tmp_path: Path) -> None:
    """As TensorFlow 1 quantized: weights with a zero point of their own."""
    m, rng = Model(), np.random.default_rng(0)
    x = m.input((1, 60), "uint8", scale=0.05, zero=123)
    w = m.constant(rng.integers(0, 256, (8, 60)).astype(np.uint8), scale=0.0037, zero=131)
    b = m.constant(biases(rng, 8), scale=0.05 * 0.0037)
    y = m.tensor((1, 8), "uint8", scale=0.17, zero=130)
    m.op("FULLY_CONNECTED", [x, w, b], [y], "FullyConnectedOptions")
    run(m, y, [rng.integers(0, 256, (50, 60)).astype(np.uint8)], "xnnpack", tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("name", tflite_kernels.FUNCTIONS)
@pytest.mark.parametrize(("scale", "zero"), [(0.05, 3), (0.1, -60), (0.008, 0), (0.3, 10)])
def test_every_code_of_a_function(
    name: str, scale: float, zero: int, kernels: str, tmp_path: Path
) -> None:
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
    out, out_zero = fixed.get(name, (0.04, -3))
    m = Model()
    x = m.input((1, 16, 16), "int8", scale=scale, zero=zero)
    y = m.tensor((1, 16, 16), "int8", scale=out, zero=out_zero)
    options = {"options": "LeakyReluOptions", "alpha": 0.2} if name == "LEAKY_RELU" else {}
    m.op(name, [x], [y], **options)
    codes = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16)
    run(m, y, [codes], kernels, tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("kernels", MODES)
def test_a_number_that_is_added_is_a_table(kernels: str, tmp_path: Path) -> None:
    m = Model()
    x = m.input((1, 256), "int8", scale=0.05, zero=3)
    y = m.tensor((1, 256), "int8", scale=0.06, zero=1)
    number = m.constant(np.array([77], np.int8), scale=0.02, zero=-4)
    m.op("ADD", [x, number], [y], "AddOptions")
    run(m, y, [np.arange(-128, 128).astype(np.int8).reshape(1, 256)], kernels, tmp_path)


@pytest.mark.parametrize("kernels", MODES)
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1)])
def test_additions_differ_in_few_pairs(signs: tuple[int, int], kernels: str) -> None:
    """Where no pair of 15-bit factors equals the kernel everywhere, it is off in few of them."""
    rng = np.random.default_rng(4)
    for _ in range(4):
        scales, zeros = rng.uniform(0.01, 0.5, 3), rng.integers(-128, 128, 3)
        key = tuple((float(np.float32(s)), int(z)) for s, z in zip(scales, zeros, strict=True))
        assert exact._matched(kernels, key, signs)[3] <= 8


def test_simple_ratios_of_scales_are_noted() -> None:
    """2/3 and 7/10 of a code: many sums lie halfway, and 15 bits can't follow 20 in all of them."""
    quants = tuple(Quant(np.float32(s), z) for s, z in ((0.2, 3), (0.21, -120), (0.3, -17)))
    node = Node("Add", "sum", (), ("y",), {"kernels": "xnnpack"})
    changed, factors, values = exact.sum_of_codes(node, quants, (1, 1))
    p, q = (a.astype(np.int64) for a in PAIRS)
    sums = factors[0] * (p - 3) + factors[1] * (q + 120)
    mode = changed.attrs["requant"]
    code = tflite_kernels.encode(values.scale, mode)
    found = np.clip(tflite_kernels.requantize(sums, *code, mode) - 17, -128, 127)
    off = np.abs(found - tflite_kernels.add("xnnpack", p, q, quants))
    assert off.max() == 1
    assert 0 < off.sum() < 200
    assert changed.attrs["notes"][0].startswith(f"{off.sum()} of 65536 pairs of codes differ")


@pytest.mark.parametrize("count", [2, 3, 4, 9, 25, 64, 125, 256])
def test_means_round_as_division_does(count: int) -> None:
    """Every sum that a pool of `count` codes can have."""
    sums = np.arange(-128 * count, 127 * count + 1)
    half = count // 2
    expected = np.where(sums > 0, (sums + half) // count, -((half - sums) // count))
    code = tflite_kernels.encode((1 + exact.NUDGE) / count, "single_round")
    found = tflite_kernels.requantize(sums, *code, "single_round")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [16, 32])
def test_fixed_point_functions_are_near_the_real_ones(bits: int) -> None:
    x = np.linspace(-7.99, 7.99, 20001)
    raw = np.round(x * 2.0 ** (bits - 4)).astype(np.int64)
    unit, limit = 2.0 ** (1 - bits), 8 * 2.0 ** (1 - bits) + (bits == 32) * 3e-7
    found = fixed_point.logistic(raw, 3, bits) * unit
    assert np.abs(found - 1 / (1 + np.exp(-x))).max() <= limit
    assert np.abs(fixed_point.tanh(raw, 3, bits) * unit - np.tanh(x)).max() <= 2 * limit
    low = np.minimum(raw, 0)
    e = fixed_point.exp_of_negative(low, 3, bits) * unit
    assert np.abs(e - np.exp(np.minimum(x, 0))).max() <= limit


def test_an_explicit_rounding_must_be_a_runtimes(tmp_path: Path) -> None:
    m = Model()
    y = softmax(m, np.random.default_rng(0))
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(y))
    with pytest.raises(UsageError, match=r"single_round.*Known: double_round, float_even"):
        weft.compile(path, "tiny", requant="single_round")


def test_uint8_inputs_are_moved(tmp_path: Path) -> None:
    """A model whose interface is uint8: QUANTIZE moves the codes by 128, which costs nothing."""
    m = Model()
    x = m.input((1, 60), "uint8", scale=0.05, zero=123)
    q = m.tensor((1, 60), "int8", scale=0.05, zero=-5)
    m.op("QUANTIZE", [x], [q])
    w = m.constant(weights(np.random.default_rng(0), 8, 60), scale=0.0037)
    y = m.tensor((1, 8), "int8", scale=0.17, zero=3)
    m.op("FULLY_CONNECTED", [q, w, -1], [y], "FullyConnectedOptions")
    samples = np.random.default_rng(1).integers(0, 256, (50, 60)).astype(np.uint8)
    run(m, y, [samples], "xnnpack", tmp_path)


def test_a_float_interface_is_quantized_on_the_host(tmp_path: Path) -> None:
    m, rng = Model(), np.random.default_rng(0)
    x, q = m.input((1, 60)), m.tensor((1, 60), "int8", scale=0.05, zero=-5)
    m.op("QUANTIZE", [x], [q])
    w = m.constant(weights(rng, 8, 60), scale=0.0037)
    z, y = m.tensor((1, 8), "int8", scale=0.17, zero=3), m.tensor((1, 8))
    m.op("FULLY_CONNECTED", [q, w, -1], [z], "FullyConnectedOptions")
    m.op("DEQUANTIZE", [z], [y])
    run(m, y, [rng.normal(size=(50, 60)).astype(np.float32)], "xnnpack", tmp_path)


def test_saved_programs_give_the_same_codes(tmp_path: Path) -> None:
    """Tables, scalars, softmax: what the host runs goes through the file."""
    m = Model()
    x = m.input((1, 12), "int8", scale=0.1447, zero=14, name="x")
    y = m.tensor((1, 12), "int8", scale=0.1, zero=3)
    m.op("LEAKY_RELU", [x], [y], "LeakyReluOptions", alpha=0.1)
    z = m.tensor((1, 12), "int8", scale=1 / 256, zero=-128)
    m.op("SOFTMAX", [y], [z], "SoftmaxOptions", beta=1.0)
    path = tmp_path / "m.tflite"
    path.write_bytes(m.bytes(z))
    program = weft.compile(path, "tiny")
    program.save(tmp_path / "m.weft")
    codes = np.random.default_rng(0).integers(-128, 128, (40, 12)).astype(np.int8)
    with weft.open(program, "golden") as one, weft.open(tmp_path / "m.weft", "golden") as two:
        np.testing.assert_array_equal(one.run(codes), two.run(codes))
        np.testing.assert_array_equal(one.run(codes), litert(path.read_bytes(), codes)[0])


def test_the_demonstrations_file_is_what_the_example_writes(tmp_path: Path) -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "digits_tflite.py"))
    example["main"]([str(tmp_path / "digits.tflite")])
    made = (tmp_path / "digits.tflite").read_bytes()
    assert made == (MODELS / "digits_int8.tflite").read_bytes()


def test_the_demonstration_in_tflite_has_the_accuracy_of_the_onnx_file() -> None:
    data = load_data()
    program = weft.compile(MODELS / "digits_int8.tflite", "tiny")
    codes = np.rint(data.images.transpose(0, 2, 3, 1) / (16 / 255) - 128).astype(np.int8)
    expected = weft.compile(MODELS / "digits.onnx", "tiny", calibration=data.calibration)
    top1 = weft.evaluate(expected, data.images, data.labels).top1
    assert weft.evaluate(program, codes, data.labels).top1 >= top1 - 0.005


def test_quant_of_a_softmax_is_fixed() -> None:
    codes = np.array([[127, -128, 0]], np.int8)
    for kernels in MODES:
        y = Quant(np.float32(1 / 256), -128).dequantize(
            tflite_kernels.softmax(kernels, codes, 0.1, 1.0)
        )
        assert abs(float(y.sum()) - 1) < 2 / 256
