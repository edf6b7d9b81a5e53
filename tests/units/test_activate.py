"""The epilogue: every mode, extremes, PReLU, lookup, raw bytes, a second drain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import NANO, OVERLAYS, Code
from weft import isa
from weft.config import load_overlay

LOW, HIGH = -(1 << 31), (1 << 31) - 1
seeds = st.integers(0, 2**32 - 1)


def matmul(code, rows=1, tiles=1):
    """A 1×1 MatMul over `rows` words from word 0 on."""
    f = kernel.simple_window(1, rows) | kernel.strides("source", (1, 1, rows))
    return code.add(isa.MAT_MUL, **f, blocks=1, tiles=tiles, first=1, last=1, overlap=1)


def rounded(x: int, q: int, s: int, mode: int) -> int:
    """Requantization by the definitions of gemmlowp, TFLite and ONNX Runtime, in Python's ints."""
    if mode == 0:
        y = (x * q + (1 << (30 - s))) >> (31 - s)
    elif mode == 1:
        shifted = min(max(x << max(s, 0), LOW), HIGH)
        product = shifted * q
        nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
        high = -(-nudged >> 31) if nudged < 0 else nudged >> 31
        high, right = min(high, HIGH), max(-s, 0)
        rest, mask = high & ((1 << right) - 1), (1 << right) - 1
        y = (high >> right) + (rest > (mask >> 1) + (high < 0))
    else:
        y = round(float(np.float32(x) * np.int32(q).view(np.float32)))  # half to even
    return min(max(y, LOW), HIGH)


@pytest.mark.parametrize("mode", range(3), ids=isa.MODES)
@given(seed=seeds)
@kernel.examples(12)
def test_codes_are_the_formulas(mode, seed):
    """sum + bias → scale (another below zero) → + zero point → clamp, lane by lane."""
    rng, overlay = np.random.default_rng(seed), OVERLAYS["4x4"]
    values = kernel.parameters(rng, overlay.lanes, mode)
    bias, q, s, negative_q, negative_s = values
    code = kernel.set_parameters(Code(overlay), values)
    tile = kernel.codes(rng, overlay.rows, overlay.lanes)
    content = kernel.codes(rng, 3, overlay.lanes)
    zero, (low, high) = int(rng.integers(-128, 128)), sorted(rng.integers(-128, 128, 2).tolist())
    matmul(code.feed(tile), rows=3)
    clamp = {"mode": mode, "zero_point": zero, "low": low, "high": high}
    code.add(isa.ACTIVATE, target=3, target_col=1, **clamp)
    words = kernel.check(code, content)
    x = content.astype(np.int64) @ tile.astype(np.int64) + bias
    x = (x - LOW) % (1 << 32) + LOW
    for row, lane in np.ndindex(3, overlay.lanes):
        below = x[row, lane] < 0
        factor = int((negative_q if below else q)[lane])
        shift = int((negative_s if below else s)[lane])
        y = rounded(int(x[row, lane]), factor, shift, mode) + zero
        assert words[3 + row, lane] == min(max(y, low), high)


@pytest.mark.parametrize("mode", range(3), ids=isa.MODES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_extreme_sums_multipliers_and_shifts(name, mode):
    """Tables may hold any bytes: shifts beyond -31..30, infinities, every corner of int32."""
    rng, overlay = np.random.default_rng(mode), OVERLAYS[name]
    blocks, lanes = overlay.parameter_blocks, overlay.lanes
    edges = np.array([LOW, LOW + 1, -(1 << 24) - 1, -1, 0, 1, 1 << 30, HIGH, 0x7F800000], np.int32)
    size = blocks * lanes
    shifts = rng.choice(np.array([-128, -32, -31, -1, 0, 1, 30, 31, 127], np.int8), (2, size))
    for multipliers in (edges, rng.integers(LOW, HIGH, 64, np.int32)):
        bias, q, n = (rng.choice(edges, size), *rng.choice(multipliers, (2, size)))
        code = kernel.set_parameters(Code(overlay), (bias, q, shifts[0], n, shifts[1]))
        code.feed(kernel.codes(rng, blocks * overlay.rows, lanes))
        matmul(code, rows=2, tiles=blocks)
        where = {"target": 2, "target_col": 1, "target_block": 2, "parameter_step": 1}
        code.add(isa.ACTIVATE, **where, mode=mode, low=-128, high=127)
        kernel.check(code, kernel.codes(rng, 2, lanes))


@pytest.mark.parametrize("name", OVERLAYS)
@given(seed=seeds)
@kernel.examples(5)
def test_lookup_maps_each_lane_by_its_own_table(name, seed):
    rng, overlay = np.random.default_rng(seed), OVERLAYS[name]
    code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, overlay.lanes))
    table = rng.integers(-128, 128, (256, overlay.lanes)).astype(np.int8)
    code.feed(table).add(isa.SET_TABLE, target=2, index=0, count=256)
    matmul(code.feed(kernel.codes(rng, overlay.rows, overlay.lanes)), rows=5)
    for target, lookup in ((5, 0), (10, 1)):
        clamp = {"low": -128, "high": 127, "lookup": lookup}
        code.add(isa.ACTIVATE, target=target, target_col=1, **clamp)
    words = kernel.check(code, kernel.codes(rng, 5, overlay.lanes))
    lane = np.arange(overlay.lanes)
    np.testing.assert_array_equal(table[words[5:10].astype(int) + 128, lane], words[10:15])


def test_bounds_the_wrong_way_round_give_the_upper_one():
    code = kernel.set_parameters(Code(OVERLAYS["8x8"]), (0, 0, 0, 0, 0))
    code.feed(np.zeros((8, 8)))
    matmul(code)
    code.add(isa.ACTIVATE, target=1, low=50, high=-50)
    assert (kernel.check(code)[1] == -50).all()


@given(seed=seeds)
@kernel.examples(3)
def test_the_exact_form_agrees(seed):
    rng = np.random.default_rng(seed)
    for mode in range(3):
        code = kernel.set_parameters(Code(NANO), kernel.parameters(rng, 4, mode))
        matmul(code.feed(kernel.codes(rng, 4, 4)), rows=4)
        code.add(isa.ACTIVATE, target=4, target_col=1, mode=mode, low=-128, high=127)
        kernel.drain_raw(code, 8, 4, target_col=1)
        kernel.check(code, kernel.codes(rng, 4, 4), forms=("exact", *kernel.FORMS))


def test_a_second_drain_takes_its_clocks():
    code = kernel.set_parameters(
        Code(OVERLAYS["8x8p"]), kernel.parameters(np.random.default_rng(1), 8)
    )
    matmul(code.feed(np.ones((8, 8))), rows=6)
    kernel.drain_raw(code, 6, 6, target_col=1)
    _, result = kernel.run(code)
    assert result.counters["vector"] == 3 * 6  # the first runs along with MatMul
    kernel.check(code, np.ones((6, 8), np.int8))


def test_lab_agrees():
    rng, overlay = np.random.default_rng(9), load_overlay("lab")
    code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, 16, 2))
    matmul(code.feed(kernel.codes(rng, 16, 16)), rows=9)
    code.add(isa.ACTIVATE, target=9, target_col=1, mode=2, low=-128, high=127)
    kernel.check(code, kernel.codes(rng, 9, 16))
