"""The decoder of weights: every code of every format, on golden and in every form of simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa, tiles
from weft.config import Overlay
from weft.format import Format
from weft.formats import FORMATS, NUMBERS, base_name, parse
from weft.graph import Quant

ALL = tuple(FORMATS)
SIZES = (8, 8, 8, 1024, 64, 8, 64)
LAB = Overlay("all8", *SIZES, weight_bits=16, engines=isa.ENGINES, formats=ALL)
NARROW = Overlay("narrow8", *SIZES, weight_bits=8, engines=("systolic",), formats=ALL)
NANO = Overlay("nano8", 8, 8, 8, 64, 16, 2, 16, weight_bits=16, formats=ALL)
each_format = pytest.mark.parametrize(
    "fmt", [f for f in FORMATS.values() if f.name != "int8"], ids=lambda f: f.name
)


def read(fmt: Format, shape: tuple[int, int, int], lanes: int, group: int, zeros: bool) -> dict:
    """ReadWeights of one column tile, random codes included."""
    _, runs, channels = shape
    blocks = -(-channels // lanes)
    return {
        "format": NUMBERS[base_name(fmt.name)],
        "runs": runs,
        "blocks": blocks,
        "rows": runs * blocks * lanes,
        "memory_rows": tiles.stored_rows(shape, fmt, lanes, group, zeros),
        "group": group.bit_length() - 1 if group else 0,
        "zeros": int(zeros),
    }


def decoded(fmt, overlay, rows, shape, group=0, zeros=False, forms=kernel.FORMS):
    """Operands [tiles, rows, columns]: each tile multiplied with the identity."""
    lanes = overlay.lanes
    fields = read(fmt, shape, lanes, group, zeros)
    assert len(rows) == fields["memory_rows"]
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    start = sum(map(len, code.weights))
    code.weights.append(rows)
    code.add(isa.READ_WEIGHTS, memory=start, **fields)
    count = fields["rows"] // lanes
    f = kernel.simple_window(1, lanes) | {"source_col": 1, "blocks": 1, "tiles": 1}
    f |= {"first": 1, "last": 1, "overlap": 1, "pace": 2}
    found = []
    for tile in range(count):
        target = lanes + tile * 4 * lanes
        code.add(isa.MAT_MUL, **f)
        kernel.drain_raw(code, target, lanes, target_col=1)
        found.append(target)
    words = kernel.check(code, np.eye(lanes, dtype=np.int8), forms=forms)
    return np.stack([kernel.raw_sums(words, t, lanes) for t in found])


def expected(fmt, codes, quant, lanes):
    """Operands by the format's own definition, as the stream orders them."""
    v = fmt.decode(codes, quant)
    if fmt.operand == "bf16":
        v = (np.ascontiguousarray(v, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        v = v.view(np.int16)
    n, taps, channels = codes.shape
    blocks = -(-channels // lanes)
    whole = np.zeros((taps, blocks * lanes, lanes), np.int64)
    whole[:, :channels, :n] = v.transpose(1, 2, 0)
    return whole.reshape(-1, lanes, lanes)


def a_quant(fmt: Format, rng, shape) -> Quant:
    """What carries the group bytes, zero points and codebook of a random weight."""
    return fmt.fit(rng.normal(size=shape).astype(np.float32), 0)


def legal_codes(fmt: Format, rng, shape) -> np.ndarray:
    """Random codes that stand for values."""
    x = rng.normal(size=shape).astype(np.float32) * np.exp(rng.normal(size=shape))
    quant = fmt.fit(x.astype(np.float32), 0)
    return fmt.encode(fmt.quantize(x, quant), quant)


@each_format
def test_every_code_decodes_as_golden_does(fmt):
    """All codes (65,536 of a pair's, a sample of 16 bits') through the whole stream."""
    rng = np.random.default_rng(0)
    lanes = LAB.lanes
    count = 1 << min(fmt.bits * (2 if fmt.pairs and fmt.bits == 4 else 1), 11)
    runs = min(2, max(1, count // (lanes * lanes)))
    shape = (lanes, runs, 2 * lanes)
    for part in range(-(-count // (lanes * runs * 2 * lanes))):
        codes = np.arange(lanes * runs * 2 * lanes) + part * lanes * runs * 2 * lanes
        if fmt.pairs and fmt.bits == 4:
            codes = codes // 2 >> (4 * (np.arange(len(codes)) & 1))
        codes = (codes & ((1 << fmt.bits) - 1)).astype(np.uint16 if fmt.bits > 8 else np.uint8)
        if fmt.per_byte:
            codes = codes % 3
        if fmt.bits > 8 or (fmt.pairs and fmt.bits == 8):
            codes = rng.integers(0, 1 << fmt.bits, len(codes)).astype(codes.dtype)
        codes = codes.reshape(shape)
        quant = a_quant(fmt, rng, shape)
        group = tiles.group_of(fmt, quant, shape[2])
        rows = tiles.pack(codes, quant, fmt, lanes)
        decoded(fmt, LAB, rows, shape, group, quant.zeros is not None)


@pytest.mark.parametrize("name", [*ALL[1:], "int4:g32", "flint4:g32", "e2m1:g32", "ternary2:g32"])
def test_operands_are_the_formats_own(name):
    fmt = parse(name)
    rng = np.random.default_rng(1)
    lanes, shape = LAB.lanes, (LAB.lanes, 2, 40)
    x = (rng.normal(size=shape) * np.exp(rng.normal(size=shape))).astype(np.float32)
    quant = fmt.fit(x, 0)
    codes = fmt.encode(fmt.quantize(x, quant), quant)
    group = tiles.group_of(fmt, quant, shape[2])
    rows = tiles.pack(codes, quant, fmt, lanes)
    found = decoded(fmt, LAB, rows, shape, group, quant.zeros is not None)
    np.testing.assert_array_equal(found, expected(fmt, codes, quant, lanes))


@pytest.mark.parametrize("name", ["int4", "int3", "flint4", "olive4", "ternary", "apot4", "binary"])
def test_an_array_of_8_bits_takes_small_operands(name):
    rng, fmt, shape = np.random.default_rng(2), FORMATS[name], (8, 1, 24)
    codes = legal_codes(fmt, rng, shape)
    quant = Quant(np.ones(8, np.float32), axis=0, format=name)
    rows = tiles.pack(codes, quant, fmt, 8)
    found = decoded(fmt, NARROW, rows, shape)
    np.testing.assert_array_equal(found, expected(fmt, codes, quant, 8))


@pytest.mark.parametrize("name", ["int5", "flint4", "olive4", "ternary", "codebook16", "mxfp4"])
def test_the_exact_form_agrees(name):
    rng, fmt, shape = np.random.default_rng(3), FORMATS[name], (8, 1, 8)
    x = rng.normal(size=shape).astype(np.float32)
    quant = fmt.fit(x, 0)
    codes = fmt.encode(fmt.quantize(x, quant), quant)
    rows = tiles.pack(codes, quant, fmt, 8)
    forms = ("exact", *kernel.FORMS)
    group = tiles.group_of(fmt, quant, 8)
    found = decoded(fmt, NANO, rows, shape, group, quant.zeros is not None, forms)
    np.testing.assert_array_equal(found, expected(fmt, codes, quant, 8))


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from([n for n in ALL if n != "int8"]),
    group=st.sampled_from([0, 16, 32, 64]),
    zeros=st.booleans(),
    runs=st.integers(1, 2),
    blocks=st.integers(1, 6),
)
@kernel.examples(60)
def test_random_bytes_decode_alike(seed, name, group, zeros, runs, blocks):
    """Whatever lies in memory: golden and simulation make the same of it."""
    rng, fmt, lanes = np.random.default_rng(seed), FORMATS[name], LAB.lanes
    group = group if fmt.record != "none" else 0
    zeros = zeros and bool(group) and fmt.record == "multiplier"
    shape = (lanes, runs, blocks * lanes)
    rows = kernel.codes(rng, tiles.stored_rows(shape, fmt, lanes, group, zeros), lanes)
    decoded(fmt, LAB, rows, shape, group, zeros)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 63},
        {"memory_rows": 1},
        {"rows": 8},
        {"blocks": 0},
        {"group": 3},
        {"group": 5},
        {"zeros": 1},
        {"runs": 7},
    ],
    ids=str,
)
def test_sizes_that_contradict_one_another_are_status_2(change):
    from weft.errors import DeviceError

    fmt, shape = FORMATS["int4"], (8, 1, 16)
    fields = read(fmt, shape, 8, 0, False) | change
    code = Code(LAB, weights=[np.zeros((64, 8), np.int8)])
    code.add(isa.READ_WEIGHTS, **fields)
    for device in ("golden", "csim"):
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device)
        assert caught.value.status == 2, device
