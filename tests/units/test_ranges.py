"""Ranges per row: codes of Norm and sums behind products against loops in Python's integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa
from weft.config import Overlay
from weft.errors import OverlayError
from weft.lint import lint
from weft.state import FaultError
from weft.units import ranges, requant

UNITS = ("requant", "vector", "lookup", "norm", "ranges")
SMALL = Overlay(
    "8x8g", 8, 8, 4, 512, 64, 16, 64, units=UNITS, wide_words=512, norm=("pwl", "ibert", "table")
)
BOTH = replace(
    SMALL, name="8x8ga", units=(*UNITS, "attention"), operand_words=64, norm=("pwl",),
    multiplier="packed", bus_bytes=8,
)  # fmt: skip
NANO = replace(SMALL, name="nanog", rows=4, cols=4, norm=("pwl",), accumulator_rows=16)
OVERLAYS = [SMALL, BOTH]
LARGEST = (1 << 15) - 1


def inside(x, low, high):
    return min(max(x, low), high)


def rounded(x, q, s):
    """single_round in Python's integers."""
    return inside((int(x) * int(q) + (1 << (30 - int(s)))) >> (31 - int(s)), -(1 << 31), 2**31 - 1)


def code_of(x, magnitude):
    """127 · x / magnitude by the unit's quotient: a division of integers, once per row."""
    if magnitude == 0:
        return 0
    mantissa, exponent = magnitude, 0
    while mantissa < 1 << 15:
        mantissa, exponent = mantissa * 2, exponent + 1
    return (x * ((127 << 24) // mantissa) + (1 << (23 - exponent))) >> (24 - exponent)


@given(magnitude=st.integers(0, LARGEST), part=st.floats(-1, 1))
def test_codes_fill_their_range(magnitude, part):
    """The largest element is 127 in every row, and no code is off by more than half a step."""
    x = np.asarray([[magnitude, -magnitude, round(part * magnitude)]], np.int64)
    (found,) = ranges.codes(x, np.asarray([magnitude])).tolist()
    assert found == [code_of(v, magnitude) for v in x[0].tolist()]
    if magnitude:
        assert found[:2] == [127, -127]
        real = x[0] * 127 / magnitude
        assert np.abs(found - real).max() <= 0.5 + 127 / 32512


def rows_of(rng, rows, elements):
    """int16 rows, some of zeros, of the smallest number, with one large element, of any spread."""
    made = []
    for _ in range(rows):
        kind = rng.integers(0, 5)
        spread = rng.normal(0, 10 ** rng.uniform(0, 4), elements)
        hot = np.where(np.arange(elements) == rng.integers(elements), 30000, 0)
        made.append([np.zeros(elements), np.full(elements, -(1 << 15)), hot, spread, spread][kind])
    return np.clip(np.round(made), -(1 << 15), LARGEST).astype(np.int64)


def program(rng, o, x, *, number=0, tiles=2, space=0, down=True, **norm):
    """A Norm with ranges of rows x, whose codes a MatMul reads; the fields of Norm and Activate,
    the weights, and the parameters of both.
    """
    rows, elements = x.shape
    lanes, blocks = o.lanes, -(-elements // o.lanes)
    code = kernel.Code(o)
    channels = blocks * lanes
    q, s = requant.encode(2.0 ** rng.uniform(-3, 3, channels), "single_round")
    gamma, beta = rng.integers(-9999, 9999, channels), rng.integers(-(1 << 19), 1 << 19, channels)
    first = (beta, gamma, rng.integers(8, 14, channels), q, s)
    kernel.set_parameters(code, first)
    f = {"source": 3, "source_col": blocks, "source_block": 1, "rows": rows, "blocks": blocks}
    f |= {"elements": elements, "method": number, "target": 0, "target_col": 1, "keep": 1}
    f |= {"target_block": rows, "low": -127, "high": 127, "rms": int(rng.integers(2)), "ranges": 1}
    f |= norm
    code.add(isa.NORM, **f)
    bias = rng.integers(-9999, 9999, tiles * lanes)
    q2, s2 = requant.encode(2.0 ** rng.uniform(-12, -2, tiles * lanes), "single_round")
    second = (bias, q2, s2)
    kernel.set_parameters(code, (bias, q2, s2, q2, s2), index=blocks)
    weights = kernel.codes(rng, tiles * blocks * lanes, lanes)
    code.feed(weights)
    w = kernel.simple_window(rows, 1) if down else kernel.simple_window(1, rows)
    w |= {"source": 0, "source_block": rows, "source_row": 1, "source_col": 1}
    code.add(isa.MAT_MUL, blocks=blocks, tiles=tiles, first=1, last=1, **w)
    a = {"target": 300, "target_block": rows, "target_row": 1, "target_col": 1, "space": space}
    a |= {"parameter": blocks, "parameter_step": 1, "normalize": 2}
    a |= {"zero_point": 3, "low": -100, "high": 110} if space == 0 else {}
    code.add(isa.ACTIVATE, **a)
    wide = np.zeros((o.wide_words, lanes), np.int16)
    padded = np.full((rows, channels), int(rng.integers(-(1 << 15), 1 << 15)))
    padded[:, :elements] = x
    wide[3 : 3 + rows * blocks] = padded.reshape(-1, lanes)
    return code, wide, f, a, weights.reshape(tiles, channels, lanes), first, second


def memories(o, words):
    """Unified buffer [words, lanes] and wide one."""
    halves = words[o.buffer_words :]
    return words[: o.buffer_words], halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)


def expected_codes(kept, first, elements):
    """(codes [rows][channels], magnitudes) of normalized rows, by loops."""
    _, _, _, q, s = (np.asarray(v).tolist() for v in first)
    codes, magnitudes = [], []
    for row in kept.tolist():
        x = [inside(rounded(y, q[c], s[c]), -LARGEST, LARGEST) for c, y in enumerate(row)]
        magnitudes.append(max(abs(v) for v in x[:elements]))
        codes.append([inside(code_of(v, magnitudes[-1]), -127, 127) for v in x])
    return codes, magnitudes


def expected_outputs(codes, magnitudes, weights, second, a):
    """{(tile, row): lanes} of the product's outputs, by loops."""
    bias, q, s = (np.asarray(v).tolist() for v in second)
    tiles, _, lanes = weights.shape
    sums = np.asarray(codes, np.int64) @ weights.astype(np.int64)  # [tiles, rows, lanes]
    found = {}
    for tile, row in np.ndindex(tiles, len(codes)):
        word = []
        for c in range(lanes):
            n = tile * lanes + c
            part = (int(sums[tile, row, c]) * magnitudes[row] + (1 << 11)) >> 12
            y = rounded(inside(part, -(1 << 31), 2**31 - 1) + bias[n], q[n], s[n])
            ends = (-LARGEST, LARGEST) if a["space"] else (a["low"], a["high"])
            word.append(inside(y + (0 if a["space"] else a["zero_point"]), *ends))
        found[tile, row] = word
    return found


def check(o, x, made, forms=None):
    """Runs a program in every form and holds it against the loops."""
    code, wide, f, a, weights, first, second = made
    rows, elements = x.shape
    words = kernel.check(code, wide=wide, **({"forms": forms} if forms else {}))
    unified, after = memories(o, words)
    kept = after[3 : 3 + rows * f["blocks"]].reshape(rows, -1)
    codes, magnitudes = expected_codes(kept, first, elements)
    for row, block in np.ndindex(rows, f["blocks"]):
        lanes = slice(block * o.lanes, (block + 1) * o.lanes)
        assert unified[block * rows + row].tolist() == codes[row][lanes]
    outputs = expected_outputs(codes, magnitudes, weights, second, a)
    for (tile, row), word in outputs.items():
        at = (after if a["space"] else unified)[a["target"] + tile * rows + row]
        assert at.tolist() == word
    return magnitudes


@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(25)
def test_every_form_is_the_formula(o, seed):
    rng = np.random.default_rng(seed)
    elements, rows = int(rng.integers(1, 40)), int(rng.integers(1, 20))
    x = rows_of(rng, rows, elements)
    number = int(rng.integers(min(2, len(o.norm))))
    space, down = int(rng.choice([0, 2])), bool(rng.integers(2))
    check(o, x, program(rng, o, x, number=number, space=space, down=down))


def test_the_exact_form_computes_alike():
    for space in (0, 2):
        rng = np.random.default_rng(space)
        x = rows_of(rng, 5, 10)
        check(NANO, x, program(rng, NANO, x, space=space), forms=("exact", "functional"))


def test_extreme_rows():
    """Zeros, the smallest number, one large element, and a row beyond what int16 holds."""
    rng = np.random.default_rng(5)
    x = np.zeros((4, 16), np.int64)
    x[1], x[2, 3], x[3] = -(1 << 15), 1, rng.integers(-9, 9, 16)
    made = program(rng, SMALL, x, rms=1)
    code, wide, f, a, weights, _, second = made
    code = kernel.Code(SMALL)
    big = requant.encode(np.full(16, 2.0**20), "single_round")
    first = (np.zeros(16, int), np.full(16, 9000), np.full(16, 8), *big)
    kernel.set_parameters(code, first)
    code.add(isa.NORM, **f)
    kernel.set_parameters(code, (*second, *second[1:]), index=2)
    code.feed(weights.reshape(-1, 8))
    code.add(isa.MAT_MUL, blocks=2, tiles=2, first=1, last=1, **kernel.simple_window(4, 1),
             source_block=4, source_row=1)  # fmt: skip
    code.add(isa.ACTIVATE, **a)
    found = check(SMALL, x, (code, wide, f, a, weights, first, second))
    assert found == [0, LARGEST, LARGEST, LARGEST]


def test_a_table_gives_codes_of_ranges_too():
    rng = np.random.default_rng(1)
    x = rows_of(rng, 6, 13)
    code, wide, *_ = program(rng, SMALL, x, number=2)
    kernel.check(code, wide=wide)


def test_a_second_activate_and_matvec_of_few_rows_take_the_magnitudes():
    rng = np.random.default_rng(3)
    x = rows_of(rng, 5, 16)
    code, wide, _, a, *_ = program(rng, SMALL, x, tiles=1)
    code.add(isa.ACTIVATE, **(a | {"target": 400, "normalize": 0}))
    code.add(isa.ACTIVATE, **(a | {"target": 420}))
    words = kernel.check(code, wide=wide)
    np.testing.assert_array_equal(words[300:305], words[420:425])
    assert (words[300:305] != words[400:405]).any()


def test_clocks_are_three_per_word():
    rng = np.random.default_rng(1)
    code = kernel.set_parameters(kernel.Code(SMALL), kernel.parameters(rng, 32))
    f = {"rows": 7, "blocks": 4, "elements": 30, "source_col": 4, "source_block": 1}
    code.add(isa.NORM, **f, target_col=4, target_block=1, ranges=1)
    _, result = kernel.run(code)
    assert dict(result.counters)["vector"] == 3 * 7 * 4


NORM = {"rows": 4, "blocks": 1, "elements": 8, "source_col": 1, "target_col": 1, "high": 127}
BAD = {
    "without magnitudes": ({"ranges": 0}, {}, {}, 6),
    "of more rows": ({"rows": 5}, {}, {}, 6),
    "of a map": ({}, {"out_h": 2, "out_w": 2, "height": 2, "width": 2}, {}, 6),
    "neither": ({}, {}, {"normalize": 3}, 2),
    "by sums": ({}, {}, {"normalize": 1}, 2),
    "along the columns": ({}, {"out_h": 1, "out_w": 4, "height": 1, "width": 4}, {}, 0),
    "as they are": ({}, {}, {}, 0),
}


def products(o, norm, window, activate):
    """A Norm and a MatMul of its codes."""
    rng = np.random.default_rng(2)
    code = kernel.set_parameters(kernel.Code(o), kernel.parameters(rng, 8))
    code.add(isa.NORM, **(NORM | {"ranges": 1} | norm))
    code.feed(kernel.codes(rng, 8, 8))
    w = kernel.simple_window(4, 1) | {"source_row": 1} | window
    code.add(isa.MAT_MUL, blocks=1, tiles=1, first=1, last=1, **w)
    where = {"target": 100, "target_row": 1, "target_col": 1, "normalize": 2}
    return code.add(isa.ACTIVATE, **(where | activate))


def status_of(code, device, **options):
    """0, or the status that a run ends with."""
    try:
        kernel.run(code, device, **options)
    except FaultError as error:
        return error.status
    return 0


@pytest.mark.parametrize("case", BAD)
def test_bad_instructions_end_with_the_same_status(case):
    norm, window, activate, status = BAD[case]
    code = products(SMALL, norm, window, activate)
    for device in ("golden", "csim"):
        assert status_of(code, device) == status, device


def test_without_the_unit_there_are_no_ranges():
    o = replace(SMALL, name="8x8gn", units=UNITS[:-1])
    for device in ("golden", "csim"):
        assert status_of(products(o, {}, {}, {}), device) == 2
        assert status_of(products(o, {"ranges": 0}, {}, {}), device) == 2
        assert status_of(products(o, {"ranges": 0}, {}, {"normalize": 0}), device) == 0
    with pytest.raises(OverlayError, match="unit ranges makes them of what unit norm gives"):
        replace(SMALL, units=("requant", "vector", "lookup", "ranges")).verify()


def test_the_hardware_is_clean():
    ours = ("normalize.hpp", "ranges.hpp", "rows.hpp", "writer.hpp")
    assert [str(f) for f in lint(SMALL) if f.file.rpartition("/")[2] in ours] == []
