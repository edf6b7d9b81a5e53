"""Keys and values in 4 or 2 bits: packed by PackCache, unpacked into the operand buffer."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.device import open_device
from weft.errors import DeviceError, OverlayError
from weft.units import packed_cache, requant

S2P1 = Overlay(
    "s2p1k", 8, 8, 8, 1024, 64, 8, 64, engines=("systolic", "matvec"), stream_rows=2,
    units=("requant", "vector", "lookup", "attention", "packed_cache"), wide_words=32,
    operand_words=256,
)  # fmt: skip
OVERLAYS = {
    o.name: o
    for o in (
        S2P1,
        replace(S2P1, name="s8p4k", stream_rows=8, weight_ports=4, weight_bits=16),
        replace(S2P1, name="s2p4k", weight_ports=4),  # elements that only fill up
        # One row of ranges holds more than those of a group; two beats per row.
        replace(S2P1, name="l64", rows=64, cols=64, bus_bytes=32, buffer_words=512, stream_rows=1),
    )
}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)
each_kind = pytest.mark.parametrize(("bits", "values"), [(4, 0), (4, 1), (2, 0), (2, 1)])
OPERANDS, GROUP = isa.TABLES.index("operands"), 32
IDENTITY = 300  # in the unified buffer; of memory what is packed begins behind


def nearest(x: Fraction) -> int:
    """The nearest integer, of two the larger one."""
    return (2 * x.numerator + x.denominator) // (2 * x.denominator)


def filled(rows: int, o: Overlay) -> int:
    """Rows up to whole elements of the stream and packets of the ports."""
    unit = max(o.stream_rows, o.weight_ports)
    return (rows + unit - 1) // unit * unit


def range_of(x: Any) -> tuple[int, int]:
    """Least value and width."""
    return int(min(x)), int(max(x)) - int(min(x))


def packed_by_hand(words: Any, o: Overlay, bits: int, values: int) -> Any:
    """Rows of a group, code by code as the layout says."""
    steps, lanes = 2**bits - 1, o.lanes
    numbers = range(GROUP) if values else range(lanes)
    ranges = [range_of(words[n] if values else words[:, n]) for n in numbers]
    half = -(-len(ranges) // lanes)
    front = np.zeros((filled(2 * half, o), lanes), np.int64)
    for n, (least, width) in enumerate(ranges):
        front[n // lanes, n % lanes] = least
        front[half + n // lanes, n % lanes] = width
    back = np.zeros((filled(GROUP * bits // 8, o), lanes), np.int64)
    for token in range(GROUP):
        for lane in range(lanes):
            least, width = ranges[token if values else lane]
            share = Fraction(int(words[token, lane]) - least, width) if width else Fraction(0)
            bit = token * bits
            back[bit // 8, lane] |= nearest(share * steps) << bit % 8
    return np.concatenate([front, back]).astype(np.uint8).view(np.int8)


def unpacked_by_hand(rows: Any, o: Overlay, bits: int, values: int) -> Any:
    """Words of a group's rows."""
    lanes, words = o.lanes, np.zeros((GROUP, o.lanes), np.int64)
    half = -(-GROUP // lanes) if values else 1
    first = filled(2 * half, o)
    for token in range(GROUP):
        for lane in range(lanes):
            at = token if values else lane
            least = int(rows[at // lanes, at % lanes])
            width = int(rows[half + at // lanes, at % lanes]) & 255
            byte = int(rows[first + token * bits // 8, lane]) & 255
            code = byte >> token * bits % 8 & 2**bits - 1
            words[token, lane] = least + nearest(Fraction(code * width, 2**bits - 1))
    return words.astype(np.uint8).view(np.int8)


def started(o: Overlay) -> Code:
    """The operand buffer holds the first words of memory; plain parameters."""
    code = Code(o)
    zero, one = np.zeros(o.lanes, np.int32), requant.encode(np.ones(o.lanes), "single_round")
    kernel.set_parameters(code, (zero, *one, *one))
    return code.add(isa.READ_HOST, words=o.operand_words, chunks=1, space=1)


def shown(code: Code) -> Code:
    """All of the operand buffer, as products with ones, in the unified buffer from word 0 on."""
    lanes = code.overlay.lanes
    for first in range(0, code.overlay.operand_words, lanes):
        code.add(
            isa.ATTEND, source=IDENTITY, source_block=lanes, source_col=1, rows=lanes, blocks=1,
            tiles=1, operand=first, overlap=1,
        )  # fmt: skip
        code.add(isa.ACTIVATE, target=first, target_col=1, mode=isa.RAW_BYTE)
    return code


def content(rng: np.random.Generator, o: Overlay) -> Any:
    """Random rows, some of small range, and a matrix of ones."""
    rows = kernel.codes(rng, o.buffer_words, o.lanes)
    small = rng.integers(0, 2, len(rows)) > 0
    rows[small] //= rng.integers(1, 64)
    rows[IDENTITY : IDENTITY + o.lanes] = np.eye(o.lanes)
    return rows


def read(code: Code, bits: int, values: int, groups: int, **fields: int) -> Code:
    """A ReadWeights of packed groups, of one run."""
    rows = groups * packed_cache.group_rows(code.overlay, bits, bool(values)).total
    given = {"rows": rows, "memory_rows": rows, "runs": 1, "matvec": 1, "cached": 1}
    return code.add(isa.READ_WEIGHTS, **{**given, **fields})


@each_overlay
@each_kind
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(4)
def test_a_group_is_packed_as_the_layout_says(name, bits, values, seed):
    rng, o = np.random.default_rng(seed), OVERLAYS[name]
    rows = content(rng, o)
    size = len(packed_by_hand(rows[:GROUP], o, bits, values))
    firsts = [int(x) for x in rng.integers(0, o.operand_words - GROUP + 1, 2)]
    first, second = sorted(firsts)
    code = started(o).add(
        isa.PACK_CACHE, operand=first, operand_block=second - first, blocks=2, bits=bits,
        values=values, target=400, target_block=size,
    )  # fmt: skip
    words = kernel.check(code, rows)
    for i, at in enumerate((first, second)):
        expected = packed_by_hand(rows[at : at + GROUP], o, bits, values)
        np.testing.assert_array_equal(words[400 + i * size :][:size], expected)


def loads(rng: np.random.Generator, code: Code, rows: Any, operands: Any) -> None:
    """Groups of packed rows, whatever is in them, to places of the operand buffer."""
    o = code.overlay
    bits, values = int(rng.choice([4, 2])), int(rng.integers(0, 2))
    runs, groups = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    size = packed_cache.group_rows(o, bits, bool(values)).total
    step = int(rng.integers(groups * size, 60 + groups * size))
    first = int(rng.integers(0, o.buffer_words - step - groups * size))
    count = groups * GROUP
    index = int(rng.integers(0, (o.operand_words - 2 * count) // 4 + 1)) * 4
    read(code, bits, values, groups, memory=first, runs=runs, memory_step=step,
         rows=runs * groups * size)  # fmt: skip
    code.add(
        isa.SET_TABLE, target=OPERANDS, index=index, count=count, runs=runs, step=count,
        bits=bits, values=values,
    )  # fmt: skip
    for run in range(runs):
        for group in range(groups):
            packed = rows[first + run * step + group * size :][:size]
            at = index + run * count + group * GROUP
            operands[at : at + GROUP] = unpacked_by_hand(packed, o, bits, values)


@each_overlay
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(10)
def test_packed_rows_are_words_of_the_operand_buffer(name, seed):
    rng, o = np.random.default_rng(seed), OVERLAYS[name]
    rows = content(rng, o)
    code, operands = started(o), rows[: o.operand_words].copy()
    for _ in range(int(rng.integers(1, 4))):
        loads(rng, code, rows, operands)
    words = kernel.check(shown(code), rows)
    np.testing.assert_array_equal(words[: o.operand_words], operands)


@pytest.mark.parametrize("name", ["s2p1k", "s8p4k"])
def test_the_exact_form_agrees(name):
    """Every process a thread, on streams of their real depth."""
    rng, o = np.random.default_rng(3), OVERLAYS[name]
    rows = content(rng, o)
    code, operands = started(o), rows[: o.operand_words].copy()
    loads(rng, code, rows, operands)
    loads(rng, code, rows, operands)
    code.add(isa.PACK_CACHE, operand=5, blocks=1, bits=4, target=500)
    code.add(isa.PACK_CACHE, operand=70, blocks=1, bits=2, values=1, target=600)
    words = kernel.check(shown(code), rows, forms=("exact",))
    np.testing.assert_array_equal(words[: o.operand_words], operands)
    for at, kind in ((5, (4, 0, 500)), (70, (2, 1, 600))):
        expected = packed_by_hand(operands[at : at + GROUP], o, *kind[:2])
        np.testing.assert_array_equal(words[kind[2] :][: len(expected)], expected)


SOURCE = """
#include "units/packed_cache.hpp"
using namespace weft;
extern "C" void codes(const int *x, const int *width, const int *four, int *code, int n) {
  for (int i = 0; i < n; ++i)
    code[i] = int(packed_code(Int<16>(x[i]), UInt<8>(width[i]), four[i] != 0));
}
extern "C" void words(const int *code, const int *least, const int *width, int *word, int n) {
  for (int i = 0; i < n; ++i)
    word[i] = int(unpacked(UInt<8>(code[i]), Int<8>(least[i]), factor_of(UInt<8>(width[i]))));
}
"""


def called(name: str, form: str, *columns: Any) -> Any:
    """A function of the header, element by element."""
    library = kernel.unit_library(SOURCE, S2P1, form)
    given = [np.ascontiguousarray(c, np.int32) for c in columns]
    found = np.zeros(len(given[0]), np.int32)
    pointers = [c.ctypes.data_as(ctypes.POINTER(ctypes.c_int)) for c in (*given, found)]
    getattr(library, name)(*pointers, len(found))
    return found


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_every_code_is_the_nearest_one(form):
    """All widths, all values within, both numbers of bits."""
    cases = [(x, w, four) for w in range(256) for x in range(w + 1) for four in (0, 1)]
    found = called("codes", form, *np.array(cases).T)
    for (x, width, four), code in zip(cases, found.tolist(), strict=True):
        share = Fraction(x, width) if width else Fraction(0)
        assert code == nearest(share * (15 if four else 3)), (x, width, four)


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_every_word_is_the_nearest_one(form):
    """All codes, widths and least values that a group can have."""
    code, width, least = (x.reshape(-1) for x in np.mgrid[:16, :256, -128:128])
    there = least + width < 128
    code, width, least = code[there], width[there], least[there]
    found = called("words", form, code, least, width)
    np.testing.assert_array_equal(found, least + (2 * code * width + 15) // 30)
    # of two bits 5 · code counts in fifteenths
    assert all(Fraction(5 * c, 15) == Fraction(c, 3) for c in range(4))


@each_kind
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(20)
def test_what_is_unpacked_is_as_near_as_codes_allow(bits, values, seed):
    rng = np.random.default_rng(seed)
    words = kernel.codes(rng, GROUP, 8)
    again = packed_cache.unpack(packed_cache.pack(words, S2P1, bits, bool(values)), S2P1, bits,
                                bool(values))  # fmt: skip
    axis = 1 if values else 0
    width = np.ptp(words.astype(int), axis=axis, keepdims=True)
    error = np.abs(words.astype(int) - again)
    assert (error <= width / (2**bits - 1) / 2 + 0.5).all()
    np.testing.assert_array_equal(again.min(axis), words.min(axis))
    np.testing.assert_array_equal(again.max(axis), words.max(axis))


@pytest.mark.parametrize(
    ("name", "bits", "values", "load", "pack"),
    [("s2p1k", 4, 0, 33, 66), ("s2p1k", 4, 1, 36, 72), ("s2p1k", 2, 0, 33, 66),
     ("s8p4k", 4, 0, 9, 72), ("s8p4k", 2, 1, 9, 72), ("s2p4k", 2, 0, 18, 68),
     ("l64", 4, 1, 36, 66)],
)  # fmt: skip
def test_groups_take_the_clocks_of_the_ports_or_of_the_buffer(name, bits, values, load, pack):
    """Of a group; s2p4k has two elements of ranges, of which one only fills up."""
    o = OVERLAYS[name]
    before = kernel.run(started(o))[1].counters
    code = read(started(o), bits, values, 2, memory=200)
    code.add(isa.SET_TABLE, target=OPERANDS, count=64, runs=1, bits=bits, values=values)
    code.add(isa.PACK_CACHE, blocks=3, bits=bits, values=values, target=100, target_block=48)
    after = kernel.run(code)[1].counters
    assert after["table"] - before["table"] == 2 * load
    assert after["vector"] - before["vector"] == 3 * pack
    kernel.check(code)


PACK = {"blocks": 2, "bits": 4, "operand_block": 40, "target_block": 20}
TAKE = {"target": OPERANDS, "count": 64, "runs": 1, "bits": 4}


def statuses(code: Code) -> set[int | None]:
    """Of golden and every form."""
    found = set()
    for device, more in [("golden", {}), *(("csim", {"form": form}) for form in kernel.FORMS)]:
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device, **more, bare=True)
        found.add(getattr(caught.value, "status", None))
    return found


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"bits": 3}, 2), ({"bits": 0}, 2), ({"bits": 8}, 2), ({"blocks": 0}, 2),
     ({"blocks": 60}, 2), ({"operand": 185}, 3), ({"operand_block": 225}, 3),
     ({"target": 987}, 3), ({"target_block": 1007}, 3)],
    ids=str,
)  # fmt: skip
def test_bad_packs_are_a_status(change, expected):
    assert statuses(Code(S2P1).add(isa.PACK_CACHE, **{**PACK, **change})) == {expected}


def test_the_last_words_may_be_packed():
    code = Code(S2P1).add(isa.PACK_CACHE, **{**PACK, "operand": 184, "target": 986})
    assert kernel.run(code, bare=True)[1].counters["vector"] == 2 * 66


@pytest.mark.parametrize(
    ("take", "expected"),
    [({"bits": 3}, 2), ({"bits": 1}, 2), ({"count": 48}, 2), ({"index": 224}, 5),
     ({"values": 1}, 9), ({"count": 32}, 9), ({"count": 96}, 9), ({"bits": 2}, 9),
     ({"bits": 0}, 9)],
    ids=str,
)  # fmt: skip
def test_bad_loads_are_a_status(take, expected):
    code = read(Code(S2P1), 4, 0, 2, memory=200)
    assert statuses(code.add(isa.SET_TABLE, **{**TAKE, **take})) == {expected}


def test_a_batch_is_one():
    code = Code(S2P1).add(isa.PACK_CACHE, **PACK)
    for device in ("golden", "csim"):
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device, bare=True, batch=2)
        assert caught.value.status == 2


def test_overlays_without_the_unit_have_neither():
    o = replace(S2P1, name="unpacked", units=S2P1.units[:-1])
    assert statuses(Code(o).add(isa.PACK_CACHE, **PACK)) == {1}
    assert statuses(read(Code(o), 4, 0, 2, memory=200).add(isa.SET_TABLE, **TAKE)) == {2}


@pytest.mark.parametrize("change", [{"engines": ("systolic",), "stream_rows": 1},
                                    {"units": ("requant", "packed_cache")}], ids=str)  # fmt: skip
def test_the_unit_needs_what_brings_its_words(change):
    with pytest.raises(OverlayError, match="packed_cache unpacks what comes through the weight"):
        replace(S2P1, name="bad", **change).verify()


def test_a_broken_program_leaves_nothing_in_the_stream():
    code = read(Code(S2P1), 4, 1, 2, memory=300).add(isa.SET_TABLE, **TAKE, values=1)
    code.add(isa.SET_TABLE, target=7)
    opened = open_device("csim", form="exact")
    opened.load(code.program())
    with pytest.raises(DeviceError) as caught:
        opened.run(0, 1)
    assert caught.value.status == 2
