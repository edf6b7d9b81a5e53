"""The matrix-vector engine: the array's sums and plain loops', from the very same tiles."""

from __future__ import annotations

import ctypes
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.device import channels
from weft.errors import DeviceError
from weft.format import Format
from weft.formats import FORMATS
from weft.lower.weights import PLAIN, Weights
from weft.units import matvec

ENGINES = ("systolic", "matvec")
# What the array multiplies as integers.
VALUES = tuple(n for n, f in FORMATS.items() if f.operand != "bf16")
UNITS = ("requant", "vector", "lookup", "norm")
SIZES = (1024, 64, 8, 64)
LAB = {"weight_bits": 16, "engines": ENGINES, "formats": VALUES, "units": UNITS, "wide_words": 128}
OVERLAYS = {
    "s1p1": Overlay("s1p1", 8, 8, 8, *SIZES, **LAB),
    "s4p2": Overlay("s4p2", 8, 8, 4, *SIZES, **LAB, stream_rows=4, weight_ports=2),
    "s8p4": Overlay("s8p4", 16, 16, 16, *SIZES, **LAB, stream_rows=8, weight_ports=4),
    "s8p1": Overlay("s8p1", 8, 8, 8, *SIZES, **LAB, stream_rows=8),
    "s16p8": Overlay("s16p8", 16, 16, 8, *SIZES, **LAB, stream_rows=16, weight_ports=8),
    "s4p2o": Overlay(
        "s4p2o", 8, 8, 4, *SIZES, **LAB, stream_rows=4, weight_ports=2, own_memories=True
    ),
    "s16p8o": Overlay(
        "s16p8o", 16, 16, 16, *SIZES, **LAB, stream_rows=16, weight_ports=8, own_memories=True
    ),
    "s2p1": Overlay("s2p1", 4, 4, 4, *SIZES, engines=ENGINES, stream_rows=2),
}
each_overlay = pytest.mark.parametrize("name", OVERLAYS)
seeds = st.integers(0, 2**32 - 1)
FORMS = kernel.FORMS


def stored(rng, fmt: Format, shape, lanes: int) -> tuple[Weights, np.ndarray[Any, Any]]:
    """Random weights [N, 1, I] as memory keeps them, and their operands."""
    if fmt.name == "int8":
        values = kernel.codes(rng, *shape)
        codes, quant = values.view(np.uint8), PLAIN
    else:
        x = (rng.normal(size=shape) * np.exp(rng.normal(size=shape))).astype(np.float32)
        quant = fmt.fit(x, 0)
        codes = fmt.encode(fmt.quantize(x, quant), quant)
        values = fmt.decode(codes, quant)
    return Weights(codes[:, :, None], quant, fmt, lanes), values.astype(np.int64)


def product(overlay: Overlay, shape, m: int, bits: int = 8) -> dict[str, int]:
    """A MatMul of `m` rows on the engine, its input from word 3 on."""
    n, _, channels = shape
    blocks = -(-channels // overlay.lanes)
    f = kernel.simple_window(1, m) | {"source": 3, "source_col": blocks, "source_block": 1}
    f |= {"blocks": blocks, "tiles": -(-n // overlay.lanes), "first": 1, "last": 1}
    return f | {"engine": matvec.NUMBER, "activation_bits": bits}


def raw(code: Code, f, weights: Weights, m: int, target: int) -> list[int]:
    """The product tile by tile, so that its sums can be read as they are; where they lie."""
    targets = []
    for tile in range(f["tiles"]):
        start, rows = sum(map(len, code.weights)), weights.packed(tile, tile + 1)
        code.weights.append(rows)
        read = weights.fields(tile, tile + 1) | {"memory": start, "memory_rows": len(rows)}
        arrives = {"pace": weights.pace(code.overlay)}
        if f["engine"] == matvec.NUMBER:
            read["matvec"] = 1
            arrives = matvec.arrival(read["rows"], len(rows), code.overlay)
        code.add(isa.READ_WEIGHTS, **read)
        code.add(isa.MAT_MUL, **(f | {"tiles": 1} | arrives))
        targets.append(target + 4 * m * tile)
        kernel.drain_raw(code, targets[-1], m, target_col=1)
    return targets


def check(rng, overlay: Overlay, fmt: Format, shape, m: int, bits: int = 8, forms=FORMS) -> None:
    """Sums of the engine, of the array where it takes the input, and of integers."""
    lanes, n = overlay.lanes, shape[0]
    weights, operands = stored(rng, fmt, shape, lanes)
    f = product(overlay, shape, m, bits)
    width = f["blocks"] * lanes
    content = kernel.codes(rng, m * f["blocks"] + 3, lanes)
    wide = rng.integers(-(1 << 15), 1 << 15, (m * f["blocks"] + 3, lanes)).astype(np.int16)
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    found = [raw(code, f, weights, m, 256)]
    if bits == 8:
        found.append(raw(code, f | {"engine": 0}, weights, m, 512))
    there = np.zeros((overlay.words_of("wide"), lanes), np.int16)
    there[: len(wide)] = wide[: len(there)]
    words = kernel.check(code, content, forms=forms, wide=there if len(there) else None)
    x = (content if bits == 8 else wide)[3:].reshape(m, width)[:, : shape[2]].astype(object)
    expected = operands[:, 0].astype(object) @ x.T
    wrapped = (expected.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    for targets in found:
        sums = np.concatenate([kernel.raw_sums(words, t, m).T for t in targets])
        np.testing.assert_array_equal(sums[:n], wrapped)


@each_overlay
@kernel.examples(30)
@given(data=st.data(), seed=seeds, m=st.integers(1, matvec.ROWS))
def test_sums_are_the_arrays_and_those_of_integers(name, data, seed, m):
    overlay, rng = OVERLAYS[name], np.random.default_rng(seed)
    fmt = FORMATS[data.draw(st.sampled_from(overlay.formats))]
    wide = [8, 16] if len(overlay.formats) > 1 else [8]
    size = st.integers(1, 3 * overlay.lanes)
    channels = data.draw(st.integers(1, min(128 // m, 6 * overlay.lanes)))
    channels = min(channels, (128 // overlay.lanes - 3) // m * overlay.lanes or channels)
    if fmt.name == "binary":
        channels = -(-channels // overlay.lanes) * overlay.lanes
    shape = (data.draw(size), 1, channels)
    check(rng, overlay, fmt, shape, m, data.draw(st.sampled_from(wide)))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["s1p1", "s4p2", "s16p8", "s4p2o", "s16p8o"])
def test_the_exact_form_agrees(name, bits):
    rng, overlay = np.random.default_rng(4), OVERLAYS[name]
    for fmt in ("int8", "int4", "int5", "olive4", "ternary", "codebook16", "int16"):
        shape = (overlay.lanes + 3, 1, 2 * overlay.lanes)
        check(rng, overlay, FORMATS[fmt], shape, 2, bits, ("exact",))


@each_overlay
@kernel.examples(20)
@given(data=st.data(), seed=seeds, m=st.integers(1, matvec.ROWS))
def test_words_leave_as_the_sums_of_their_tile_are_there(name, data, seed, m):
    """Requantized at once, also with one clock per tile, to every buffer, residuals added."""
    overlay, rng = OVERLAYS[name], np.random.default_rng(seed)
    lanes, wide = overlay.lanes, overlay.words_of("wide")
    count, blocks = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    bits = data.draw(st.sampled_from([8, 16] if wide else [8]))
    f = product(overlay, (count * lanes, 1, blocks * lanes), m, bits) | {"pace": 1, "source": 0}
    code = kernel.set_parameters(Code(overlay), kernel.parameters(rng, count * lanes))
    rows = kernel.codes(rng, count * blocks * lanes, lanes)
    code.feed(rows)
    code.words[-1] = isa.READ_WEIGHTS.encode(
        memory=sum(map(len, code.weights[:-1])), rows=len(rows), memory_rows=len(rows), matvec=1
    )
    code.add(isa.MAT_MUL, **f)
    to_wide = bool(wide) and data.draw(st.booleans())
    there = {"target": 64, "target_block": m, "target_col": 1, "parameter_step": 1}
    if to_wide:
        code.add(isa.ACTIVATE, **there, space=isa.WIDE, residual=data.draw(st.integers(0, 1)),
                 residual_base=64, residual_block=m, residual_col=1,
                 residual_multiplier=int(rng.integers(1, 1 << 24)),
                 residual_shift=int(rng.integers(-20, 1)))  # fmt: skip
    else:
        code.add(isa.ACTIVATE, **there, low=-100, high=127, zero_point=3)
    words = rng.integers(-(1 << 15), 1 << 15, (wide, lanes)).astype(np.int16)
    content = kernel.codes(rng, m * blocks, lanes)
    kernel.check(code, content, forms=FORMS, wide=words if wide else None)


@each_overlay
@kernel.examples(10)
@given(seed=seeds, m=st.integers(1, matvec.ROWS), engines=st.lists(st.booleans(), min_size=2,
       max_size=4))  # fmt: skip
def test_sums_go_on_from_one_engine_to_the_other(name, seed, m, engines):
    """A product split along K, its parts on either engine."""
    overlay, rng = OVERLAYS[name], np.random.default_rng(seed)
    lanes = overlay.lanes
    shape = (lanes, 1, 2 * lanes)
    code = kernel.set_parameters(Code(overlay), (0, 0, 0, 0, 0))
    content, expected = kernel.codes(rng, 3 + 2 * m, lanes), np.zeros((m, lanes), np.int64)
    for part, on_engine in enumerate(engines):
        rows = kernel.codes(rng, 2 * lanes, lanes)
        start = sum(map(len, code.weights))
        code.weights.append(rows)
        f = product(overlay, shape, m) | {"first": int(part == 0), "overlap": 1}
        f |= {"last": int(part == len(engines) - 1), "pace": overlay.pace}
        f |= {} if on_engine else {"engine": 0}
        size = {"rows": len(rows), "memory_rows": len(rows)}
        code.add(isa.READ_WEIGHTS, memory=start, **size, matvec=int(on_engine))
        code.add(isa.MAT_MUL, **f)
        expected += content[3:].reshape(m, -1).astype(np.int64) @ rows.astype(np.int64)
    kernel.drain_raw(code, 256, m, target_col=1)
    words = kernel.check(code, content, forms=FORMS)
    np.testing.assert_array_equal(kernel.raw_sums(words, 256, m), expected)


def waited(groups: int, m: int, clocks: Fraction) -> int:
    """Clocks of the weights' wait, by the recurrence: a group starts when it is there."""
    at, free = 0, 0
    for group in range(groups):
        at = max(free, ceil((group + 1) * clocks))
        free = at + m
    return free - groups * m


@kernel.examples(100)
@given(
    blocks=st.integers(1, 40),
    count=st.integers(1, 5),
    m=st.integers(1, 8),
    parts=st.integers(256, 3000),
    name=st.sampled_from(list(OVERLAYS)),
)
def test_clocks_are_those_of_groups_that_arrive_in_turn(blocks, count, m, parts, name):
    overlay = OVERLAYS[name]
    f = kernel.simple_window(1, m) | {"blocks": blocks, "tiles": count, "last": 1, "engine": 9}
    f |= {"pace": parts // 256, "codes": parts % 256, "activation_bits": 8}
    groups = count * blocks * overlay.rows // overlay.stream_rows
    taken = matvec.clocks(f, overlay, 1)
    assert taken.matrix == groups * m
    assert taken.weight_shift == waited(groups, m, Fraction(parts, 256))
    wide = matvec.clocks(f | {"activation_bits": 16}, overlay, 1)
    assert wide.drain - taken.drain == count * m


@pytest.mark.parametrize(
    ("rows", "memory_rows", "parts"),
    [(64, 64, 2 * 256), (64, 32, 256), (128, 65, 260), (128, 16, 256), (64, 65, 520)],
)
def test_arrival_counts_ports_and_the_decoder(rows, memory_rows, parts):
    """Eight tile rows of int8 are two clocks of four ports, of int4 one; records come on top."""
    found = matvec.arrival(rows, memory_rows, OVERLAYS["s8p4"])
    assert found["pace"] * 256 + found["codes"] == parts


def status(code: Code, forms=FORMS) -> set[int]:
    found = set()
    for device, options in [("golden", {}), *(("csim", {"form": form}) for form in forms)]:
        with pytest.raises(DeviceError) as caught:
            kernel.run(code, device, **options)
        found.add(caught.value.status)
    return found


def faulty(overlay: Overlay, read=None, change=None, rows: int = 32) -> Code:
    """A product of one tile and two blocks, changed."""
    f = product(overlay, (overlay.lanes, 1, 2 * overlay.lanes), 2) | (change or {})
    code = Code(overlay, weights=[np.zeros((rows, overlay.lanes), np.int8)])
    fields = {"rows": rows, "memory_rows": rows, "matvec": 1} | (read or {})
    code.add(isa.READ_WEIGHTS, **fields)
    code.add(isa.MAT_MUL, **f)
    return code.add(isa.ACTIVATE, target=100, target_col=1)


@pytest.mark.parametrize(
    ("read", "change", "expected"),
    [
        ({}, {"words": 2}, 2), ({}, {"shift": 1}, 2), ({}, {"activation_bits": 4}, 2),
        ({}, {"pace": 0}, 2), ({}, {"kernel_w": 2}, 2), ({}, {"rows": 1}, 2),
        ({}, {"width": 9, "out_w": 9}, 4), ({}, {"first": 0}, 6),
        ({}, {"source": 1022}, 3), ({}, {"activation_bits": 16, "source": 126}, 3),
        ({"matvec": 0}, {}, 9), ({}, {"engine": 0}, 9), ({}, {"blocks": 3}, 9),
        ({}, {"blocks": 1}, 9), ({"rows": 31, "memory_rows": 31}, {}, 2),
        ({"index": 1}, {}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_engine_does_not_take_is_a_status(read, change, expected):
    assert status(faulty(OVERLAYS["s8p4"], read, change)) == {expected}


@pytest.mark.parametrize("change", [{}, {"blocks": 1}, {"engine": 0}], ids=str)
def test_a_broken_program_leaves_nothing_in_the_stream(change):
    """Rows and groups of rows that nobody takes are discarded; real streams would block."""
    code = faulty(OVERLAYS["s8p4"], None, change)
    code.add(isa.ACTIVATE, target=1 << 20)
    assert status(code, ("exact",)) <= {3, 9}


def test_an_overlay_without_the_engine_has_no_groups_of_rows():
    assert status(faulty(kernel.OVERLAYS["8x8"], rows=16)) == {2}


def test_an_int16_input_needs_the_wide_buffer():
    assert status(faulty(OVERLAYS["s2p1"], {}, {"activation_bits": 16}, rows=8)) == {3}


RATE = """
#include "kernel.hpp"
using namespace weft;
#define CHANNEL(p) Stream<PackedRows> packed_##p("packed", kPackedDepth);
#define MEMORY(p) , memory + (kOwnMemories ? p * own_rows(rows) * kBeats : 0)
/// Clocks of the decoder for one ReadWeights; memory never keeps it waiting.
extern "C" int decode_clocks(const std::int32_t *fields, const std::int8_t *bytes) {
  Stream<Command> to_weights("weights", 2), to_decode("decode", 2);
  Stream<PackedRows> packed("packed", kPackedDepth);
  WEFT_EACH_PORT(CHANNEL)
  WeightStream tiles("tiles", kTileDepth);
  Command words, end;
  for (int i = 0; i < kInstructionWords; ++i) words[i] = fields[i];
  end = words;
  end[0] = kBarrier;
  for (const Command &command : {words, end}) to_weights.write(command), to_decode.write(command);
  const Beat *memory = reinterpret_cast<const Beat *>(bytes);
  const long long rows = ReadWeights::decode(words).memory_rows;
  sim::run().decode_clocks = 0;
  weights(to_weights, memory, packed WEFT_EACH_PORT(MEMORY) WEFT_EACH_PORT(WEFT_PACKED));
  decode(to_decode, tiles, packed WEFT_EACH_PORT(WEFT_PACKED));
  return int(sim::run().decode_clocks);
}
"""


@pytest.mark.parametrize(
    ("name", "fmt"), [(name, fmt) for name, o in OVERLAYS.items() for fmt in o.formats]
)
def test_the_decoder_keeps_up_with_the_ports(name, fmt):
    """It takes the clocks that MatMul.pace and codes say, and a few to begin with."""
    overlay, rng = OVERLAYS[name], np.random.default_rng(8)
    weights, _ = stored(rng, FORMATS[fmt], (4 * overlay.lanes, 1, 512), overlay.lanes)
    rows = channels.dealt(weights.packed(0, 4), overlay).reshape(-1, overlay.lanes)
    read = weights.fields(0, 4) | {"memory_rows": len(weights.packed(0, 4)), "matvec": 1}
    words = isa.READ_WEIGHTS.encode(**read)
    library = kernel.unit_library(RATE, overlay, "functional")
    taken = library.decode_clocks(words.ctypes.data_as(ctypes.c_void_p),
                                  rows.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
    arrives = matvec.arrival(read["rows"], len(weights.packed(0, 4)) // overlay.beats, overlay)
    groups = read["rows"] // overlay.stream_rows
    least = groups * (arrives["pace"] + Fraction(arrives["codes"], matvec.FRACTION))
    assert groups <= taken <= least + 16
