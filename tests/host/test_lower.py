"""Convolutions and matrix products: every element equals a direct integer computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized import OVERLAYS, SMALL, WIDE, Net, codes, convolve, finish, on_accelerator, outputs
from quantized import scale as quant

from weft import isa
from weft.errors import CapacityError, ModelError, ShapeError, UsageError
from weft.graph import Graph, Quant
from weft.lower import lower, preflight
from weft.program import AcceleratorSegment, HostSegment
from weft.units import requant

MODES = st.sampled_from(isa.MODES)
ZEROS = st.sampled_from([-128, -7, 0, 3, 127])
QUICK = settings(max_examples=40, deadline=None)


def weights(*shape: int, axis: int = 0, wide: bool = False) -> tuple[Any, Quant]:
    rng = np.random.default_rng(sum(shape))
    limit = 256 if wide else 128
    data = rng.integers(-limit + 1, limit, shape).astype(np.int16 if wide else np.int8)
    scales = rng.uniform(0.001, 0.02, shape[axis]).astype(np.float32)
    return data, Quant(scales, 0, axis)


def real(x: Quant, w: Quant, y: Quant, mode: str) -> Any:
    return requant.combined_scale(x.scale, w.scale, y.scale, mode)


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilations = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, 3)) for _ in range(4)]
    size = [
        draw(st.integers(max(1, span[axis] - pads[axis] - pads[2 + axis]), 12)) for axis in range(2)
    ]
    group = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return {
        "size": (draw(st.integers(1, 7)) * group, *size),
        "outputs": draw(st.integers(1, 7)) * group,
        "kernel": kernel,
        "strides": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "pads": pads,
        "dilations": dilations,
        "group": group,
    }


@QUICK
@given(convolutions(), ZEROS, ZEROS, MODES, st.sampled_from(OVERLAYS), st.booleans(), st.booleans())
def test_conv(
    case: dict[str, Any],
    zx: int,
    zy: int,
    mode: str,
    overlay: Any,
    wide: bool,
    inner: bool,
) -> None:
    """`inner` puts a copy in front, so that the host can't gather taps."""
    channels = case["size"][0]
    x_quant, y_quant = quant(0.07, zx), quant(0.9, zy)
    depth = channels // case["group"]
    data, w_quant = weights(case["outputs"], depth, *case["kernel"], wide=wide)
    bias = np.arange(case["outputs"], dtype=np.int32) * 37 - 50
    x = codes(3, *case["size"])
    sums = convolve(
        x, zx, data, case["strides"], case["pads"], case["dilations"], case["group"]
    ) + bias.reshape(-1, 1, 1)
    net = Net()
    name = net.input("x", (1, *case["size"]), x_quant)
    if inner:
        name = net.node("Clip", [name], (1, *case["size"]), x_quant, min=-100.0, max=100.0)
    attrs = {key: list(case[key]) for key in ("strides", "pads", "dilations")}
    operands = [name, net.constant("w", data, w_quant), net.constant("b", bias)]
    y = net.node(
        "Conv", operands, (1, *sums.shape[1:]), y_quant, group=case["group"], requant=mode, **attrs
    )
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    assert on_accelerator(program)
    np.testing.assert_array_equal(
        found, finish(sums, real(x_quant, w_quant, y_quant, mode), y_quant, mode)
    )


@QUICK
@given(
    st.sampled_from([3, 4, 8, 20]),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(3, 9),
    ZEROS,
    st.sampled_from(OVERLAYS),
)
def test_depthwise(
    channels: int, kernel: int, multiplier: int, size: int, zx: int, overlay: Any
) -> None:
    x_quant, y_quant = quant(0.05, zx), quant(0.3, -4)
    out = channels * multiplier
    data, w_quant = weights(out, 1, kernel, kernel)
    x = codes(2, channels, size + 1, size)
    sums = convolve(x, zx, data, (1, 2), (1, 0, 0, 1), (1, 1), channels)
    net = Net()
    operands = [net.input("x", (1, *x.shape[1:]), x_quant), net.constant("w", data, w_quant), ""]
    attrs = {"strides": [1, 2], "pads": [1, 0, 0, 1], "group": channels}
    y = net.node("Conv", operands, (1, *sums.shape[1:]), y_quant, **attrs)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    scales = real(x_quant, w_quant, y_quant, "single_round")
    np.testing.assert_array_equal(found, finish(sums, scales, y_quant))
    engine = "vector" if multiplier == 1 else "systolic"
    assert [layer.engine for layer in program.layers] == [engine]
    assert program.layers[0].macs == data.size * sums.shape[2] * sums.shape[3]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize(
    ("activation", "low", "high", "slope"),
    [
        (("Relu",), -9, 127, None),
        (("Clip", -1.0, 2.0), -14, 1, None),
        (("Clip", 0.0, 6.0), -9, 21, None),
        (("LeakyRelu", 0.1), -128, 127, 0.1),
        (("PRelu", tuple(0.1 * i - 0.2 for i in range(6))), -128, 127, np.arange(6) * 0.1 - 0.2),
    ],
    ids=lambda a: a[0] if isinstance(a, tuple) else "",
)
def test_fused_activation(overlay: Any, activation: Any, low: int, high: int, slope: Any) -> None:
    x_quant, y_quant = quant(0.05, 5), quant(0.2, -9)
    data, w_quant = weights(6, 5, 3, 3)
    x = codes(2, 5, 6, 6)
    sums = convolve(x, 5, data, (1, 1), (1, 1, 1, 1), (1, 1))
    net = Net()
    operands = [net.input("x", (1, 5, 6, 6), x_quant), net.constant("w", data, w_quant), ""]
    y = net.node("Conv", operands, (1, 6, 6, 6), y_quant, pads=[1, 1, 1, 1], activation=activation)
    (found,), _ = outputs(net.graph(y), overlay, {"x": x})
    scales = real(x_quant, w_quant, y_quant, "single_round")
    np.testing.assert_array_equal(
        found, finish(sums, scales, y_quant, low=low, high=high, slope=slope)
    )


@QUICK
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 3),
    ZEROS,
    MODES,
    st.booleans(),
    st.sampled_from(OVERLAYS),
)
def test_linear(
    k: int, n: int, positions: int, zx: int, mode: str, wide: bool, overlay: Any
) -> None:
    x_quant, y_quant = quant(0.05, zx), quant(0.2, 6)
    data, w_quant = weights(k, n, axis=1, wide=wide)
    shape = (k,) if positions == 1 else (positions, k)
    x = codes(5, *shape)
    sums = (x.astype(np.int64) - zx) @ data.astype(np.int64)
    net = Net()
    operands = [net.input("x", (1, *shape), x_quant), net.constant("w", data, w_quant), ""]
    y = net.node("Linear", operands, (1, *sums.shape[1:]), y_quant, requant=mode)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    last = np.moveaxis(sums, -1, 1)
    expected = finish(last, real(x_quant, w_quant, y_quant, mode), y_quant, mode)
    np.testing.assert_array_equal(found, np.moveaxis(expected, 1, -1))
    assert program.layers[0].macs == positions * k * n
    assert program.layers[0].weight_bytes == k * n


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)])
def test_linear_behind_a_flattened_map(overlay: Any, order: tuple[int, ...]) -> None:
    """Weights are permuted when compiling, for whatever order the map is flattened in."""
    x_quant, m_quant, y_quant = quant(0.05, 3), quant(0.2, -8), quant(0.7, 1)
    conv, c_quant = weights(6, 3, 2, 2)
    data, w_quant = weights(6 * 4 * 3, 5, axis=1)
    x = codes(3, 3, 5, 4)
    middle = finish(
        convolve(x, 3, conv, (1, 1), (0, 0, 0, 0), (1, 1)),
        real(x_quant, c_quant, m_quant, "single_round"),
        m_quant,
    )
    flat = middle.transpose(order).reshape(3, -1).astype(np.int64) + 8
    expected = finish(
        flat @ data.astype(np.int64), real(m_quant, w_quant, y_quant, "single_round"), y_quant
    )
    net = Net()
    operands = [net.input("x", (1, 3, 5, 4), x_quant), net.constant("c", conv, c_quant), ""]
    m = net.node("Conv", operands, (1, 6, 4, 3), m_quant)
    turned = [(1, 6, 4, 3)[i] for i in order]
    m = net.node("Transpose", [m], turned, m_quant, perm=list(order))
    m = net.node("Reshape", [m], (1, 72), m_quant, shape=[1, 72])
    y = net.node("Linear", [m, net.constant("w", data, w_quant), ""], (1, 5), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    assert on_accelerator(program)
    assert len(program.segments) == 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
def test_image_flattened_by_the_host_fills_the_lanes(overlay: Any) -> None:
    x_quant, y_quant = quant(0.05, 3), quant(0.7, 1)
    data, w_quant = weights(49, 5, axis=1)
    x = codes(3, 1, 7, 7)
    net = Net()
    m = net.input("x", (1, 1, 7, 7), x_quant)
    m = net.node("Reshape", [m], (1, 49), x_quant, shape=[1, 49])
    y = net.node("Linear", [m, net.constant("w", data, w_quant), ""], (1, 5), y_quant)
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    sums = (x.reshape(3, -1).astype(np.int64) - 3) @ data.astype(np.int64)
    scales = real(x_quant, w_quant, y_quant, "single_round")
    np.testing.assert_array_equal(found, finish(sums, scales, y_quant))
    assert program.regions["x"].layout.words(overlay.lanes) == -(-49 // overlay.lanes)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("channels", [2, 9])
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
def test_conv_over_one_axis(kernel: int, channels: int, overlay: Any) -> None:
    x_quant, y_quant = quant(0.05, 3), quant(0.4, 1)
    data, w_quant = weights(7, channels, kernel)
    x = codes(2, channels, 20)
    sums = convolve(x[:, :, :, None], 3, data[:, :, :, None], (2, 1), (2, 0, 1, 0), (1, 1))[..., 0]
    net = Net()
    operands = [net.input("x", (1, channels, 20), x_quant), net.constant("w", data, w_quant), ""]
    y = net.node("Conv", operands, (1, *sums.shape[1:]), y_quant, strides=[2], pads=[2, 1])
    (found,), program = outputs(net.graph(y), overlay, {"x": x})
    assert on_accelerator(program)
    scales = real(x_quant, w_quant, y_quant, "single_round")
    np.testing.assert_array_equal(found, finish(sums, scales, y_quant))


def chain(size: int = 8, channels: int = 6, layers: int = 3) -> tuple[Graph, Any]:
    """Convolutions one after another, and a function that computes their codes."""
    q = [quant(0.05, 3), *(quant(0.2 + 0.1 * i, i - 3) for i in range(layers))]
    net = Net()
    name = net.input("x", (1, channels, size, size), q[0])
    steps = []
    for i in range(layers):
        data, w_quant = weights(channels, channels, 3, 3)
        operands = [name, net.constant(f"w{i}", data, w_quant), ""]
        shape = (1, channels, size, size)
        name = net.node("Conv", operands, shape, q[i + 1], pads=[1, 1, 1, 1])
        steps.append((data, w_quant, q[i], q[i + 1]))

    def reference(x: Any) -> Any:
        for data, w_quant, a, b in steps:
            sums = convolve(x, a.zero_point, data, (1, 1), (1, 1, 1, 1), (1, 1))
            x = finish(sums, real(a, w_quant, b, "single_round"), b)
        return x

    return net.graph(name), reference


@pytest.mark.parametrize("batch", [None, 1, 2, 5, 16])
def test_batch(batch: int | None) -> None:
    graph, reference = chain(size=4)
    x = codes(19, 6, 4, 4)
    (found,), program = outputs(graph, WIDE, {"x": x}, batch=batch)
    assert program.batch == (batch or 16)  # 256 accumulator rows over 4·4 positions
    np.testing.assert_array_equal(found, reference(x))


@pytest.mark.parametrize("size", [8, 11, 16, 23])
def test_maps_too_large_for_the_buffer_are_cut_into_bands(size: int) -> None:
    """512 words of 4 lanes: 6 channels of 23·23 take 1,058 words."""
    graph, reference = chain(size=size)
    x = codes(2, 6, size, size)
    (found,), program = outputs(graph, SMALL, {"x": x})
    np.testing.assert_array_equal(found, reference(x))
    assert program.batch == 1
    assert (program.notes["banded_layers"] > 0) == (size >= 16)
    assert (len(program.segments) > 1) == (size > 11)


def test_row_too_large_names_the_layer_and_the_words() -> None:
    graph, _ = chain(size=90)
    with pytest.raises(CapacityError, match=r"Conv_0.* 720 words.*'4x4' has 512.*720.*edge.*lab"):
        lower(graph, SMALL)


def test_batch_too_large_says_what_fits() -> None:
    graph, _ = chain(size=8)
    with pytest.raises(CapacityError, match=r"batch = 9.*512.*batch=\d"):
        lower(graph, SMALL, batch=9)
    with pytest.raises(CapacityError, match=r"batch = 65.*64 rows"):
        lower(graph, SMALL, batch=65)
    with pytest.raises(UsageError, match="batch = 0"):
        lower(graph, SMALL, batch=0)


def test_overlap_is_in_every_matmul() -> None:
    graph, _ = chain(size=4)
    for overlap in (False, True):
        (segment,) = lower(graph, WIDE, overlap=overlap).segments
        assert isinstance(segment, AcceleratorSegment)
        seen = [isa.decode(words) for words in segment.words]
        found = {f["overlap"] for kind, f in seen if kind is isa.MAT_MUL}
        assert found == {int(overlap)}


def test_one_segment_for_what_fits_and_it_ends_with_a_barrier() -> None:
    graph, _ = chain(size=4)
    program = lower(graph, WIDE)
    (segment,) = program.segments
    assert isinstance(segment, AcceleratorSegment)
    kinds = [isa.decode(words)[0] for words in segment.words]
    assert kinds.count(isa.READ_HOST) == kinds.count(isa.WRITE_HOST) == 1
    assert kinds.count(isa.READ_WEIGHTS) == kinds.count(isa.MAT_MUL) == 3
    assert kinds[-1] is isa.BARRIER
    assert len(segment.layers) == len(segment.words)
    assert (segment.inputs, segment.outputs) == (("x",), ("t2",))


def test_softmax_stays_with_the_host_and_preflight_says_so() -> None:
    graph, reference = chain(size=4, layers=1)
    soft = quant(1 / 256, -128)
    net = Net(dict(graph.tensors), list(graph.nodes), list(graph.inputs))
    y = net.node("Softmax", ["t0"], (1, 6, 4, 4), soft, axis=1)
    whole = net.graph(y)
    rows = [(row.name, row.where, row.engine) for row in preflight(whole, WIDE)]
    assert rows == [("Conv_0", "accelerator", "systolic"), ("Softmax_1", "host", "numpy")]
    program = lower(whole, WIDE)
    first, second = program.segments
    assert isinstance(first, AcceleratorSegment)
    assert isinstance(second, HostSegment)
    assert "Softmax" in second.reason
    x = codes(2, 6, 4, 4)
    (found,), _ = outputs(whole, WIDE, {"x": x})
    middle = net.tensors["t0"].quant.dequantize(reference(x))
    e = np.exp(middle - middle.max(axis=1, keepdims=True))
    np.testing.assert_array_equal(found, soft.quantize(e / e.sum(axis=1, keepdims=True)))


def test_preflight_of_a_float_graph() -> None:
    net = Net()
    operands = [net.input("x", (1, 3, 8, 8), None), net.constant("w", np.ones((4, 3, 3, 3)))]  # type: ignore[arg-type]
    y = net.node("Conv", [*operands, ""], (1, 4, 6, 6), None)
    y = net.node("Softmax", [y], (1, 4, 6, 6), None, axis=1)
    assert [row.where for row in preflight(net.graph(y), WIDE)] == ["accelerator", "host"]


def test_float_graph_runs_on_the_host() -> None:
    net = Net()
    x = net.input("x", (1, 4), None)  # type: ignore[arg-type]
    y = net.node("Relu", [x], (1, 4), None)
    program = lower(net.graph(y), WIDE)
    assert [type(s) for s in program.segments] == [HostSegment]
    assert program.memory_rows >= 1


def test_wrong_shape_and_wrong_scale_are_named() -> None:
    data, w_quant = weights(5, 3, 3, 3)
    for shape, y_quant, error in (
        ((1, 5, 7, 7), quant(0.1), ShapeError),
        ((1, 5, 6, 6), quant(0.0), ModelError),
    ):
        net = Net()
        operands = [net.input("x", (1, 3, 8, 8), quant(0.1)), net.constant("w", data, w_quant)]
        y = net.node("Conv", [*operands, ""], shape, y_quant)
        with pytest.raises(error, match="Conv_0"):
            lower(net.graph(y), WIDE)


def test_sum_that_could_overflow_is_refused() -> None:
    k = 1 << 17
    net = Net()
    operands = [
        net.input("x", (1, k), quant(0.1)),
        net.constant("w", np.full((k, 1), 127, np.int8), quant(0.1)),
    ]
    y = net.node("Linear", [*operands, ""], (1, 1), quant(0.1))
    with pytest.raises(CapacityError, match=f"Linear_0.*K = {k}"):
        lower(net.graph(y), WIDE)


DYNAMIC = [(None, 2), (("Relu",), 2), (("PRelu", (0.1, 0.2, 0.3, 0.4, 0.5)), 3), (None, 4)]


@pytest.mark.parametrize(("activation", "rank"), DYNAMIC)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda o: o.name)
def test_dynamic_linear(activation: Any, rank: int, overlay: Any) -> None:
    """Rows find their own scales; the sums reach float32 whole, and rounded once."""
    data, w_quant = weights(700, 5, axis=1)
    data = np.abs(data)  # all of one sign: sums beyond 2**24 / 127
    rng = np.random.default_rng(rank)
    x = rng.normal(0, 1, (3, *(2, 2)[: rank - 2], 700)).astype(np.float32)
    x[0], x[1] = 1, -3
    x[2].flat[:700] = 0
    bias = rng.normal(0, 1, 5).astype(np.float32)
    net = Net()
    name = net.input("x", (1, *x.shape[1:]), None)  # type: ignore[arg-type]
    operands = [name, net.constant("w", data, w_quant), net.constant("b", bias)]
    y = net.node(
        "Linear", operands, (1, *x.shape[1:-1], 5), None, dynamic=True, activation=activation
    )
    (found,), program = outputs(net.graph(y), overlay, {"x": x})  # type: ignore[dict-item]
    scales = np.maximum(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127), 2.0**-60)
    q = np.rint(x / scales.astype(np.float32)).astype(np.int64)
    sums = q @ data.astype(np.int64)
    assert np.abs(sums).max() > 1 << 22
    expected = sums.astype(np.float32) * scales.astype(np.float32) * w_quant.scale + bias
    if activation:
        slopes = np.float32(0) if activation[0] == "Relu" else np.float32(activation[1])
        expected = np.where(expected < 0, expected * slopes, expected)
    np.testing.assert_array_equal(found, expected)
    assert [layer.macs for layer in program.layers] == [700 * 5 * 2 ** (rank - 2)]
