"""Attend and its Activates: golden against real attention, and every simulation against golden."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import kernel

from weft import isa
from weft.config import Overlay
from weft.device import open_device
from weft.state import FaultError
from weft.units import matvec, requant, transfer
from weft.units.rows import MASKED

UNITS = ("requant", "vector", "lookup", "attention")
SMALL = Overlay(
    "8x8a", 8, 8, 4, 512, 64, 8, 64, units=UNITS, wide_words=512, operand_words=256,
    softmax=("pwl", "dlc", "table"),
)  # fmt: skip
PACKED = replace(SMALL, name="8x8ap", bus_bytes=8, multiplier="packed", softmax=("pwl",))
NANO = Overlay(
    "nanoa", 4, 4, 4, 64, 16, 2, 16, units=UNITS, wide_words=64, operand_words=32
)  # fmt: skip
# The operand buffer's banks in parts, as engine matvec reads them.
GROUPED = replace(
    SMALL, name="8x8ag", engines=("systolic", "matvec"), stream_rows=4, weight_ports=4,
    softmax=("pwl",),
)  # fmt: skip
PAIRS = replace(GROUPED, name="8x8a2", stream_rows=8, weight_ports=2, weight_bits=16)
SINGLE = replace(GROUPED, name="8x8a1", weight_ports=1)
OVERLAYS = [SMALL, PACKED, GROUPED]


def scale_parameters(code, scale, index, bias=0):
    """One parameter block of a real scale for all lanes."""
    lanes = code.overlay.lanes
    q, s = requant.encode(np.full(lanes, scale), "single_round")
    return kernel.set_parameters(code, (np.full(lanes, bias, np.int32), q, s, q, s), index)


def heads(rng, o, queries, keys, width):
    """Random Q [queries, width], K and V [keys, width] and their words."""
    q, k, v = (kernel.codes(rng, n, width * o.lanes) for n in (queries, keys, keys))
    return q, k, v


def words_of(x, lanes):
    """[tokens, channels] as words [blocks, tokens, lanes]."""
    return x.reshape(len(x), -1, lanes).transpose(1, 0, 2)


def attention_code(o, q, k, v, score_scale, on_matvec=False, **mask):
    """A head: Q in the unified buffer, K and V through memory to the operand buffer."""
    lanes, (m, width), n = o.lanes, q.shape, len(k)
    tiles, blocks = -(-n // lanes), width // lanes
    code = kernel.Code(o)
    scale_parameters(code, score_scale, 0)
    scale_parameters(code, 2.0**-16, 1)
    base = 2 * tiles * lanes * blocks
    for at in (0, tiles * lanes * blocks):
        move = {"memory": m * blocks + at, "buffer": at, "words": tiles * lanes * blocks}
        code.add(isa.READ_HOST, **move, chunks=1, space=1)
    common = {"rows": m, "operand_block": tiles * lanes, "overlap": 1, "matvec": int(on_matvec)}
    code.add(
        isa.ATTEND, source=0, source_block=m, source_col=1, blocks=blocks, tiles=tiles,
        transposed=1, **common,
    )  # fmt: skip
    code.add(
        isa.ACTIVATE, space=2, maximum=1, target=0, target_block=m, target_col=1, mode=0,
        **{"keys": n, "left": -(1 << 15), "right": (1 << 15) - 1, **mask},
    )  # fmt: skip
    code.add(
        isa.ATTEND, source=0, source_block=m, source_col=1, blocks=tiles, tiles=blocks,
        operand=tiles * lanes * blocks, scores=1, most=127, **common,
    )  # fmt: skip
    code.add(
        isa.ACTIVATE, target=m * blocks + base, target_block=m, target_col=1, normalize=1,
        parameter=1, low=-128, high=127,
    )  # fmt: skip
    pad = np.zeros((tiles * lanes - n, width), np.int8)
    content = [words_of(x, lanes).reshape(-1, lanes) for x in (q, np.concatenate([k, pad]),
               np.concatenate([v, pad]))]  # fmt: skip
    return code, np.concatenate(content), m * blocks + base


def oracle(q, k, v, score_scale, n, left=-(1 << 15), right=(1 << 15) - 1, keys=None):
    """Real attention of integers, masked."""
    s = np.round(q.astype(float) @ k.astype(float).T * score_scale) / 1024
    i, j = np.ogrid[: len(q), :n]
    seen = (j < (n if keys is None else keys)) & (j >= i + left) & (j <= i + right)
    top = np.where(seen, s, -np.inf).max(1, keepdims=True)
    e = np.where(seen, np.exp(s - np.where(np.isfinite(top), top, 0)), 0)
    total = e.sum(1, keepdims=True)
    return np.where(total > 0, e @ v / np.where(total > 0, total, 1), 0)


@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(25)
def test_a_head_equals_real_attention_on_every_form(o, seed):
    rng = np.random.default_rng(seed)
    m, n, width = rng.integers(1, 17), rng.integers(1, 30), rng.integers(1, 3)
    q, k, v = heads(rng, o, m, n, width)
    scale = 1024 * float(rng.uniform(0.5, 6)) / 127**2 / np.sqrt(width * o.lanes)
    mask = {}
    if rng.integers(2):
        left = int(rng.integers(-6, 1))
        mask = {"left": left, "right": left + int(rng.integers(0, 9))}
    code, content, target = attention_code(o, q, k, v, scale, **mask)
    words = kernel.check(code, content)
    found = words[target : target + m * width].reshape(width, m, -1).transpose(1, 0, 2)
    expected = oracle(q, k, v, scale, n, **mask)
    assert np.abs(found.reshape(m, -1) - expected).max() < 4.5  # exp to 1/254 of the largest, pwl


@pytest.mark.parametrize("o", [GROUPED, PAIRS, SINGLE], ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(25)
def test_engine_matvec_attends_to_the_same_bits(o, seed):
    rng = np.random.default_rng(seed)
    m, n, width = rng.integers(1, matvec.ROWS + 1), rng.integers(1, 30), rng.integers(1, 3)
    q, k, v = heads(rng, o, m, n, width)
    scale = 1024 * float(rng.uniform(0.5, 6)) / 127**2 / np.sqrt(width * o.lanes)
    mask = {"right": int(rng.integers(0, 9))} if rng.integers(2) else {}
    words = []
    for on_matvec in (True, False):
        code, content, target = attention_code(o, q, k, v, scale, on_matvec, **mask)
        words.append(kernel.check(code, content, forms=("cycle", "functional")))
    np.testing.assert_array_equal(*words)
    found = words[0][target : target + m * width].reshape(width, m, -1).transpose(1, 0, 2)
    assert np.abs(found.reshape(m, -1) - oracle(q, k, v, scale, n, **mask)).max() < 4.5


def test_attention_on_matvec_takes_a_clock_per_group_and_row():
    o = GROUPED
    rng = np.random.default_rng(2)
    code, content, _ = attention_code(o, *heads(rng, o, 3, 20, 2), 0.1, on_matvec=True)
    _, result = kernel.run(code, content=content)
    folds = 2 * (3 * 2)  # tiles of keys and channels, twice
    assert result.counters["matrix"] == folds * (o.lanes // 4) * 3
    assert result.counters["weight_shift"] == 0


@pytest.mark.parametrize("on_matvec", [False, True])
def test_the_exact_form_computes_alike_in_groups(on_matvec):
    o = replace(NANO, name="nanog", engines=GROUPED.engines, stream_rows=4, weight_ports=2)
    rng = np.random.default_rng(0)
    code, content, _ = attention_code(o, *heads(rng, o, 5, 7, 1), 0.2, on_matvec)
    kernel.check(code, content, forms=("exact", "functional"))


def test_the_exact_form_computes_alike():
    rng = np.random.default_rng(0)
    q, k, v = heads(rng, NANO, 5, 7, 1)
    code, content, _ = attention_code(NANO, q, k, v, 0.2)
    kernel.check(code, content, forms=("exact", "functional"))


def hgpipe_tables(rng):
    """Tables of the shape that HG-PIPE's have: exponentials fall, reciprocals too."""
    exp = np.sort(rng.integers(0, 1 << 15, 32))[::-1]
    small, large = (np.sort(rng.integers(0, 1 << 12, 64))[::-1] for _ in range(2))
    words = [3, 31, int(rng.integers(0, 6)), *exp]
    words += [0, 63, 9, *small, 5, 63, 13, *large]
    return np.array([*words, 63, 1 << 12, 13, 1 << 15, 16], np.int32)


def set_softmax(code, words):
    """SetTable of a row unit's tables."""
    rows = -(-len(words) * 4 // code.overlay.lanes)
    data = np.zeros(rows * code.overlay.lanes, np.int8)
    data[: 4 * len(words)] = words.astype("<i4").view(np.int8)
    code.feed(data)
    return code.add(isa.SET_TABLE, target=3, index=0, count=len(words))


@given(seed=st.integers(0, 1 << 30))
@kernel.examples(15)
def test_table_softmax_is_normalized_before_the_product(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 12), rng.integers(1, 25)
    q, k, v = heads(rng, SMALL, m, n, 1)
    code, content, _ = attention_code(SMALL, q, k, v, 2.0**-7)
    tables = hgpipe_tables(rng)
    if rng.integers(3) == 0:  # whatever a program brings, no index leaves its table
        tables = rng.integers(-(1 << 31), 1 << 31, len(tables)).astype(np.int32)
    head = set_softmax(kernel.Code(SMALL, weights=list(code.weights)), tables)
    code.words[:0], code.weights = head.words, head.weights
    attend, last = code.words[-2], code.words[-1]
    names = [f.name for f in isa.ATTEND.fields]
    attend[1 + names.index("normalized")], attend[1 + names.index("method")] = 1, 2
    attend[1 + names.index("most")] = int(rng.integers(1, 128))
    last[1 + [f.name for f in isa.ACTIVATE.fields].index("normalize")] = 0
    kernel.check(code, content)


@pytest.mark.parametrize("method", [0, 1])
def test_probabilities_as_codes(method):
    rng = np.random.default_rng(method)
    q, k, v = heads(rng, SMALL, 9, 20, 2)
    code, content, target = attention_code(SMALL, q, k, v, 0.05)
    names = [f.name for f in isa.ATTEND.fields]
    for name, value in (("normalized", 1), ("method", method)):
        code.words[-2][1 + names.index(name)] = value
    last = [f.name for f in isa.ACTIVATE.fields]
    code.words[-1][1 + last.index("normalize")] = 0
    code.words[-1][1 + last.index("parameter")] = 0  # 0.05 of 128 · the result
    words = kernel.check(code, content)
    found = words[target : target + 18].reshape(2, 9, -1).transpose(1, 0, 2).reshape(9, -1)
    expected = np.clip(oracle(q, k, v, 0.05, 20) * 128 * 0.05, -128, 127)
    assert np.abs(found - expected).max() <= 20 * 127 * 0.5 * 0.05  # half a code per key, at most


@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(15)
def test_products_add_to_the_wide_buffer(o, seed):
    """Activate to int16 words, with a residual that is scaled: in place, or from elsewhere."""
    rng = np.random.default_rng(seed)
    m, tiles, mode = int(rng.integers(1, 9)), int(rng.integers(1, 3)), int(rng.integers(0, 3))
    x, w = kernel.codes(rng, m, o.lanes), kernel.codes(rng, tiles, o.lanes, o.lanes)
    wide = rng.integers(-(1 << 15), 1 << 15, (o.wide_words, o.lanes)).astype(np.int16)
    code = kernel.Code(o)
    kernel.set_parameters(code, kernel.parameters(rng, tiles * o.lanes, mode))
    code.feed(w)
    strides = kernel.strides("source", (1, 1, m))
    code.add(
        isa.MAT_MUL, **kernel.simple_window(1, m), **strides, blocks=1, tiles=tiles, first=1,
        last=1, overlap=1,
    )  # fmt: skip
    base = 5 if rng.integers(2) else 5 + tiles * m + int(rng.integers(0, 9))
    where = {"_block": m, "_row": 0, "_col": 1, "_sample": 0}
    q, s = (int(v) for v in requant.encode(np.float64(rng.uniform(0.001, 2)), "single_round"))
    target = {f"target{k}": v for k, v in where.items()}
    added = {f"residual{k}": v for k, v in where.items()}
    code.add(
        isa.ACTIVATE, target=5, **target, **added, residual_base=base, space=2, residual=1,
        residual_multiplier=q, residual_shift=s, mode=mode, parameter_step=1,
    )  # fmt: skip
    words = kernel.check(code, x, wide=wide)
    found = transfer.joined(words[o.buffer_words :])
    untouched = np.ones(o.wide_words, bool)
    untouched[5 : 5 + tiles * m] = False
    np.testing.assert_array_equal(found[untouched], wide[untouched])


def attend(**fields):
    """A legal Attend on SMALL, with some fields changed."""
    plain = {"source_col": 1, "rows": 4, "blocks": 1, "tiles": 1, "transposed": 1, "overlap": 1}
    return isa.ATTEND.encode(**plain | fields)


def activate(**fields):
    return isa.ACTIVATE.encode(**{"target": 64, "target_col": 1, "high": 127} | fields)


SCORES = (attend(), activate(space=2, maximum=1, keys=8, left=-8, right=8))
BAD = {
    "no rows": (2, [attend(rows=0)]),
    "normalized without scores": (2, [attend(normalized=1)]),
    "a source outside": (3, [attend(source=510)]),
    "a stationary operand outside": (3, [attend(operand=249)]),
    "its last block outside": (3, [attend(blocks=2, operand_block=249)]),
    "too many rows": (4, [attend(rows=65)]),
    "scores without maxima": (6, [attend(scores=1)]),
    "maxima of other rows": (6, [*SCORES, attend(scores=1, rows=3)]),
    "a method that is not there": (2, [*SCORES, attend(scores=1, method=3)]),
    "too many keys": (2, [*SCORES, attend(scores=1, blocks=4097)]),
    "no Activate": (6, [attend(), attend()]),
    "maximum of what is no score": (2, [attend(), activate(maximum=1)]),
    "division without exponentials": (2, [attend(), activate(normalize=1)]),
    "residual in codes": (2, [attend(), activate(residual=1)]),
    "residual beside scores": (2, [*SCORES, attend(scores=1), activate(space=2, residual=1)]),
    "lookup in the wide buffer": (2, [attend(), activate(space=2, lookup=1)]),
    "raw bytes in the wide buffer": (2, [attend(), activate(space=2, mode=4)]),
    "no such space": (2, [attend(), activate(space=3)]),
    "a target outside the wide buffer": (3, [attend(), activate(space=2, target=510)]),
    "a residual outside": (3, [attend(), activate(space=2, residual=1, residual_base=512)]),
    "an output on its keys": (7, [attend(), activate(space=1, target=7)]),
    "an output on its scores": (
        7, [*SCORES, attend(scores=1, source=64), activate(space=2, target=67)],
    ),
    "a residual that is overwritten": (
        7, [attend(), activate(space=2, residual=1, residual_base=65, residual_col=1)],
    ),
    "operands to memory": (2, [isa.WRITE_HOST.encode(words=1, chunks=1, space=1)]),
    "a wide word past memory": (
        8, [isa.READ_HOST.encode(memory=3071, words=1, chunks=1, space=2)],
    ),
    "half a softmax table": (2, [isa.SET_TABLE.encode(target=3, count=9)]),
    "norm tables that are not there": (2, [isa.SET_TABLE.encode(target=4, count=9)]),
    "wide words outside": (5, [isa.SET_TABLE.encode(target=5, index=511, count=2)]),
}  # fmt: skip


MATVEC = {
    "an operand inside a group": (2, {"operand": 2}),
    "blocks inside a group": (2, {"operand_block": 30, "blocks": 2, "source_block": 4}),
    "more rows than the engine has": (4, {"rows": 9}),
}


@pytest.mark.parametrize("name", MATVEC)
def test_what_matvec_does_not_attend_to_is_a_status(name):
    status, fields = MATVEC[name]
    assert statuses(GROUPED, [attend(matvec=1, **fields)]) == {status}
    assert statuses(SMALL, [attend(matvec=1)]) == {2}


def statuses(o, words, weights=()):
    """How a program ends on golden and on the hardware's source."""
    code = kernel.Code(o, words=list(words), weights=list(weights))
    found = set()
    for device, options in (("golden", {}), ("csim", {"form": "functional"})):
        opened = open_device(device, **options)
        opened.load(code.program(memory_rows=3072))
        with pytest.raises(FaultError) as caught:
            opened.run(0, 1)
        found.add(caught.value.status)
        opened.close()
    return found


@pytest.mark.parametrize("name", BAD)
def test_bad_instructions_end_alike_everywhere(name):
    status, words = BAD[name]
    assert statuses(SMALL, words) == {status}


def test_an_overlay_without_attention_knows_no_attend():
    assert statuses(kernel.OVERLAYS["8x8"], [attend()]) == {1}


def test_masked_rows_give_zeros():
    rng = np.random.default_rng(3)
    q, k, v = heads(rng, SMALL, 6, 9, 1)
    code, content, target = attention_code(SMALL, q, k, v, 0.1, keys=0)
    assert not kernel.check(code, content)[target : target + 6].any()
    assert MASKED == -(1 << 15)
