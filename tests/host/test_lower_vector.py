"""Pooling, arithmetic and functions: against integers where exact, else against real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import OVERLAYS, SMALL, WIDE, Net, codes, convolve, finish, on_accelerator, outputs
from quantized import scale as quant

from weft import isa, ops
from weft.graph import Node, Quant
from weft.lower import lower
from weft.program import AcceleratorSegment, HostSegment

ZEROS = st.sampled_from([-128, -7, 0, 127])
QUICK = settings(max_examples=30, deadline=None)
OVERLAY = st.sampled_from(OVERLAYS)
EACH = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)


@st.composite
def pools(draw: Any) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    return {
        "shape": (draw(st.integers(1, 20)), draw(st.integers(4, 11)), draw(st.integers(4, 11))),
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "pads": [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)],
        "dilations": [1, 1],
    }


def windows(x: np.ndarray, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Taps [taps, n, c, out_h, out_w] and which of them are inside the map."""
    top, left, bottom, right = case["pads"]
    width = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x.astype(np.int64), width)
    inside = np.pad(np.ones(x.shape, bool), width)
    kernel_h, kernel_w = case["kernel_shape"]
    out_h = (padded.shape[2] - kernel_h) // case["strides"][0] + 1
    out_w = (padded.shape[3] - kernel_w) // case["strides"][1] + 1

    def taps(a: np.ndarray) -> np.ndarray:
        sy, sx = case["strides"]
        return np.stack(
            [
                a[:, :, i:, j:][:, :, ::sy, ::sx][:, :, :out_h, :out_w]
                for i in range(kernel_h)
                for j in range(kernel_w)
            ]
        )

    return taps(padded), taps(inside)


@QUICK
@given(pools(), ZEROS, OVERLAY)
def test_max_pool_is_exact(case: dict[str, Any], zero: int, overlay: Any) -> None:
    x, q = codes(2, *case["shape"]), quant(0.1, zero)
    taps, inside = windows(x, case)
    expected = np.where(inside, taps, -999).max(axis=0)
    net = Net()
    name = net.input("x", (1, *case["shape"]), q)
    attrs = {k: v for k, v in case.items() if k != "shape"}
    y = net.node("MaxPool", [name], (1, *expected.shape[1:]), q, **attrs)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    np.testing.assert_array_equal(found, expected)
    assert on_accelerator(program)


@QUICK
@given(pools(), ZEROS, st.booleans(), OVERLAY)
def test_average_pool(case: dict[str, Any], zero: int, counted: bool, overlay: Any) -> None:
    x, q, y_quant = codes(2, *case["shape"]), quant(0.1, zero), quant(0.06, 4)
    taps, inside = windows(x, case)
    sums = np.where(inside, taps - zero, 0).sum(axis=0)
    counts = np.full(sums.shape, len(taps)) if counted else inside.sum(axis=0)
    per_position = counts[0, 0]
    expected = np.zeros(sums.shape, np.int8)
    real = np.float64(np.float32(0.1))
    for count in np.unique(per_position):
        unit = real * (1.0 / count) / np.float64(np.float32(0.06))
        channels = np.full(sums.shape[1], unit)
        np.copyto(expected, finish(sums, channels, y_quant), where=per_position == count)
    net = Net()
    name = net.input("x", (1, *case["shape"]), q)
    attrs = {k: v for k, v in case.items() if k != "shape"}
    y = net.node(
        "AveragePool",
        [name],
        (1, *expected.shape[1:]),
        y_quant,
        count_include_pad=int(counted),
        **attrs,
    )
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    np.testing.assert_array_equal(found, expected)
    assert on_accelerator(program)


@EACH
@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (9, 12)])
def test_global_pool(op: str, shape: tuple[int, ...], overlay: Any) -> None:
    q, y_quant = quant(0.1, -3), quant(0.05, 6)
    x = codes(3, *shape)
    flat = x.reshape(3, shape[0], -1).astype(np.int64) + 3
    count = flat.shape[2] if op == "GlobalAveragePool" else 1
    reduced = flat.sum(axis=2) if op == "GlobalAveragePool" else flat.max(axis=2)
    unit = np.float64(np.float32(0.1)) * (1.0 / count) / np.float64(np.float32(0.05))
    expected = finish(reduced, np.full(shape[0], unit), y_quant)
    net = Net()
    out = (1, shape[0], *[1] * (len(shape) - 1))
    y = net.node(op, [net.input("x", (1, *shape), q)], out, y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    np.testing.assert_array_equal(found.reshape(3, -1), expected)
    assert on_accelerator(program)


SHAPES = [
    ((5, 4, 3), (5, 4, 3)),
    ((9, 4, 3), (9, 1, 1)),
    ((9, 1, 1), (9, 4, 3)),
    ((6, 4, 3), (6, 4, 1)),
    ((6, 4, 3), (6, 1, 3)),
    ((17,), (17,)),
]


@QUICK
@given(
    st.sampled_from(["Add", "Sub", "Mul"]),
    st.sampled_from(SHAPES),
    st.tuples(ZEROS, ZEROS, ZEROS),
    st.sampled_from([(0.1, 0.1), (0.1, 0.05), (0.031, 0.27), (0.0011, 0.9)]),
    OVERLAY,
)
def test_two_activations(
    op: str, shapes: Any, zeros: tuple[int, ...], scales: tuple[float, float], overlay: Any
) -> None:
    """Within one code of the exact result: only the requantization rounds."""
    a_quant, b_quant = quant(scales[0], zeros[0]), quant(scales[1], zeros[1])
    y_scale = scales[0] * scales[1] * 90 if op == "Mul" else sum(scales)
    y_quant = quant(y_scale, zeros[2])
    a, b = codes(3, *shapes[0]), codes(3, *shapes[1])
    exact = ops.OPS[op].reference(
        Node(op, "", ("a", "b"), ("y",)), [real(a, a_quant), real(b, b_quant)]
    )[0]
    net = Net()
    operands = [net.input("a", (1, *shapes[0]), a_quant), net.input("b", (1, *shapes[1]), b_quant)]
    y = net.node(op, operands, (1, *exact.shape[1:]), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"a": a, "b": b})
    assert on_accelerator(program)
    near(found, exact, y_quant)


def real(q: np.ndarray, quantization: Quant) -> np.ndarray:
    unit = np.float64(quantization.scale)
    return (q.astype(np.float64) - quantization.zero_point) * unit


def near(found: np.ndarray, exact: np.ndarray, y: Quant, tolerance: float = 0.501) -> None:
    """`found` is `exact` rounded to a nearest code (ties may go either way)."""
    wanted = np.clip(exact / np.float64(y.scale) + y.zero_point, -128, 127)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance


def test_equal_scales_add_exactly() -> None:
    q, y_quant = quant(0.1, 5), quant(0.2, -3)
    a, b = codes(2, 6, 3, 3), codes(2, 6, 3, 3)
    net = Net()
    operands = [net.input("a", (1, 6, 3, 3), q), net.input("b", (1, 6, 3, 3), q)]
    y = net.node("Add", operands, (1, 6, 3, 3), y_quant, activation=("Relu",))
    (found,), _ = outputs(net.graph(y), SMALL, {"a": a, "b": b})
    sums = a.astype(np.int64) + b - 10
    np.testing.assert_array_equal(found, finish(sums, np.full(6, 0.5), y_quant, low=-3))


@QUICK
@given(
    st.sampled_from(["Add", "Sub", "Mul"]),
    st.booleans(),
    st.sampled_from([(7, 1, 1), (1, 7, 1, 1), (1,), ()]),
    ZEROS,
    OVERLAY,
)
def test_constant_operand(
    op: str, first: bool, shape: tuple[int, ...], zero: int, overlay: Any
) -> None:
    q, y_quant = quant(0.1, zero), quant(0.17, -2)
    constant = np.random.default_rng(len(shape)).normal(0, 3, shape).astype(np.float32)
    if op == "Mul" and constant.size > 1:
        constant.flat[3] = 0
    x = codes(2, 7, 3, 4)
    both = [real(x, q), constant.astype(np.float64)]
    node = Node(op, "", ("a", "b"), ("y",))
    exact = ops.OPS[op].reference(node, both[::-1] if first else both)[0]
    net = Net()
    operands = [net.input("x", (1, 7, 3, 4), q), net.constant("c", constant)]
    y = net.node(op, operands[::-1] if first else operands, (1, 7, 3, 4), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    assert on_accelerator(program)
    near(found, exact, y_quant, 0.502)


def test_quantized_constant_counts_by_its_real_value() -> None:
    q, y_quant = quant(0.1, 4), quant(0.3, 1)
    x, c = codes(2, 5), np.arange(5, dtype=np.int8)
    net = Net()
    operands = [net.input("x", (1, 5), q), net.constant("c", c, quant(0.5, 2))]
    y = net.node("Add", operands, (1, 5), y_quant)
    (found,), _ = outputs(net.graph(y), SMALL, {"x": x})
    near(found, real(x, q) + (c - 2.0) * 0.5, y_quant, 0.502)


FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}),
    ("Clip", {"min": -1.0, "max": 2.0}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("HardSwish", {}),
    ("Elu", {"alpha": 1.0}),
    ("Exp", {}),
    ("Gelu", {}),
    ("Log", {}),
]


@pytest.mark.parametrize(("op", "attrs"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_lone_function_is_exact_for_every_code(op: str, attrs: dict[str, Any]) -> None:
    q, y_quant = quant(0.05, 7), quant(0.03, -11)
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16)
    net = Net()
    y = net.node(op, [net.input("x", (1, 16, 16), q)], (1, 16, 16), y_quant, **attrs)
    (found,), program = outputs(net.graph(y), WIDE, {"x": x})
    assert on_accelerator(program)
    with np.errstate(all="ignore"):
        exact = ops.OPS[op].reference(Node(op, "", ("x",), ("y",), attrs), [q.dequantize(x)])[0]
        expected = y_quant.quantize(np.where(np.isnan(exact), 0, exact))
    np.testing.assert_array_equal(found, expected)


@EACH
def test_function_of_a_convolution_costs_no_instruction(overlay: Any) -> None:
    x_quant, m_quant, mid, y_quant = quant(0.05), quant(0.2, 3), quant(0.1, 5), quant(1 / 256, -128)
    w = codes(6, 5, 1, 1)
    x = codes(2, 5, 4, 4)
    net = Net()
    operands = [net.input("x", (1, 5, 4, 4), x_quant), net.constant("w", w, quant(0.01)), ""]
    m = net.node("Conv", operands, (1, 6, 4, 4), m_quant)
    m = net.node("HardSwish", [m], (1, 6, 4, 4), mid)
    y = net.node("Sigmoid", [m], (1, 6, 4, 4), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    sums = convolve(x, 0, w, (1, 1), (0, 0, 0, 0), (1, 1))
    unit = np.float64(np.float32(0.05)) * np.float64(np.float32(0.01)) / np.float64(np.float32(0.2))
    codes_m = finish(sums, np.full(6, unit), m_quant)
    v = m_quant.dequantize(codes_m)
    swish = mid.quantize(ops.OPS["HardSwish"].reference(Node("HardSwish", "", (), ()), [v])[0])
    np.testing.assert_array_equal(found, y_quant.quantize(1 / (1 + np.exp(-mid.dequantize(swish)))))
    assert [layer.op for layer in program.layers] == ["Conv"]
    (segment,) = program.segments
    assert isinstance(segment, AcceleratorSegment)
    assert isa.VECTOR.opcode not in segment.words[:, 0]


def test_function_is_not_merged_where_its_input_is_needed_elsewhere() -> None:
    q = quant(0.1, 2)
    x = codes(2, 5)
    net = Net()
    a = net.node("Relu", [net.input("x", (1, 5), q)], (1, 5), q)
    b = net.node("Neg", [a], (1, 5), q)
    (first, second), program = outputs(net.graph(a, b), SMALL, {"x": x})
    np.testing.assert_array_equal(first, np.maximum(x, 2))
    np.testing.assert_array_equal(second, np.clip(4 - np.maximum(x, 2).astype(int), -128, 127))
    assert len(program.layers) == 2


@EACH
def test_prelu_with_slopes_per_channel(overlay: Any) -> None:
    q, y_quant = quant(0.1, 2), quant(0.1, 2)
    slopes = np.linspace(-0.5, 1.5, 7).astype(np.float32).reshape(7, 1, 1)
    x = codes(2, 7, 3, 3)
    net = Net()
    operands = [net.input("x", (1, 7, 3, 3), q), net.constant("s", slopes)]
    y = net.node("PRelu", operands, (1, 7, 3, 3), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    assert on_accelerator(program)
    v = real(x, q)
    near(found, np.where(v < 0, v * slopes, v), y_quant)


def test_constant_over_the_map_stays_with_the_host() -> None:
    q = quant(0.1, 2)
    net = Net()
    operands = [net.input("x", (1, 3, 4, 4), q), net.constant("c", np.ones((4, 4), np.float32))]
    y = net.node("Add", operands, (1, 3, 4, 4), q)
    program = lower(net.graph(y), SMALL)
    assert [type(s) for s in program.segments] == [HostSegment]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool_in_bands(op: str) -> None:
    q = quant(0.1, 2)
    case = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    x = codes(1, 4, 31, 31)
    taps, inside = windows(x, case)
    if op == "MaxPool":
        expected = np.where(inside, taps, -999).max(axis=0)
    else:
        exact = np.where(inside, taps - 2, 0).sum(axis=0) / inside.sum(axis=0)
    net = Net()
    name = net.input("x", (1, 4, 31, 31), q)
    y = net.node(op, [name], (1, 4, 16, 16), q, **case)
    (found,), program = outputs(net.graph(y), SMALL, {"x": x})
    assert program.notes["banded_layers"] == 1
    if op == "MaxPool":
        np.testing.assert_array_equal(found, expected)
    else:
        near(found, exact * 0.1, q)


@pytest.mark.parametrize("shape", [(4, 20, 20), (4, 1, 1), (4, 20, 1), (4, 1, 20)])
def test_add_in_bands(shape: tuple[int, ...]) -> None:
    q = quant(0.1, 2)
    a, b = codes(1, 4, 20, 20), codes(1, *shape)
    net = Net()
    operands = [net.input("a", (1, 4, 20, 20), q), net.input("b", (1, *shape), q)]
    y = net.node("Sub", operands, (1, 4, 20, 20), q)
    (found,), program = outputs(net.graph(y), SMALL, {"a": a, "b": b})
    assert program.notes["banded_layers"] == 1
    np.testing.assert_array_equal(found, np.clip(a.astype(int) - b + 2, -128, 127))


def test_codes_mean_what_they_meant_before_the_reshape() -> None:
    """Imported models may give a Reshape's output another scale: the codes don't follow it."""
    q, other, y_quant = quant(0.1, 3), quant(0.5, -20), quant(1 / 256, -128)
    x = codes(2, 4, 3, 3)
    net = Net()
    m = net.node("Relu", [net.input("x", (1, 4, 3, 3), q)], (1, 4, 3, 3), q)
    m = net.node("Reshape", [m], (1, 36), other, **{"shape": [1, 36]})
    y = net.node("Sigmoid", [m], (1, 36), y_quant)
    (found,), _ = outputs(net.graph(y), SMALL, {"x": x})
    relu = q.dequantize(np.maximum(x, 3)).reshape(2, 36)
    np.testing.assert_array_equal(found, y_quant.quantize(1 / (1 + np.exp(-relu))))


@pytest.mark.parametrize("merged", [False, True])
def test_clamp_needs_no_table(merged: bool) -> None:
    q = quant(0.1, 3)
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16)
    net = Net()
    name = net.input("x", (1, 16, 16), q)
    if merged:
        name = net.node("Clip", [name], (1, 16, 16), q, min=-2.0, max=0.5)
    y = net.node("Relu", [name], (1, 16, 16), q)
    (found,), program = outputs(net.graph(y), WIDE, {"x": x})
    np.testing.assert_array_equal(found, np.clip(x, 3, 8 if merged else 127))
    (segment,) = program.segments
    assert isinstance(segment, AcceleratorSegment)
    tables = [f["target"] for k, f in map(isa.decode, segment.words) if k is isa.SET_TABLE]
    assert tables == [0]
