"""Attention in tiles of keys: whatever the tiles, each word is that of whole rows of scores."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import kernel
from tests.units.test_attention import (
    GROUPED,
    NANO,
    PACKED,
    PAIRS,
    SMALL,
    attention_code,
    heads,
    statuses,
)

from weft import isa

DEEP = replace(SMALL, name="8x8ad", operand_words=128, wide_words=64)  # keys, not their scores
WHOLE = replace(DEEP, name="8x8adw", wide_words=512)

NANO_GROUPED = replace(
    NANO, name="nanog", engines=("systolic", "matvec"), stream_rows=2, weight_ports=2
)


def changed(words, **fields):
    """An instruction with some fields changed."""
    kind, own = isa.decode(words)
    return kind.encode(**{**own, **fields})


def tiled_code(o, q, k, v, scale, cuts, drains=True, bias=False, **mask):
    """`attention_code` whose keys come in tiles that end at `cuts`, in two sweeps.

    The last Attend hands its sums over, or, with `drains`, an Activate takes those that stay. With
    `bias` words of the wide buffer, [tiles of keys][queries] behind the scores, are added to them.
    """
    code, content, target = attention_code(o, q, k, v, scale, **mask)
    whole = code.words[-4:]
    m, lanes, width = len(q), o.lanes, q.shape[1] // o.lanes
    own = isa.decode(whole[1])[1]
    edges = list(itertools.pairwise([0, *cuts]))
    del code.words[-4:]

    def scores(n, first, last, **fields):
        step = first * lanes
        code.words.append(
            changed(whole[0], operand=step, tiles=last - first, accumulator=m * width)
        )
        sides = {side: np.clip(own[side] - step, -(1 << 15), (1 << 15) - 1) for side in SIDES}
        keys = max(0, min(own["keys"] - step, (last - first) * lanes))
        added = bias_fields(m, len(k), lanes, first) if bias else {}
        code.words.append(changed(whole[1], keys=keys, **sides, **added, **fields))

    for n, (first, last) in enumerate(edges):
        scores(n, first, last, discard=1, running=int(n > 0), target_block=0, target_col=0)
    for n, (first, last) in enumerate(edges):
        scores(n, first, last, running=1)
        operand = isa.decode(whole[2])[1]["operand"] + first * lanes
        stays = int(drains or n < len(edges) - 1)
        goes_on = int(n > 0)
        code.words.append(
            changed(whole[2], operand=operand, blocks=last - first, stays=stays, goes_on=goes_on)
        )
    code.words.append(whole[3])
    return code, content, target


SIDES = ("left", "right")


def bias_fields(rows, keys, lanes, tile):
    """What is added to scores from column tile `tile` on."""
    return {
        "residual": 1,
        "residual_base": 256 + tile * rows,
        "residual_block": rows,
        "residual_col": 1,
        "residual_multiplier": 1 << 30,
        "residual_shift": 1,
    }


def outputs(words, target, m, width):
    return words[target : target + m * width]


def splits(tiles):
    """Every way to cut so many column tiles."""
    for inner in itertools.product((False, True), repeat=tiles - 1):
        yield [i + 1 for i, cut in enumerate([*inner, True]) if cut]


@pytest.mark.parametrize("seed", range(2))
def test_every_split_of_a_row_gives_its_words(seed):
    rng = np.random.default_rng(seed)
    m, n, width = 5 + seed, 34 + seed, 1 + seed
    q, k, v = heads(rng, SMALL, m, n, width)
    mask = {"left": -3, "right": 12, "keys": 31} if seed else {}
    code, content, target = attention_code(SMALL, q, k, v, 0.03, **mask)
    expected = outputs(kernel.run(code, content=content)[0], target, m, width)
    assert expected.any()
    for drains, cuts in itertools.product((False, True), splits(-(-n // SMALL.lanes))):
        code, content, _ = tiled_code(SMALL, q, k, v, 0.03, cuts, drains, **mask)
        for device in ({}, {"device": "csim", "form": "functional"}):
            words = kernel.run(code, content=content, **device)[0]
            np.testing.assert_array_equal(outputs(words, target, m, width), expected, str(cuts))


@pytest.mark.parametrize("o", [SMALL, PACKED, GROUPED, PAIRS], ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(25)
def test_tiles_equal_the_whole_row_on_every_form(o, seed):
    rng = np.random.default_rng(seed)
    few = "matvec" in o.engines and rng.integers(3) > 0
    ends = ((1, 9 if few else 17), (1, 49), (1, 3))
    m, n, width = (int(rng.integers(*each)) for each in ends)
    q, k, v = heads(rng, o, m, n, width)
    scale = 1024 * float(rng.uniform(0.5, 6)) / 127**2 / np.sqrt(width * o.lanes)
    mask = {}
    if rng.integers(2):
        left = int(rng.integers(-20, 20))
        mask = {"left": left, "right": left + int(rng.integers(0, 30))}
        mask["keys"] = int(rng.integers(0, n + 1))
    tiles = -(-n // o.lanes)
    cuts = sorted({*(int(c) for c in rng.integers(1, tiles + 1, rng.integers(0, 5))), tiles})
    wide = rng.integers(-2048, 2048, (o.wide_words, o.lanes)).astype(np.int16)
    bias = bool(rng.integers(2))
    plain, content, target = attention_code(o, q, k, v, scale, **mask)
    if bias:
        plain.words[-3] = changed(plain.words[-3], **bias_fields(m, n, o.lanes, 0))
    drains = bool(rng.integers(2))
    code, _, _ = tiled_code(o, q, k, v, scale, cuts, drains, bias, **mask)
    if few:  # tiles of one row on either engine
        code.words = [
            changed(w, matvec=int(rng.integers(2))) if w[0] == isa.ATTEND.opcode else w
            for w in code.words
        ]
    expected = outputs(kernel.check(plain, content, wide=wide), target, m, width)
    found = outputs(kernel.check(code, content, wide=wide), target, m, width)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("o", [NANO, NANO_GROUPED], ids=lambda o: o.name)
def test_the_exact_form_goes_on_alike(o):
    rng = np.random.default_rng(1)
    q, k, v = heads(rng, o, 5, 11, 1)
    code, content, _ = tiled_code(o, q, k, v, 0.2, [1, 2, 3])
    if "matvec" in o.engines:  # every other Attend
        attends = [i for i, w in enumerate(code.words) if w[0] == isa.ATTEND.opcode]
        for i in attends[::2]:
            code.words[i] = changed(code.words[i], matvec=1)
    kernel.check(code, content, forms=("exact", "functional"))


def test_scores_that_do_not_fit_the_wide_buffer_go_tile_by_tile():
    rng = np.random.default_rng(2)
    m, n = 20, 60  # 8 tiles of 20 words, in 64 words
    q, k, v = heads(rng, DEEP, m, n, 1)
    code, content, target = tiled_code(DEEP, q, k, v, 0.02, [3, 6, 8])
    found = outputs(kernel.check(code, content), target, m, 1)
    plain, content, _ = attention_code(WHOLE, q, k, v, 0.02)
    expected = outputs(kernel.run(plain, content=content)[0], target, m, 1)
    np.testing.assert_array_equal(found, expected)


def test_sums_that_stay_may_leave_more_than_once():
    rng = np.random.default_rng(4)
    q, k, v = heads(rng, SMALL, 7, 20, 2)
    code, content, target = tiled_code(SMALL, q, k, v, 0.03, [1, 3])
    more = target + 14
    code.words.append(changed(code.words[-1], target=more))
    words = kernel.check(code, content)
    np.testing.assert_array_equal(words[more : more + 14], words[target : target + 14])


def attend(**fields):
    """A legal Attend on SMALL, with some fields changed."""
    plain = {"source_col": 1, "rows": 4, "blocks": 1, "tiles": 2, "transposed": 1, "overlap": 1}
    return isa.ATTEND.encode(**plain | fields)


def scored(**fields):
    return attend(scores=1, most=127, transposed=0, **fields)


def activate(**fields):
    return isa.ACTIVATE.encode(**{"target": 64, "target_col": 1, "high": 127} | fields)


KEPT = {"space": 2, "maximum": 1, "keys": 8, "left": -8, "right": 8, "target": 0}
SCORES = (attend(), activate(**KEPT))
MATMUL = isa.MAT_MUL.encode(
    **kernel.simple_window(1, 4), source_col=1, blocks=1, tiles=1, first=1, overlap=1, pace=1,
    words=1, activation_bits=8, weight_bits=8,
)  # fmt: skip
WEIGHTS = isa.READ_WEIGHTS.encode(rows=8, memory_rows=8)
BAD = {
    "nothing stayed": (6, [attend(goes_on=1)]),
    "other rows stayed": (6, [attend(stays=1), attend(goes_on=1, rows=3)]),
    "other tiles stayed": (6, [attend(stays=1), attend(goes_on=1, tiles=1)]),
    "at another place": (6, [attend(stays=1), attend(goes_on=1, accumulator=4)]),
    "other sums stayed": (6, [*SCORES, scored(stays=1), attend(goes_on=1)]),
    "sums that were taken over": (
        6, [attend(stays=1), attend(goes_on=1), activate(), attend(goes_on=1)],
    ),
    "sums under others": (6, [attend(stays=1), *SCORES, attend(goes_on=1)]),
    "sums of before a MatMul": (
        6, [WEIGHTS, attend(stays=1), MATMUL, attend(goes_on=1)],
    ),
    "an Activate behind other sums": (6, [attend(stays=1), *SCORES, activate()]),
    "more rows than there are": (4, [attend(stays=1, rows=33)]),
    "rows behind the last": (4, [attend(accumulator=61)]),
    "more keys than a sum holds": (
        2, [*SCORES, scored(stays=1), scored(goes_on=1, blocks=4096)],
    ),
    "probabilities of some tiles": (2, [*SCORES, scored(stays=1, normalized=1)]),
    "maxima of other rows": (
        6, [*SCORES, attend(rows=3), activate(**KEPT, running=1)],
    ),
    "maxima that are not there": (6, [attend(), activate(**KEPT, running=1)]),
    "no maxima to go on with": (2, [attend(), activate(space=2, running=1)]),
    "nothing to keep": (2, [attend(), activate(discard=1)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_instructions_end_alike_everywhere(name):
    status, words = BAD[name]
    assert statuses(SMALL, words, [np.zeros((8, 8), np.int8)]) == {status}


def test_sums_stay_beside_those_of_other_rows():
    """Scores in accumulator rows of their own leave what stayed as it is."""
    words = [*SCORES, scored(stays=1), attend(accumulator=8), activate(**KEPT, running=1)]
    words += [scored(goes_on=1), activate(normalize=1)]
    content = kernel.codes(np.random.default_rng(5), 32, 8)
    kernel.check(kernel.Code(SMALL, words=words), content)
