"""Concat, Slice, Pad, Resize, DepthToSpace, Reshape, Transpose: moved codes, unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import OVERLAYS, SMALL, WIDE, Net, codes, on_accelerator, outputs
from quantized import scale as quant

from weft import isa, ops
from weft.graph import Node, Quant
from weft.lower import lower
from weft.program import AcceleratorSegment, HostSegment

QUICK = settings(max_examples=30, deadline=None)
OVERLAY = st.sampled_from(OVERLAYS)
Q = quant(0.1, -5)


def moved(op: str, x: np.ndarray, overlay: Any, y: Quant = Q, **attrs: Any) -> np.ndarray:
    """Codes that `op` gives on the accelerator, behind a convolution's kind of input."""
    expected = reference(op, [x], **attrs)
    net = Net()
    name = net.input("x", (1, *x.shape[1:]), Q)
    out = net.node(op, [name], (1, *expected.shape[1:]), y, **attrs)
    (found,), program = outputs(net.graph(out), overlay, {"x": x})
    assert on_accelerator(program)
    assert found.shape == expected.shape
    return found


def reference(op: str, inputs: list[np.ndarray], **attrs: Any) -> np.ndarray:
    """The operator on codes less their zero point, which every mover leaves alone."""
    node = Node(op, "", ("x",), ("y",), attrs)
    reals = [x.astype(np.float32) - Q.zero_point for x in inputs]
    return np.asarray(ops.OPS[op].reference(node, reals)[0]) + Q.zero_point


@QUICK
@given(
    st.lists(st.integers(1, 18), min_size=2, max_size=4),
    st.sampled_from([1, 2, 3]),
    OVERLAY,
)
def test_concat(sizes: list[int], axis: int, overlay: Any) -> None:
    shapes = [[6, 3, 4] for _ in sizes]
    for shape, size in zip(shapes, sizes, strict=True):
        shape[axis - 1] = size if axis == 1 else size % 5 + 1
    parts = [codes(1, *shape) for shape in shapes]
    expected = np.concatenate(parts, axis=axis)
    net = Net()
    names = [net.input(f"x{i}", p.shape, Q) for i, p in enumerate(parts)]
    y = net.node("Concat", names, expected.shape, Q, axis=axis)
    feeds = {f"x{i}": p for i, p in enumerate(parts)}
    (found,), program = outputs(net.graph(y), overlay, feeds)
    assert on_accelerator(program)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sizes", [(3, 6), (4, 8), (16, 5)])
def test_concat_of_different_scales(sizes: tuple[int, int]) -> None:
    other, y_quant = quant(0.2, 9), quant(0.2, 0)
    a, b = codes(2, sizes[0], 3, 3), codes(2, sizes[1], 3, 3)
    net = Net()
    names = [net.input("a", (1, *a.shape[1:]), Q), net.input("b", (1, *b.shape[1:]), other)]
    y = net.node("Concat", names, (1, sum(sizes), 3, 3), y_quant, axis=1)
    (found,), _ = outputs(net.graph(y), SMALL, {"a": a, "b": b})
    halves = np.floor((a.astype(np.int64) + 5) / 2 + 0.5)
    exact = np.concatenate([halves, b.astype(np.int64) - 9], axis=1)
    np.testing.assert_array_equal(found, np.clip(exact, -128, 127))


@QUICK
@given(st.data(), OVERLAY)
def test_slice(data: Any, overlay: Any) -> None:
    shape = (1, 13, 7, 6)
    picked = [
        range(n)[data.draw(st.integers(0, n - 1)) :: data.draw(st.integers(1, 3))]
        for n in shape[1:]
    ]
    attrs = {
        "axes": [1, 2, 3],
        "starts": [r.start for r in picked],
        "ends": [r.stop for r in picked],
        "steps": [r.step for r in picked],
    }
    x = codes(*shape)
    expected = x[:, picked[0]][:, :, picked[1]][:, :, :, picked[2]]
    np.testing.assert_array_equal(moved("Slice", x, overlay, **attrs), expected)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(overlay: Any, mode: str) -> None:
    x = codes(2, 12, 3, 4)
    found = moved("DepthToSpace", x, overlay, blocksize=2, mode=mode)
    np.testing.assert_array_equal(found, reference("DepthToSpace", [x], blocksize=2, mode=mode))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 3, 1], [1, 1, 1, 2]])
def test_resize(overlay: Any, scales: list[int]) -> None:
    x = codes(2, 5, 3, 4)
    expected = x.repeat(scales[2], axis=2).repeat(scales[3], axis=3)
    np.testing.assert_array_equal(moved("Resize", x, overlay, scales=scales), expected)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize("value", [0, 1.2, -3.0])
def test_pad(overlay: Any, value: float) -> None:
    x = codes(2, 5, 3, 4)
    code = int(Q.quantize(np.asarray(value)))
    expected = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)), constant_values=code)
    found = moved("Pad", x, overlay, pads=[0, 0, 1, 0, 0, 0, 2, 3], value=value)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("Resize", {"scales": [1, 1, 2, 2]}),
        ("DepthToSpace", {"blocksize": 2, "mode": "DCR"}),
        ("Pad", {"pads": [0, 0, 9, 9, 0, 0, 9, 9], "value": 0}),
        ("Slice", {"axes": [2], "starts": [1], "ends": [14], "steps": [2]}),
    ],
)
def test_movement_in_bands(op: str, attrs: dict[str, Any]) -> None:
    x = codes(1, 16, 14, 14)
    np.testing.assert_array_equal(moved(op, x, SMALL, **attrs), reference(op, [x], **attrs))


def test_relabelling_takes_no_instruction() -> None:
    x = codes(2, 6, 4, 5)
    net = Net()
    a = net.node("Relu", [net.input("x", (1, 6, 4, 5), Q)], (1, 6, 4, 5), Q)
    a = net.node("Transpose", [a], (1, 4, 5, 6), Q, perm=[0, 2, 3, 1])
    a = net.node("Identity", [a], (1, 4, 5, 6), Q)
    a = net.node("Reshape", [a], (1, 20, 6), Q, shape=[1, 20, 6])
    a = net.node("Reshape", [a], (1, 4, 1, 5, 6), Q, shape=[1, 4, 1, 5, 6])
    (found,), program = outputs(net.graph(a), SMALL, {"x": x})
    expected = np.maximum(x, Q.zero_point).transpose(0, 2, 3, 1).reshape(2, 4, 1, 5, 6)
    np.testing.assert_array_equal(found, expected)
    assert [layer.op for layer in program.layers] == ["Relu"]
    assert on_accelerator(program)


def test_reshape_through_the_channels_goes_by_the_host() -> None:
    x = codes(2, 6, 4, 5)
    net = Net()
    a = net.node("Relu", [net.input("x", (1, 6, 4, 5), Q)], (1, 6, 4, 5), Q)
    a = net.node("Reshape", [a], (1, 3, 8, 5), Q, shape=[1, 3, 8, 5])
    a = net.node("Neg", [a], (1, 3, 8, 5), Q)
    (found,), program = outputs(net.graph(a), SMALL, {"x": x})
    expected = -(np.maximum(x, -5).astype(np.int64) + 5).reshape(2, 3, 8, 5) - 5
    np.testing.assert_array_equal(found, np.clip(expected, -128, 127))
    kinds = [type(s) for s in program.segments]
    assert kinds == [AcceleratorSegment, HostSegment, AcceleratorSegment]


def test_input_read_by_host_and_accelerator() -> None:
    """The host repeats the relabelling of an input; an output may be the input, relabelled."""
    x = codes(2, 6, 4, 5)
    net = Net()
    a = net.node("Reshape", [net.input("x", (1, 6, 4, 5), Q)], (1, 120), Q, shape=[1, 120])
    b = net.node("Neg", [a], (1, 120), Q)
    soft = quant(1 / 256, -128)
    c = net.node("Softmax", [a], (1, 120), soft, axis=1)
    (same, negative, likely), program = outputs(net.graph(a, b, c), WIDE, {"x": x})
    flat = x.reshape(2, 120)
    np.testing.assert_array_equal(same, flat)
    np.testing.assert_array_equal(negative, np.clip(-(flat.astype(int) + 5) - 5, -128, 127))
    e = np.exp(Q.dequantize(flat) - Q.dequantize(flat).max(axis=1, keepdims=True))
    np.testing.assert_array_equal(likely, soft.quantize(e / e.sum(axis=1, keepdims=True)))
    assert any(isinstance(s, AcceleratorSegment) for s in program.segments)


def test_slice_backwards_and_channel_padding_stay_with_the_host() -> None:
    for op, shape, attrs in (
        ("Slice", (1, 4, 3, 3), {"axes": [2], "starts": [2], "ends": [-9], "steps": [-1]}),
        ("Pad", (1, 6, 3, 3), {"pads": [0, 1, 0, 0, 0, 1, 0, 0], "value": 0}),
    ):
        net = Net()
        y = net.node(op, [net.input("x", (1, 4, 3, 3), Q)], shape, Q, **attrs)
        program = lower(net.graph(y), SMALL)
        assert [type(s) for s in program.segments] == [HostSegment]


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
def test_concat_of_results_takes_no_copy(axis: int, overlay: Any) -> None:
    """Branches write straight into the joined map; an input, or what others read, is copied."""
    x = codes(2, 16, 4, 3)
    net = Net()
    name = net.input("x", (1, 16, 4, 3), Q)
    a = net.node("Neg", [name], (1, 16, 4, 3), Q)
    b = net.node("Relu", [name], (1, 16, 4, 3), Q)
    shape = [1, 16, 4, 3]
    shape[axis] *= 2
    inner = net.node("Concat", [a, b], tuple(shape), Q, axis=axis)
    shape[axis] = 16 if axis == 1 else shape[axis] // 2
    other = net.node("Abs", [name], tuple(shape), Q)
    shape[axis] *= 3
    y = net.node("Concat", [inner, other], tuple(shape), Q, axis=axis)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    v = x.astype(np.int64) + 5
    parts = [np.clip(part - 5, -128, 127) for part in (-v, np.maximum(v, 0), np.abs(v))]
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=axis))
    assert [layer.op for layer in program.layers] == ["Neg", "Relu", "Abs"]
    (segment,) = program.segments
    assert isinstance(segment, AcceleratorSegment)
    assert segment.outputs == (y,)
    assert list(segment.words[:, 0]).count(isa.WRITE_HOST.opcode) == 1


def test_concat_copies_what_others_read() -> None:
    x = codes(2, 4, 4, 3)
    net = Net()
    name = net.input("x", (1, 4, 4, 3), Q)
    a = net.node("Relu", [name], (1, 4, 4, 3), Q)
    y = net.node("Concat", [a, name, a], (1, 12, 4, 3), Q, axis=1)
    (first, second), program = outputs(net.graph(y, a), SMALL, {"x": x})
    relu = np.maximum(x, -5)
    np.testing.assert_array_equal(second, relu)
    np.testing.assert_array_equal(first, np.concatenate([relu, x, relu], axis=1))
    assert [layer.op for layer in program.layers] == ["Relu", "Concat"]


@pytest.mark.parametrize("axis", [1, 2])
def test_concat_in_bands(axis: int) -> None:
    """Some bands read only one of the inputs."""
    a, b = codes(1, 4, 14, 14), codes(1, 4, 14, 14)
    net = Net()
    names = [net.input("a", (1, 4, 14, 14), Q), net.input("b", (1, 4, 14, 14), Q)]
    shape = (1, 8, 14, 14) if axis == 1 else (1, 4, 28, 14)
    y = net.node("Concat", names, shape, Q, axis=axis)
    (found,), program = outputs(net.graph(y), SMALL, {"a": a, "b": b})
    assert program.notes["banded_layers"] == 1
    np.testing.assert_array_equal(found, np.concatenate([a, b], axis=axis))
