"""Ranges of tokens: a head's keys and values by loops of integers, and every form alike."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa, memory_trace
from weft.config import Overlay
from weft.decoder_costs import steps
from weft.device import open_device
from weft.errors import OverlayError
from weft.estimate import instructions
from weft.lint import lint
from weft.state import FaultError
from weft.units import exponential, requant, transfer
from weft.units.rows import MASKED, exponentials

UNITS = ("requant", "vector", "lookup", "attention", "rotate", "token_ranges")
SMALL = Overlay(
    "8x8t", 8, 8, 4, 512, 64, 8, 64, units=UNITS, wide_words=512, operand_words=256
)  # fmt: skip
PACKED = replace(SMALL, name="8x8tp", bus_bytes=8, multiplier="packed")
GROUPED = replace(
    SMALL, name="8x8tg", engines=("systolic", "matvec"), stream_rows=4, weight_ports=4
)
NANO = replace(
    SMALL, name="nanot", rows=4, cols=4, buffer_words=256, accumulator_rows=16, parameter_blocks=4,
    tap_words=16,
)  # fmt: skip
OVERLAYS = [SMALL, PACKED, GROUPED]
FIRST, SCORES, QUERIES = (
    (3, 17),
    300,
    0,
)  # words of ranges of keys, of values; of scores; of queries


def rounded(x, q, s):
    """single_round of one number."""
    return min(
        max((int(x) * int(q) + (1 << (30 - int(s)))) >> (31 - int(s)), -(1 << 31)), 2**31 - 1
    )


def code_of(x, magnitude):
    """127 · x / magnitude by the unit's quotient."""
    if magnitude == 0:
        return 0
    mantissa, exponent = magnitude, 0
    while mantissa < 1 << 15:
        mantissa, exponent = mantissa * 2, exponent + 1
    code = (x * ((127 << 24) // mantissa) + (1 << (23 - exponent))) >> (24 - exponent)
    return min(max(code, -127), 127)


def quantized(x, scale):
    """(codes, magnitudes) of rows x [tokens, channels] of int16, by loops."""
    codes, sizes = [], []
    for row in x.tolist():
        y = [min(max(rounded(v << 14, *scale), -32767), 32767) for v in row]
        sizes.append(max(map(abs, y)))
        codes.append([code_of(v, sizes[-1]) for v in y])
    return np.asarray(codes), np.asarray(sizes)


class Head:
    """A head of random queries, keys and values, and the program that attends to them."""

    def __init__(self, o, seed, *, on_matvec=False, parts=1):
        rng = np.random.default_rng(seed)
        self.o, lanes = o, o.lanes
        most = 8 if on_matvec or o.rows < 8 else 16
        self.m, self.n = int(rng.integers(1, most + 1)), int(rng.integers(1, 3 * lanes))
        self.width, self.tiles = int(rng.integers(1, 3)), -(-self.n // lanes)
        self.m = min(self.m, o.accumulator_rows // self.width)
        spread = 10.0 ** rng.uniform(0, 4, (2, self.n, 1))
        x = rng.normal(0, 1, (2, self.n, self.width * lanes)) * spread
        x[rng.integers(2), rng.integers(self.n)] = 0  # a token of zeros
        self.x = np.clip(np.rint(x), -(1 << 15), (1 << 15) - 1).astype(np.int64)
        self.q = kernel.codes(rng, self.m, self.width * lanes).astype(np.int64)
        scale = requant.encode(2.0**-14 * rng.uniform(0.5, 3), "single_round")
        self.scale = tuple(int(v) for v in scale)
        top = 1024 * rng.uniform(0.5, 6) / (127**2 * 8 * np.sqrt(self.width * lanes))
        self.score = tuple(int(v) for v in requant.encode(top, "single_round"))
        self.shift, self.most = int(rng.integers(18, 25)), 127
        self.right = int(rng.integers(0, self.n))
        self.parts, self.on_matvec = parts if self.tiles > 1 else 1, int(on_matvec)
        self.out = 2.0**-16 * 2.0 ** rng.uniform(-3, 0)
        self.target = QUERIES + self.m * self.width

    @property
    def wide(self):
        """Keys, then values, in the wide buffer."""
        words = np.zeros((self.o.wide_words, self.o.lanes), np.int16)
        each = self.n * self.width
        for i, x in enumerate(self.x):
            turned = x.reshape(self.n, self.width, -1).transpose(1, 0, 2)
            words[i * each : (i + 1) * each] = turned.reshape(each, -1)
        return words

    @property
    def content(self):
        """Queries in the unified buffer."""
        words = self.q.reshape(self.m, self.width, -1).transpose(1, 0, 2)
        return words.reshape(-1, self.o.lanes).astype(np.int8)

    def code(self):
        """Rotate keys and values in two parts, attend, and divide."""
        o, lanes = self.o, self.o.lanes
        code = kernel.Code(o)
        for index, scale in enumerate((self.score, requant.encode(self.out, "single_round"))):
            q, s = (np.full(lanes, v) for v in scale)
            kernel.set_parameters(code, (np.zeros(lanes, np.int32), q, s, q, s), index)
        clear = {"memory": o.buffer_words // 2, "chunks": 1}  # rows that hold nothing
        code.add(isa.READ_HOST, words=o.operand_words // 2, space=1, **clear)
        code.add(isa.READ_HOST, words=o.range_words, space=3, **clear)
        cut = self.n // 2
        for part in range(2):
            for first, last in ((0, cut), (cut, self.n)):
                if first < last:
                    self.rotate(code, part, first, last)
        self.attend(code)
        return code

    def rotate(self, code, part, first, last):
        each, room = self.n * self.width, self.tiles * self.o.lanes
        code.add(
            isa.ROTATE, source=part * each + first, source_col=1, source_block=self.n,
            rows=last - first, blocks=self.width, plain=1, multiplier=self.scale[0],
            shift=self.scale[1], space=1, target=part * room * self.width + first,
            target_col=1, target_block=room, ranges=1, range_word=FIRST[part], range_first=first,
        )  # fmt: skip

    def attend(self, code):
        m, width, tiles = self.m, self.width, self.tiles
        room = tiles * self.o.lanes
        common = {"rows": m, "operand_block": room, "overlap": 1, "matvec": self.on_matvec}
        code.add(
            isa.ATTEND, source=QUERIES, source_block=m, source_col=1, blocks=width, tiles=tiles,
            transposed=1, **common,
        )  # fmt: skip
        code.add(
            isa.ACTIVATE, space=2, maximum=1, target=SCORES, target_block=m, target_col=1,
            keys=self.n, left=-(1 << 15), right=self.right, normalize=3, ranges=FIRST[0],
        )  # fmt: skip
        for first, last in ((0, 1), (1, tiles)) if self.parts == 2 else ((0, tiles),):
            code.add(
                isa.ATTEND, source=SCORES + first * m, source_block=m, source_col=1,
                blocks=last - first, tiles=width, operand=room * width + first * self.o.lanes,
                scores=1, most=self.most, ranged=1, ranges=FIRST[1] + first,
                range_shift=self.shift, goes_on=int(first > 0), stays=int(last < tiles), **common,
            )  # fmt: skip
        code.add(
            isa.ACTIVATE, target=self.target, target_block=m, target_col=1, normalize=1,
            parameter=1, low=-128, high=127,
        )  # fmt: skip

    def scores(self, codes, sizes):
        """Scores [queries, keys] as integers."""
        sums = self.q @ codes.T
        scaled = (sums * sizes + (1 << 11)) >> 12
        y = np.asarray([[rounded(v, *self.score) for v in row] for row in scaled.tolist()])
        seen = np.arange(self.n) <= np.arange(self.m)[:, None] + self.right
        return np.where(seen, np.clip(y, -32767, 32767), MASKED)

    def results(self, scores, codes, sizes):
        """Real results [queries, channels]: integers over the sum of the exponentials."""
        unit = exponential.methods(self.o)[0]
        e = exponentials(scores, scores.max(1), unit)
        half = (1 << self.shift) >> 1
        weights = np.minimum((e * sizes + half) >> self.shift, self.most)
        return (weights @ codes) / e.sum(1, keepdims=True) * 2.0**16 * self.out


def check_head(head, forms=kernel.FORMS):
    """Scores equal those of loops in every bit, results within a rounding of the division's."""
    words = kernel.check(head.code(), head.content, forms=forms, wide=head.wide)
    o, tiles, lanes = head.o, head.tiles, head.o.lanes
    halves = words[o.buffer_words :]
    wide = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    found = wide[SCORES : SCORES + tiles * head.m].reshape(tiles, head.m, lanes)
    found = found.transpose(1, 0, 2).reshape(head.m, -1)
    keys, values = (quantized(x, head.scale) for x in head.x)
    expected = head.scores(*keys)
    np.testing.assert_array_equal(found[:, : head.n], expected)
    assert (found[:, head.n :] == MASKED).all()
    out = words[head.target : head.target + head.m * head.width]
    out = out.reshape(head.width, head.m, lanes).transpose(1, 0, 2).reshape(head.m, -1)
    real = np.clip(head.results(expected, *values), -128, 127)
    assert np.abs(out - real).max() <= 1
    return words


@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@pytest.mark.parametrize("parts", [1, 2])
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(15)
def test_a_head_is_that_of_loops_on_every_form(o, parts, seed):
    check_head(Head(o, seed, parts=parts))


@pytest.mark.parametrize("parts", [1, 2])
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(15)
def test_engine_matvec_attends_to_the_same_bits(parts, seed):
    words = [check_head(Head(GROUPED, seed, on_matvec=True, parts=parts))]
    head = Head(GROUPED, seed, on_matvec=True, parts=parts)
    head.on_matvec = 0
    np.testing.assert_array_equal(words[0], check_head(head))


@pytest.mark.parametrize("on_matvec", [False, True])
def test_the_exact_form_computes_alike(on_matvec):
    o = replace(NANO, name="nanotg", engines=GROUPED.engines, stream_rows=4, weight_ports=2)
    check_head(Head(o if on_matvec else NANO, 5, on_matvec=on_matvec), forms=("exact",))


def turned(rng, o, **more):
    """The fields of a Rotate that turns pairs of two heads' blocks, by a table at word 200."""
    q, s = requant.encode(2.0**-15, "single_round")
    f = {"rows": 5, "blocks": 2, "head_blocks": 2, "swap": 1, "table": 200, "table_col": 4}
    f |= {"source": 9, "source_col": 2, "source_block": 1, "multiplier": int(q), "shift": int(s)}
    return f | {"target": 30, "target_col": 1, "target_block": 5, **more}


@given(first=st.integers(0, 40), seed=st.integers(0, 1 << 30))
@kernel.examples(20)
def test_rotated_rows_fill_their_codes(first, seed):
    """With an angle each, and wherever their lanes are: codes are 127 parts of the magnitude."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(-9999, 9999, (512, 8)).astype(np.int16)
    f = turned(rng, SMALL)
    plain = kernel.run(kernel.Code(SMALL).add(isa.ROTATE, **f | {"space": 2}), wide=wide)[0]
    halves = plain[SMALL.buffer_words :]
    y = (halves[1::2].astype(np.int64) * 256 + halves[::2].view(np.uint8))[30:40]
    y = y.reshape(2, 5, 8)  # what the same rotation gives as int16
    code = kernel.Code(SMALL).add(isa.ROTATE, **f, ranges=1, range_word=2, range_first=first)
    words = kernel.check(code, wide=wide)
    largest = np.abs(y).max((0, 2))
    for block, row, lane in np.ndindex(y.shape):
        expected = code_of(int(y[block, row, lane]), int(largest[row]))
        assert words[30 + block * 5 + row, lane] == expected
    assert kernel.run(code, wide=wide)[1].counters["vector"] == 2 * 4 * 10


def moved(o, before, rotates, wide, device):
    """Words of ranges behind Rotates [fields], which found `before` there."""
    code, rows = kernel.Code(o), 2 * o.range_words
    code.add(isa.READ_HOST, memory=0, words=o.range_words, chunks=1, space=3)
    code.add(isa.READ_HOST, memory=2 * rows, words=o.wide_words, chunks=1, space=2)
    for f in rotates:
        code.add(isa.ROTATE, **f)
    code.add(isa.WRITE_HOST, memory=rows, words=o.range_words, chunks=1, space=3)
    opened = open_device(device)
    opened.load(code.program(memory_rows=2 * rows + 2 * o.wide_words))
    opened.write(0, transfer.halves(before))
    opened.write(2 * rows, transfer.halves(wide))
    opened.run(0, 1)
    after = transfer.joined(opened.read(rows, rows))
    opened.close()
    return after


@pytest.mark.parametrize("first", [0, 3, 7, 8, 13])
def test_magnitudes_keep_those_before_and_clear_those_behind(first):
    """Once or twice, they are the same: what a lane had before does not come back."""
    rng = np.random.default_rng(first)
    wide = rng.integers(-9999, 9999, (512, 8)).astype(np.int16)
    before = rng.integers(-(1 << 15), 1 << 15, (SMALL.range_words, 8)).astype(np.int16)
    f = turned(rng, SMALL, ranges=1, range_word=2, range_first=first, space=1, plain=1)
    rows = np.stack([wide[9 + 2 * r : 11 + 2 * r] for r in range(5)]).astype(np.int64)
    scale = f["multiplier"], f["shift"]
    sizes = [max(abs(rounded(v << 14, *scale)) for v in row.ravel().tolist()) for row in rows]
    expected = before.reshape(-1).copy()
    at = 16 + first
    last = (at + 4) // 8 * 8 + 8
    expected[at : at + 5], expected[at + 5 : last] = sizes, 0
    for device in ("golden", "csim"):
        for times in (1, 2):
            found = moved(SMALL, before, [f] * times, wide, device)
            assert found.reshape(-1).tolist() == expected.tolist()


def test_words_of_ranges_are_two_rows_of_memory():
    """In a trace of what moves, and in the estimate's bytes."""
    code, words = kernel.Code(SMALL), SMALL.range_words
    code.add(isa.READ_HOST, memory=0, words=words, chunks=1, space=3)
    code.add(isa.WRITE_HOST, memory=2 * words, words=words - 1, buffer=1, chunks=1, space=3)
    program = code.program(memory_rows=4 * words)
    opened = open_device("csim", form="cycle")
    opened.load(program)
    trace = memory_trace.traced(opened)
    opened.close()
    loaded, stored = trace.nbytes(memory_trace.LOADS), trace.nbytes(memory_trace.STORES)
    assert (loaded, stored) == (2 * words * SMALL.lanes, 2 * (words - 1) * SMALL.lanes)
    there = instructions(program, 1, (0, 0))
    assert trace.bytes == sum(item.bytes - steps.INSTRUCTION_BYTES for item in there)


BAD = {
    "as they are": ({}, {}, {}, {}, 0),
    "rotated to the wide buffer": ({"space": 2, "target": 100}, {}, {}, {}, 2),
    "rotated to the ranges": ({"space": 3}, {}, {}, {}, 2),
    "a word behind the last": ({"range_word": 30, "range_first": 16}, {}, {}, {}, 5),
    "a token far behind": ({"range_first": (1 << 32) - 1}, {}, {}, {}, 5),
    "scores to the ranges": ({}, {"space": 3, "maximum": 0}, {}, {}, 2),
    "scores by words behind the last": ({}, {"ranges": 31}, {}, {}, 5),
    "scores as they are": ({}, {"mode": 8}, {}, {}, 2),
    "queries by ranges": ({}, {}, {"scores": 0}, {}, 2),
    "rounded probabilities": ({}, {}, {"normalized": 1}, {}, 2),
    "values by words behind the last": ({}, {}, {"ranges": 31}, {}, 5),
    "sums of values by keys": ({}, {}, {}, {"normalize": 3}, 2),
}  # fmt: skip


def bad(o, rotate, scores, values, results):
    """A program of a few tokens, with fields changed."""
    code = kernel.set_parameters(kernel.Code(o), kernel.parameters(np.random.default_rng(2), 8))
    f = turned(None, o, plain=1, target=0, space=1, ranges=1, range_word=0)
    code.add(isa.ROTATE, **f | rotate)
    common = {"rows": 2, "operand_block": 8, "source_col": 1, "source_block": 2, "blocks": 2}
    code.add(isa.ATTEND, **common, tiles=2, transposed=1)
    f = {"space": 2, "maximum": 1, "target": 100, "target_col": 1, "target_block": 2, "keys": 5}
    code.add(isa.ACTIVATE, **f | {"right": 8, "normalize": 3} | scores)
    f = {"source": 100, "tiles": 1, "scores": 1, "most": 127, "ranged": 1, "range_shift": 22}
    code.add(isa.ATTEND, **common | f | values)
    f = {"target": 200, "target_col": 1, "normalize": 1, "low": -128, "high": 127}
    return code.add(isa.ACTIVATE, **f | results)


@pytest.mark.parametrize("case", BAD)
def test_bad_instructions_end_with_the_same_status(case):
    *changes, status = BAD[case]
    for device in ("golden", "csim"):
        assert status_of(bad(SMALL, *changes), device) == status, device


def status_of(code, device):
    """0, or the status that a run ends with."""
    try:
        kernel.run(code, device)
    except FaultError as error:
        return error.status
    return 0


def test_without_the_unit_there_are_no_ranges_of_tokens():
    o = replace(SMALL, name="8x8tn", units=UNITS[:-1])
    without = {"normalize": 0}, {"ranged": 0}, {}
    for device in ("golden", "csim"):
        for used in range(3):
            changes = [{"ranges": 0}, *without]
            changes[used] = {}
            assert status_of(bad(o, *changes), device) == 2, (device, used)
        assert status_of(bad(o, {"ranges": 0}, *without), device) == 0
    with pytest.raises(OverlayError, match="unit token_ranges needs units attention and rotate"):
        replace(SMALL, units=("requant", "attention", "token_ranges")).verify()


def test_the_hardware_is_clean():
    ours = ("rotate.hpp", "ranges.hpp", "rows.hpp", "writer.hpp", "attention.hpp", "transfer.hpp")
    assert [str(f) for f in lint(SMALL) if f.file.rpartition("/")[2] in ours] == []
