"""Norm: golden against real norms and HG-PIPE's formulas, every simulation against golden."""

import math
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import kernel

from weft import build, codegen, isa
from weft.config import Overlay
from weft.errors import OverlayError, UsageError
from weft.lint import lint
from weft.nonlinear import method
from weft.state import FaultError
from weft.units import requant, root

UNITS = ("requant", "vector", "lookup", "norm")
SMALL = Overlay(
    "8x8n", 8, 8, 4, 512, 64, 16, 64, units=UNITS, wide_words=512,
    norm=("pwl", "ibert", "table", "nnlut", "pwl2"),
)  # fmt: skip
PACKED = replace(SMALL, name="8x8np", bus_bytes=8, multiplier="packed", norm=("pwl",))
ROOTS = replace(SMALL, name="8x8nr", norm=("lut", "shift", "dlc"))
TABLES = replace(SMALL, name="8x8nt", norm=("table",))
NANO = Overlay(
    "nanon", 4, 4, 4, 64, 16, 4, 16, units=UNITS, wide_words=64, norm=("pwl", "ibert", "table")
)  # fmt: skip
OVERLAYS = [SMALL, PACKED, ROOTS, TABLES]


def rows_of(rng, rows, elements):
    """int16 rows; now and then constant, extreme, one-hot or around a large mean."""
    kind = rng.integers(0, 7)
    if kind == 0:
        return np.repeat(rng.integers(-(1 << 15), 1 << 15, (rows, 1)), elements, 1)
    if kind == 1:
        return rng.choice([-(1 << 15), (1 << 15) - 1], (rows, elements))
    if kind == 2:
        hot = np.arange(elements) == rng.integers(elements)
        return np.tile(np.where(hot, 30000, 0), (rows, 1))
    if kind == 3:
        return rng.integers(-3, 4, (rows, elements)) + 32000
    spread = 10 ** rng.uniform(0, 4)
    return np.clip(np.round(rng.normal(0, spread, (rows, elements))), -(1 << 15), (1 << 15) - 1)


def norm_parameters(rng, channels, table):
    """What a parameter block holds; the table method reads it as HG-PIPE's lnw, lnb and s2."""
    if table:
        lnb = rng.integers(-(1 << 40), 1 << 40, channels)
        lnw = rng.integers(-(1 << 17), 1 << 17, channels)
        low = (lnb & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        return (low, lnw, np.zeros(channels, int), lnb >> 32, np.zeros(channels, int))
    q, s = requant.encode(2.0 ** rng.uniform(-12, -2, channels), "single_round")
    gamma = rng.integers(-(1 << 15), 1 << 15, channels)
    beta = rng.integers(-(1 << 25), 1 << 25, channels)
    return (beta, gamma, rng.integers(-2, 20, channels), q, s)


def norm_words(source, col, block, rows, blocks):
    """Addresses [rows, blocks] of a norm's input."""
    row, k = np.ogrid[:rows, :blocks]
    return source + row * col + k * block


def placed(o, x, f, junk):
    """The wide buffer with rows x; `junk` in the lanes beyond their elements."""
    rows, elements = x.shape
    padded = np.full((rows, f["blocks"] * o.lanes), junk)
    padded[:, :elements] = x
    wide = np.zeros((o.wide_words, o.lanes), np.int16)
    at = norm_words(f["source"], f["source_col"], f["source_block"], rows, f["blocks"])
    wide[at] = padded.reshape(rows, f["blocks"], o.lanes).astype(np.int16)
    return wide


def table_words(rng):
    """Words of HG-PIPE's LayerNorm: index, entries, the mean's multiplier and shift, the shift."""
    entries = np.sort(rng.integers(0, 1 << 16, root.TABLE_ENTRIES))[::-1]
    index = [int(rng.integers(-(1 << 20), 1 << 10)), int(rng.integers(1, 128))]
    shift, n = int(rng.integers(4, 24)), int(rng.integers(1, 200))
    mean = [round((1 << 23) / n), 23, int(rng.integers(0, 40))]
    return [*index, shift, *map(int, entries), *mean]


def feed_words(code, words, target=4):
    """SetTable of 32-bit words."""
    lanes = code.overlay.lanes
    rows = np.zeros(-(-4 * len(words) // lanes) * lanes // 4, "<i4")
    rows[: len(words)] = words
    code.feed(rows.view(np.int8).reshape(-1, lanes))
    return code.add(isa.SET_TABLE, target=target, count=len(words))


def layout(rng, rows, blocks, o):
    """Strides of the input and the output: token by token, or block by block."""
    if rng.integers(2):
        return {"source_col": blocks, "source_block": 1, "target_col": 1, "target_block": rows}
    return {"source_col": 1, "source_block": rows, "target_col": blocks, "target_block": 1}


def one_norm(rng, o, rows, elements, number, x=None, **fields):
    """A program of one Norm, and the wide buffer that it finds."""
    blocks = -(-elements // o.lanes)
    table = o.norm[number] == "table"
    code = kernel.Code(o)
    if table:
        feed_words(code, table_words(rng))
    kernel.set_parameters(code, norm_parameters(rng, blocks * o.lanes, table))
    f = {"source": 3, "rows": rows, "blocks": blocks, "elements": elements, "method": number}
    f |= {"target": 5, "zero_point": int(rng.integers(-20, 21)), "low": -128, "high": 127}
    f |= layout(rng, rows, blocks, o) | {"keep": int(rng.integers(2)), "rms": int(rng.integers(2))}
    epsilon = int(rng.choice([0, 1, 1 << 20, (1 << 62) - 1]))
    f |= {"epsilon_low": epsilon & 0xFFFFFFFF, "epsilon_high": epsilon >> 32} | fields
    x = rows_of(rng, rows, elements) if x is None else x
    return code.add(isa.NORM, **f), placed(o, x, f, int(rng.integers(-(1 << 15), 1 << 15))), f


@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(40)
def test_every_form_equals_golden(o, seed):
    rng = np.random.default_rng(seed)
    elements = int(rng.integers(1, 60))
    rows = int(rng.integers(1, min(64, 450 // -(-elements // o.lanes))))
    code, wide, _ = one_norm(rng, o, rows, elements, int(rng.integers(len(o.norm))))
    kernel.check(code, wide=wide)


def test_the_exact_form_computes_alike():
    for number in range(3):
        rng = np.random.default_rng(number)
        code, wide, _ = one_norm(rng, NANO, 5, 10, number, keep=1, rms=0)
        kernel.check(code, wide=wide, forms=("exact", "functional"))


def outputs(o, words, f):
    """Codes [rows, elements] in the unified buffer, and what the wide one holds of the input."""
    shape = (f["rows"], f["blocks"])
    at = norm_words(f["target"], f["target_col"], f["target_block"], *shape)
    codes = words[at].reshape(f["rows"], -1)[:, : f["elements"]]
    at = norm_words(f["source"], f["source_col"], f["source_block"], *shape)
    halves = words[o.buffer_words :]
    wide = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    return codes, wide[at].reshape(f["rows"], -1)[:, : f["elements"]]


def plain_program(o, x, number, rms, gamma, beta, epsilon=0):
    """A Norm of 12-bit fractions, whose codes have 5: y16 / 2**7."""
    rows, elements = x.shape
    blocks = -(-elements // o.lanes)
    q, s = requant.encode(2.0**-7, "single_round")
    pad = blocks * o.lanes - elements
    each = [np.pad(np.round(v).astype(int), (0, pad)) for v in (beta * 2**22, gamma * 2**12)]
    code = kernel.Code(o)
    kernel.set_parameters(code, (*each, 10, q, s))
    f = {"source": 0, "source_col": blocks, "source_block": 1, "rows": rows, "blocks": blocks}
    f |= {"elements": elements, "method": number, "rms": rms, "keep": 1, "target": 0}
    f |= {"target_col": blocks, "target_block": 1, "low": -128, "high": 127}
    f |= {"epsilon_low": epsilon & 0xFFFFFFFF, "epsilon_high": epsilon >> 32}
    return code.add(isa.NORM, **f), placed(o, x, f, -1), f


@pytest.mark.parametrize("rms", [0, 1])
@pytest.mark.parametrize(
    ("o", "number"), [(SMALL, 0), (SMALL, 1), (SMALL, 3), (SMALL, 4), (ROOTS, 0), (ROOTS, 2)]
)
def test_norms_are_real_ones_within_their_bound(o, number, rms):
    rng = np.random.default_rng(number)
    x = np.round(rng.normal(100 * (1 - rms), 900, (40, 45))).astype(int)
    gamma, beta = rng.uniform(0.5, 1.5, 45), rng.uniform(-1, 1, 45)
    code, wide, f = plain_program(o, x, number, rms, gamma, beta)
    words, _ = kernel.run(code, wide=wide)
    codes, kept = outputs(o, words, f)
    mean = 0 if rms else x.mean(1, keepdims=True)
    z = (x - mean) / np.sqrt(((x - mean) ** 2).mean(1, keepdims=True))
    real = z * gamma + beta
    function = "rmsnorm" if rms else "layernorm"
    bound = 1.5 * method(function, o.norm[number]).error + 2.0**-9
    assert np.abs(kept / 4096 - real).max() < bound
    np.testing.assert_array_equal(codes, np.clip((kept.astype(int) + 64) >> 7, -128, 127))


def test_epsilon_is_that_of_the_variance():
    x = np.array([[1, -1, 1, -1, 1, -1, 1, -1]])
    epsilon = 3 * 8 * 8  # eps · n² / S²: the variance of 1 becomes 4
    code, wide, f = plain_program(SMALL, x, 0, 0, np.ones(8), np.zeros(8), epsilon)
    _, kept = outputs(SMALL, kernel.run(code, wide=wide)[0], f)
    np.testing.assert_allclose(kept / 4096, x / 2, atol=2e-3)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_rows_of_equal_elements_give_beta(number):
    x = np.repeat([[0], [77], [-32768], [32767]], 11, 1)
    beta = np.linspace(-2, 2, 11)
    code, wide, f = plain_program(SMALL, x, number, 0, np.ones(11), beta)
    _, kept = outputs(SMALL, kernel.run(code, wide=wide)[0], f)
    expected = np.broadcast_to(np.round(beta * 4096), kept.shape)
    np.testing.assert_allclose(kept, expected, atol=1)


@given(seed=st.integers(0, 1 << 30))
@kernel.examples(30)
def test_the_table_method_is_hg_pipes_formula(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    x = rng.integers(-6000, 6000, (3, n))
    words = table_words(rng)
    code = feed_words(kernel.Code(SMALL), words)
    blocks = -(-n // 8)
    raw = norm_parameters(rng, blocks * 8, True)
    kernel.set_parameters(code, raw)
    f = {"rows": 3, "blocks": blocks, "elements": n, "method": 2, "source_col": blocks}
    f |= {"source_block": 1, "target_col": blocks, "target_block": 1, "low": -4, "high": 3}
    code.add(isa.NORM, **f)
    f |= {"source": 0, "target": 0}
    words_after = kernel.check(code, wide=placed(SMALL, x, f, 9))
    codes, kept = outputs(SMALL, words_after, f)
    np.testing.assert_array_equal(kept, x)  # nothing is kept that was not asked for
    b, bound, shift, *entries, multiplier, mean_shift, s2 = words
    low, lnw, _, high, _ = (np.asarray(v).astype(object) for v in raw)
    for row, found in zip(x.tolist(), codes, strict=True):
        mean = (sum(row) * multiplier + (1 << (mean_shift - 1))) >> mean_shift
        mean = min(max(mean, -32768), 32767)
        v = min(sum((e - mean) ** 2 for e in row), 1 << 30)
        r = entries[min(max((v + b) >> shift, 0), bound)]
        for c, e in enumerate(row):
            lnb = (int(high[c]) << 32) + (int(low[c]) & 0xFFFFFFFF)
            y = ((e - mean) * r * int(lnw[c]) + lnb) >> s2
            assert found[c] == min(max(y, -4), 3)


def test_the_longest_row_and_the_widest_values():
    o = replace(SMALL, name="8x8nl", parameter_blocks=512, norm=("pwl",))
    for x in (np.full((1, 4096), -(1 << 15)), np.tile([-(1 << 15), (1 << 15) - 1], (1, 2048))):
        first = {"source": 0, "target": 0}
        code, wide, f = one_norm(np.random.default_rng(0), o, 1, 4096, 0, x, keep=1, **first)
        kernel.check(code, wide=wide)
        assert f["blocks"] == 512


BAD = {
    "rows 0": ({"rows": 0}, 2),
    "blocks 0": ({"blocks": 0}, 2),
    "elements 0": ({"elements": 0}, 2),
    "elements beyond the words": ({"elements": 17}, 2),
    "a word without elements": ({"elements": 8}, 2),
    "method": ({"method": 5}, 2),
    "epsilon": ({"epsilon_high": 1 << 30}, 2),
    "wide address": ({"source": 509}, 3),
    "unified address": ({"target": 510}, 3),
    "rows": ({"rows": 65, "source_col": 0, "target_col": 0}, 4),
    "parameters": ({"parameter": 15}, 5),
    "in place on itself": ({"keep": 1, "source_col": 1}, 7),
    "in place on one word": ({"keep": 1, "source_col": 0}, 7),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_instructions_end_with_the_same_status(case):
    change, status = BAD[case]
    f = {"rows": 3, "blocks": 2, "elements": 13, "source_col": 2, "source_block": 1}
    f |= {"target_col": 2, "target_block": 1, "high": 127}
    code = kernel.Code(SMALL).add(isa.NORM, **(f | change))
    for device in ("golden", "csim"):
        with pytest.raises(FaultError) as caught:
            kernel.run(code, device)
        assert caught.value.status == status, device


def test_without_the_unit_or_its_table_there_is_no_norm():
    cases = [
        (kernel.OVERLAYS["8x8"], lambda c: c.add(isa.NORM, rows=1, blocks=1, elements=8), 1),
        (PACKED, lambda c: feed_words(c, [0] * root.TABLE_WORDS), 2),
        (SMALL, lambda c: feed_words(c, [0] * (root.TABLE_WORDS - 1)), 2),
    ]
    for o, add, status in cases:
        for device in ("golden", "csim"):
            with pytest.raises(FaultError) as caught:
                kernel.run(add(kernel.Code(o)), device)
            assert caught.value.status == status, (o.name, device)


def test_a_batch_is_refused():
    f = {"rows": 1, "blocks": 1, "elements": 8}
    for device in ("golden", "csim"):
        with pytest.raises(FaultError) as caught:
            kernel.run(kernel.Code(SMALL).add(isa.NORM, **f), device, batch=2)
        assert caught.value.status == 2


def test_tables_of_nonsense_are_moved_inside_their_limits():
    rng = np.random.default_rng(3)
    for _ in range(6):
        words = rng.integers(-(1 << 31), 1 << 31, root.TABLE_WORDS)
        code = feed_words(kernel.Code(TABLES), words.tolist())
        kernel.set_parameters(code, norm_parameters(rng, 16, True))
        f = {"rows": 3, "blocks": 2, "elements": 13, "source_col": 2, "source_block": 1}
        f |= {"target_col": 2, "target_block": 1, "low": -128, "high": 127, "source": 0}
        code.add(isa.NORM, **f)
        kernel.check(code, wide=placed(TABLES, rows_of(rng, 3, 13), f, 5))


def test_an_overlay_names_only_methods_that_are_hardware():
    for norm, word in ((("host",), "hardware"), (("cordic",), "second one"), ((), "1 to 8")):
        with pytest.raises((OverlayError, UsageError), match=word):
            replace(SMALL, norm=norm).verify()
    assert replace(SMALL, norm=("lut", "pwl")).verify().norm == ("lut", "pwl")


def test_clocks_are_two_per_word():
    code, wide, _ = one_norm(np.random.default_rng(1), SMALL, 7, 30, 0)
    _, result = kernel.run(code, wide=wide)
    assert dict(result.counters)["vector"] == 2 * 7 * math.ceil(30 / 8)


EVERY = replace(SMALL, norm=("pwl", "ibert", "table", "nnlut", "pwl2", "lut", "shift", "dlc"))


def test_the_hardware_of_every_method_is_clean():
    found = lint(EVERY)
    ours = [f for f in found if f.file.rpartition("/")[2] in ("normalize.hpp", "root.hpp")]
    assert [str(f) for f in ours] == []


@pytest.mark.parametrize("form", ["cycle", "functional", "exact"])
def test_every_method_compiles_without_warnings(form, tmp_path):
    for header, content in codegen.headers(EVERY).items():
        (tmp_path / header).write_text(content)
    command = build.command_line(build.find_compiler(), form, tmp_path, tmp_path / "out")
    command = [*command, "-fsyntax-only", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
