"""Requantization: the definition's own integers, published vectors, and ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from weft.errors import InputError, UsageError
from weft.isa import MODES, PARAMETER_ROWS
from weft.units.requant import (
    combined_scale,
    decode,
    encode,
    pack_parameters,
    requantize,
    unpack_parameters,
)

LOW, HIGH = -(1 << 31), (1 << 31) - 1
EDGES = [LOW, LOW + 1, -(1 << 30), -(1 << 24) - 1, -1, 0, 1, (1 << 24) + 1, 1 << 30, HIGH - 1, HIGH]

int32s = st.one_of(st.integers(LOW, HIGH), st.sampled_from(EDGES), st.integers(-5000, 5000))
magnitudes = st.builds(math.ldexp, st.floats(0.5, 1, exclude_max=True), st.integers(-34, 30))
scales = st.one_of(
    magnitudes,
    magnitudes.map(lambda m: -m),
    st.integers(-32, 29).map(lambda e: 2.0**e),
    st.just(0.0),
)


def one(x: int, scale: float, mode: str) -> int:
    return int(requantize(x, *encode(scale, mode), mode))


# The formulas of the definition, in Python's unbounded integers.


def saturate(y: int) -> int:
    return min(max(y, LOW), HIGH)


def srdhm(a: int, b: int) -> int:
    if a == b == LOW:
        return HIGH
    total = a * b + (1 << 30 if a * b >= 0 else 1 - (1 << 30))
    return -(-total >> 31) if total < 0 else total >> 31


def rdpot(x: int, exponent: int) -> int:
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def literal(x: int, q: int, s: int, mode: str) -> int:
    if mode == "double_round":
        return rdpot(srdhm(saturate(x << max(s, 0)), q), max(-s, 0))
    return saturate((x * q + (1 << (30 - s))) >> (31 - s))


@pytest.mark.parametrize("mode", ["single_round", "double_round"])
@given(x=int32s, scale=scales)
def test_integer_modes_are_their_formulas(mode: str, x: int, scale: float) -> None:
    multiplier, shift = encode(scale, mode)
    assert one(x, scale, mode) == literal(x, int(multiplier), int(shift), mode)


@pytest.mark.parametrize("mode", ["single_round", "double_round"])
@given(
    x=int32s,
    q=st.sampled_from([LOW, LOW + 1, -(1 << 30), 0, 1 << 30, HIGH]),
    s=st.integers(-31, 30),
)
def test_integer_modes_with_every_shift_and_extreme_multipliers(
    mode: str, x: int, q: int, s: int
) -> None:
    assert int(requantize(x, q, s, mode)) == literal(x, q, s, mode)


@given(x=int32s, scale=scales)
def test_float_even_rounds_the_float32_product(x: int, scale: float) -> None:
    product = np.float64(np.float32(x)) * np.float64(np.float32(scale))  # exact in float64
    assert one(x, scale, "float_even") == saturate(round(float(np.float32(product))))


@pytest.mark.parametrize("mode", MODES)
@given(x=int32s, scale=scales)
def test_result_is_within_one_and_a_half_of_the_real_product(
    mode: str, x: int, scale: float
) -> None:
    real = min(max(x * scale, LOW), HIGH)
    left = max(int(encode(scale, "double_round")[1]), 0)
    if mode == "double_round" and not LOW <= x << left <= HIGH:
        return  # x << s saturates: the definition says so
    tolerance = 1.5 + abs(real) * 2.0**-22
    assert abs(one(x, scale, mode) - real) <= tolerance


VECTORS = {  # scale: {x: (double_round, single_round, float_even)}
    2.0**-8: {
        127: (1, 0, 0),
        128: (1, 1, 0),
        383: (2, 1, 1),
        384: (2, 2, 2),
        640: (3, 3, 2),
        -128: (-1, 0, 0),
        -384: (-2, -1, -2),
        -640: (-3, -2, -2),
    },
    0.0003: {
        5000: (2, 1, 2),
        -5000: (-2, -1, -2),
        1666: (1, 0, 0),
        1667: (1, 1, 1),
        -1667: (-1, -1, -1),
        100000: (30, 30, 30),
        HIGH: (644245, 644245, 644245),
        LOW: (-644245, -644245, -644245),
    },
    1.5: {
        1: (2, 2, 2),
        3: (5, 5, 4),
        5: (8, 8, 8),
        -1: (-1, -1, -2),
        -3: (-4, -4, -4),
        -5: (-7, -7, -8),
    },
}


@pytest.mark.parametrize("scale", VECTORS)
def test_published_vectors(scale: float) -> None:
    x = np.array(list(VECTORS[scale]), np.int32)
    for column, mode in enumerate(("double_round", "single_round", "float_even")):
        expected = [row[column] for row in VECTORS[scale].values()]
        np.testing.assert_array_equal(requantize(x, *encode(scale, mode), mode), expected, mode)


def test_float_even_loses_bits_above_24() -> None:
    assert [one(16777217, 0.5, m) for m in MODES] == [8388609, 8388609, 8388608]


def test_encodings() -> None:
    for scale, expected in {
        0.0003: (1319413953, -11),
        2.0**-8: (1 << 30, -7),
        1.5: (1610612736, 1),
        -1.5: (-1610612736, 1),
        1 - 2.0**-40: (1 << 30, 1),  # q rounds up to 2**31
        2.0**-32: (1 << 30, -31),
        2.0**-33: (0, 0),
        0.0: (0, 0),
        2.0**30 * (1 - 2.0**-31): (HIGH, 30),
    }.items():
        multiplier, shift = encode(scale, "single_round")
        assert (int(multiplier), int(shift)) == expected, scale
    multiplier, shift = encode(np.float32(0.1), "float_even")
    assert (int(multiplier), int(shift)) == (int(np.float32(0.1).view(np.int32)), 0)


@pytest.mark.parametrize("mode", MODES)
@given(scale=scales)
def test_decode_gives_back_the_scale(mode: str, scale: float) -> None:
    assume(scale < (1 << 30) - 1)  # nearer to 2^30 its multiplier rounds up to it
    again = float(decode(*encode(scale, mode), mode))
    assert abs(again - scale) <= max(abs(scale) * 2.0**-24, 2.0**-32)
    for before, after in zip(encode(scale, mode), encode(again, mode), strict=True):
        assert before == after


@pytest.mark.parametrize("mode", MODES)
@given(x=int32s, scale=st.floats(0, 2.0**-33))
def test_scales_that_underflow_give_zero(mode: str, x: int, scale: float) -> None:
    assert one(x, scale, mode) == 0
    assert one(x, -scale, mode) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("scale", "text"),
    [(math.inf, "inf"), (math.nan, "nan"), (2.0**30, "1.07374e"), (-1e38, "-1e")],
)
def test_impossible_scales_are_named(mode: str, scale: float, text: str) -> None:
    with pytest.raises(InputError, match=f"scale {text}"):
        encode([0.5, scale], mode)


def test_unknown_mode_is_named() -> None:
    for call in (lambda m: encode(1.0, m), lambda m: requantize(1, 1, 1, m)):
        with pytest.raises(UsageError, match=r"Did you mean .*'single_round'"):
            call("single_rond")


def test_modes_disagree_as_often_as_published() -> None:
    x = np.arange(-4096, 4096, dtype=np.int32)
    y = {mode: requantize(x, *encode(2.0**-8, mode), mode) for mode in MODES}
    assert np.count_nonzero(y["double_round"] != y["single_round"]) == 32
    assert np.count_nonzero(y["double_round"] != y["float_even"]) == 32
    assert np.count_nonzero(y["single_round"] != y["float_even"]) == 16


@pytest.mark.parametrize("mode", MODES)
def test_channels_broadcast_along_the_last_axis(mode: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(LOW, HIGH, (3, 5, 7), np.int32, endpoint=True)
    scale = rng.uniform(-1, 1, 7)
    multiplier, shift = encode(scale, mode)
    together = requantize(x, multiplier, shift, mode)
    assert together.shape == x.shape
    for channel in range(7):
        alone = requantize(x[..., channel], multiplier[channel], shift[channel], mode)
        np.testing.assert_array_equal(together[..., channel], alone)


@given(st.data())
def test_parameters_come_back(data: st.DataObject) -> None:
    channels, lanes = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([4, 8, 16]))
    words = st.lists(int32s, min_size=channels, max_size=channels)
    shifts = st.lists(st.integers(-31, 30), min_size=channels, max_size=channels)
    values = [data.draw(s) for s in (words, words, shifts, words, shifts)]
    rows = pack_parameters(*values, lanes)
    blocks = -(-channels // lanes)
    assert rows.shape == (blocks * PARAMETER_ROWS, lanes)
    assert rows.dtype == np.int8
    for before, after in zip(values, unpack_parameters(rows), strict=True):
        np.testing.assert_array_equal(after[:channels], before)
        assert not after[channels:].any()


def test_parameter_rows_are_byte_planes() -> None:
    rows = pack_parameters(0x04030201, 0x08070605, 9, 0x0D0C0B0A, 14, 4)
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, 15))
    assert not rows[:, 1:].any()
    with pytest.raises(InputError, match=r"bias = 2147483648 does not fit int32"):
        pack_parameters([1, HIGH + 1], 1, 0, 1, 0, 4)
    with pytest.raises(InputError, match="shift has 3 values where the others have 4"):
        pack_parameters([1, 2, 3, 4], 1, [0, 0, 0], 1, 0, 4)


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(4))
def test_float_even_equals_onnxruntime(seed: int) -> None:
    """QLinearMatMul: every output of 3072, zero points and per-column scales included."""
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(seed)
    a = rng.integers(-128, 128, (64, 96), np.int8)
    b = rng.integers(-63, 64, (96, 48), np.int8)  # small: no saturation of u8 * s8 pairs
    facts = {
        "a_scale": np.float32(rng.uniform(0.001, 0.1)),
        "a_zero": np.int8(rng.integers(-20, 20)),
        "b_scale": rng.uniform(0.001, 0.1, 48).astype(np.float32),
        "b_zero": np.zeros(48, np.int8),
        "y_scale": np.float32(rng.uniform(0.05, 0.5)),
        "y_zero": np.int8(rng.integers(-20, 20)),
    }
    inputs = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QLinearMatMul", inputs, ["y"])],
        "one",
        [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.INT8, a.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT8, (64, 48))],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in {**facts, "b": b}.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"a": a})

    sums = (a.astype(np.int32) - facts["a_zero"]) @ b.astype(np.int32)
    scale = combined_scale(facts["a_scale"], facts["b_scale"], facts["y_scale"], "float_even")
    y = requantize(sums, *encode(scale, "float_even"), "float_even") + facts["y_zero"]
    np.testing.assert_array_equal(np.clip(y, -128, 127), expected)
