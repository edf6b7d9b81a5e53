"""Rotate: golden against rotary embeddings in float, every simulation against golden."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def random_rotate(rng, o, space):
    """A Rotate of any fields that work: source and table in the lower half, target above."""
    plain = int(rng.integers(0, 4) == 0)
    head = 1 << int(rng.integers(0, 3))
    rows, blocks = int(rng.integers(1, 7)), head * int(rng.integers(1, 3))
    f = {"rows": rows, "blocks": blocks, "head_blocks": head, "plain": plain, "space": space}
    f |= {"source": int(rng.integers(0, 9)), "table": 100 + int(rng.integers(0, 9))}
    down, right = (1, rows) if rng.integers(2) else (blocks, 1)
    f |= {"source_col": down, "source_block": right, "table_col": int(rng.integers(0, 9))}
    down, right = (1, rows) if rng.integers(2) else (blocks, 1)
    f |= {"target_col": down, "target_block": right, "half": int(rng.integers(0, head))}
    f |= {"swap": int(rng.integers(0, np.log2(o.lanes) + 1))}
    f |= {"target": {0: int(rng.integers(0, 99)), 1: 0, 2: 256 + int(rng.integers(0, 99))}[space]}
    scale = 2.0 ** rng.uniform(-28, -10) * rng.choice([1, -1])
    multiplier, shift = (int(v) for v in requant.encode(scale, "single_round"))
    return f | {"multiplier": multiplier, "shift": shift}


def random_wide(rng, o):
    """Words of any int16, now and then nothing but the extremes."""
    shape = (o.wide_words, o.lanes)
    if rng.integers(4) == 0:
        return rng.choice(np.array([-(1 << 15), (1 << 15) - 1], np.int16), shape)
    return rng.integers(-(1 << 15), 1 << 15, shape).astype(np.int16)


def by_loops(f, wide, lanes):
    """{word: lanes of the result} in Python's integers."""
    found = {}
    for k, r in np.ndindex(f["blocks"], f["rows"]):
        at = f["source"] + r * f["source_col"]
        x = wide[at + k * f["source_block"]].tolist()
        other = wide[at + (k ^ f["half"]) * f["source_block"]].tolist()
        turn = f["table"] + r * f["table_col"] + k % f["head_blocks"]
        cosine, sine = (wide[turn + n].tolist() for n in (0, f["head_blocks"]))
        word = []
        for c in range(lanes):
            pair = c ^ (1 << (f["swap"] - 1)) if f["swap"] else c
            y = x[c] << 14
            if not f["plain"]:
                y = (x[c] * cosine[c] + other[pair] * sine[c] + 2**31) % 2**32 - 2**31
            y = (y * f["multiplier"] + (1 << (30 - f["shift"]))) >> (31 - f["shift"])
            limit = 32767 if f["space"] == 2 else 127
            word.append(min(max(y, -limit), limit))
        found[f["target"] + r * f["target_col"] + k * f["target_block"]] = word
    return found


def cleared(code):
    """Zeros in the operand buffer, from rows of memory that hold nothing else."""
    o = code.overlay
    move = {"memory": o.buffer_words // 2, "words": o.operand_words, "chunks": 1, "space": 1}
    return code.add(isa.READ_HOST, **move)


def shown(code, f):
    """The operand buffer's words as they are: ones of a diagonal times them, to word 200 on.

    They are zeros before `code`, as nobody knows what a run before has left there.
    """
    o, lanes = code.overlay, code.overlay.lanes
    tiles = -(-f["rows"] * f["blocks"] // lanes)
    one = requant.encode(np.ones(lanes), "single_round")
    kernel.set_parameters(code, (np.zeros(lanes, np.int32), *one, *one))
    f = {"source": 100, "source_col": 1, "rows": lanes, "blocks": 1, "tiles": 1}
    for first in range(0, tiles * lanes, lanes):
        code.add(isa.ATTEND, **f, operand=first)
        code.add(isa.ACTIVATE, target=200 + first, target_col=1, low=-128, high=127)
    clear = {"memory": 0, "words": tiles * lanes, "chunks": 1, "space": 1}
    code.words.insert(0, isa.READ_HOST.encode(**clear))
    content = np.zeros((o.buffer_words, lanes), np.int8)
    content[100 : 100 + lanes] = np.eye(lanes)
    return content


@pytest.mark.parametrize("space", range(3), ids=SPACES)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(40)
def test_every_form_is_the_formula(space, seed):
    rng = np.random.default_rng(seed)
    f, wide = random_rotate(rng, SMALL, space), random_wide(rng, SMALL)
    code = cleared(Code(SMALL))
    code.add(isa.ROTATE, **f)
    content = shown(code, f) if space == 1 else None
    words = kernel.check(code, content, wide=wide)
    halves = words[SMALL.buffer_words :]
    after = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    found = {0: words, 1: words[200:], 2: after}[space]
    for word, lanes in by_loops(f, wide, SMALL.lanes).items():
        assert found[word].tolist() == lanes
    if space != 2:
        np.testing.assert_array_equal(after, wide)


@pytest.mark.parametrize("space", range(3), ids=SPACES)
def test_the_exact_form_computes_alike(space):
    o = Overlay("nanor", 4, 4, 4, 256, 16, 4, 16, units=UNITS, wide_words=512, operand_words=64)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        f = random_rotate(rng, o, space) | {"rows": 3}
        code = cleared(Code(o))
        code.add(isa.ROTATE, **f)
        content = shown(code, f | {"rows": 1}) if space == 1 else None
        kernel.check(code, content, wide=random_wide(rng, o), forms=("exact", "functional"))


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
    for device in ("golden", "csim"):
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
    words, result = kernel.check(code, wide=wide), kernel.run(code, wide=wide)[1]
    halves = words[SMALL.buffer_words :]
    found = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    expected = wide.copy()
    expected[3:43] = np.floor(wide[3:43] / 2 + 0.5)
    np.testing.assert_array_equal(found, expected)
    assert result.counters["vector"] == 40


def test_without_the_unit_there_is_no_rotate():
    for device in ("golden", "csim"):
        with pytest.raises(FaultError) as caught:
            kernel.run(Code(kernel.OVERLAYS["8x8"]).add(isa.ROTATE, rows=1, blocks=1), device)
        assert caught.value.status == 1
