"""Rotate: golden against rotary embeddings in float, every simulation against golden."""

import numpy as np
import pytest

import kernel
from kernel import Code
from weft import isa
from weft.config import Overlay
from weft.state import FaultError
from weft.units import requant

UNITS = ("requant", "vector", "lookup", "attention", "norm", "rotate")
SMALL = Overlay(
    "8x8r", 8, 8, 4, 512, 64, 16, 64, units=UNITS, wide_words=512, operand_words=128
)  # fmt: skip
SPACES = ("unified", "operand", "wide")


def rotary(x, positions, pairs, base=10_000.0):
    """RoFormer's equation 34 in float: x [rows, heads, width] turned by `positions` [rows].

    `pairs` says whose partner is who: "adjacent" channels, or "halves" of a head.
    """
    width = x.shape[-1]
    angle = positions[:, None, None] * base ** (-np.arange(0, width, 2) / width)
    c, s = np.cos(angle), np.sin(angle)
    out = np.empty_like(x)
    if pairs == "adjacent":
        first, second = x[..., 0::2], x[..., 1::2]
        out[..., 0::2], out[..., 1::2] = first * c - second * s, second * c + first * s
    else:
        first, second = x[..., : width // 2], x[..., width // 2 :]
        out[..., : width // 2] = first * c - second * s
        out[..., width // 2 :] = second * c + first * s
    return out


def table(positions, width, pairs, lanes, base=10_000.0):
    """Cosines and signed sines [rows, 2 · head_blocks, lanes] in Q1.14.

    Heads narrower than a word repeat in it.
    """
    angle = positions[:, None] * base ** (-np.arange(0, width, 2) / width)
    if pairs == "adjacent":
        c = np.repeat(np.cos(angle), 2, 1)
        s = np.stack([-np.sin(angle), np.sin(angle)], 2).reshape(len(positions), width)
    else:
        c = np.tile(np.cos(angle), 2)
        s = np.concatenate([-np.sin(angle), np.sin(angle)], 1)
    repeat = max(1, lanes // width)
    both = np.concatenate([np.tile(c, repeat), np.tile(s, repeat)], 1)
    return np.round(both * (1 << 14)).astype(np.int16).reshape(len(positions), -1, lanes)


def pairing(width, pairs, lanes):
    """Fields that say where partners are."""
    if pairs == "adjacent":
        return {"swap": 1, "half": 0}
    if width > lanes:
        return {"swap": 0, "half": width // lanes // 2}
    return {"swap": int(np.log2(width // 2)) + 1, "half": 0}


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
@pytest.mark.parametrize("width", [4, 8, 16, 32])
def test_it_is_the_rotary_embedding(pairs, width):
    rng = np.random.default_rng(width)
    rows, heads, lanes = 5, 4 if width < 8 else 2, SMALL.lanes
    positions = np.arange(7, 7 + rows).astype(float)
    x = np.round(rng.normal(0, 6000, (rows, heads, width)))
    blocks, head = heads * width // lanes, max(1, width // lanes)
    wide = np.zeros((512, lanes), np.int16)
    wide[: rows * blocks] = x.reshape(rows * blocks, lanes)
    made = table(positions, width, pairs, lanes)
    wide[200 : 200 + rows * 2 * head] = made.reshape(-1, lanes)
    multiplier, shift = (int(v) for v in requant.encode(2.0**-14, "single_round"))
    code = Code(SMALL).add(
        isa.ROTATE, source=0, source_col=blocks, source_block=1, rows=rows, blocks=blocks,
        head_blocks=head, table=200, table_col=2 * head, multiplier=multiplier, shift=shift,
        space=2, target=300, target_col=1, target_block=rows, **pairing(width, pairs, lanes),
    )  # fmt: skip
    words, result = kernel.run(code, wide=wide)
    halves = words[SMALL.buffer_words :]
    found = (halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8))[300:]
    found = found[: rows * blocks].reshape(blocks, rows, lanes).transpose(1, 0, 2)
    expected = rotary(x, positions, pairs)
    # Half a step of the result, and half a step of cosine and sine times x.
    bound = 0.5 + 2 * 0.5 * np.abs(x).max() / (1 << 14)
    assert np.abs(found.reshape(rows, heads, width) - expected).max() <= bound
    assert result.counters["vector"] == 4 * rows * blocks


BAD = {
    "rows 0": ({"rows": 0}, 2),
    "blocks 0": ({"blocks": 0}, 2),
    "more words than there are": ({"rows": 65, "blocks": 8}, 2),
    "space 3": ({"space": 3}, 2),
    "head_blocks 0": ({"head_blocks": 0}, 2),
    "head_blocks 3": ({"head_blocks": 3, "blocks": 3}, 2),
    "no whole heads": ({"head_blocks": 4, "blocks": 6}, 2),
    "partner beyond the head": ({"half": 2}, 2),
    "lane beyond the word": ({"swap": 4}, 2),
    "source": ({"source": 509}, 3),
    "table": ({"table": 509}, 3),
    "target": ({"target": 510}, 3),
    "target in the operand buffer": ({"space": 1, "target": 125}, 3),
    "onto its input": ({"space": 2, "target": 5}, 7),
    "onto its table": ({"space": 2, "target": 57}, 7),
    "in place": ({"space": 2, "target": 0}, 7),
    "plain, in place on itself": ({"plain": 1, "space": 2, "target": 0, "source_col": 1,
                                   "target_col": 1}, 7),
    "plain, beside its place": ({"plain": 1, "space": 2, "target": 1}, 7),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_instructions_end_with_the_same_status(case):
    change, status = BAD[case]
    f = {"rows": 3, "blocks": 2, "head_blocks": 2, "source_col": 2, "source_block": 1}
    f |= {"table": 50, "table_col": 4, "target": 100, "target_col": 2, "target_block": 1}
    code = Code(SMALL).add(isa.ROTATE, **(f | change))
    for device in ("golden",):
        with pytest.raises(FaultError) as caught:
            kernel.run(code, device)
        assert caught.value.status == status, device


def test_plain_requantizes_in_place_word_for_word():
    rng = np.random.default_rng(4)
    wide = rng.integers(-(1 << 15), 1 << 15, (512, 8)).astype(np.int16)
    multiplier, shift = (int(v) for v in requant.encode(2.0**-15, "single_round"))
    f = {"source": 3, "source_col": 2, "source_block": 1, "rows": 20, "blocks": 2, "plain": 1}
    f |= {"target": 3, "target_col": 2, "target_block": 1, "space": 2}
    code = Code(SMALL).add(isa.ROTATE, **f, multiplier=multiplier, shift=shift)
    words, result = kernel.run(code, wide=wide)
    halves = words[SMALL.buffer_words :]
    found = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    expected = wide.copy()
    expected[3:43] = np.floor(wide[3:43] / 2 + 0.5)
    np.testing.assert_array_equal(found, expected)
    assert result.counters["vector"] == 40
