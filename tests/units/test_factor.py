"""Activate with a word of the wide buffer as a factor: SwiGLU's product, as int16 or codes."""

from dataclasses import replace

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

UNITS = ("requant", "vector", "lookup", "rotate")
SMALL = Overlay("8x8f", 8, 8, 4, 512, 64, 16, 64, units=UNITS, wide_words=512)
PACKED = replace(SMALL, name="8x8fp", bus_bytes=8, multiplier="packed")
OVERLAYS = [SMALL, PACKED]


def rounded(x, q, s):
    """single_round in Python's integers."""
    return (int(x) * int(q) + (1 << (30 - int(s)))) >> (31 - int(s))


def inside(x, low, high):
    return min(max(x, low), high)


def strides(rng, rows, tiles):
    """Token by token, or block by block."""
    return (1, rows) if rng.integers(2) else (tiles, 1)


def random_product(rng, o, vector, space):
    """(code, content, expected {word: lanes}, wide): products of sums and words of `wide`."""
    lanes, rows, tiles = o.lanes, int(rng.integers(1, 8)), int(rng.integers(1, 4))
    channels = tiles * lanes
    content = kernel.codes(rng, rows * tiles, lanes)
    wide = rng.integers(-(1 << 15), 1 << 15, (o.wide_words, lanes)).astype(np.int16)
    q, s = requant.encode(2.0 ** rng.uniform(-8, 6, channels), "single_round")
    bias = rng.integers(-99, 99, channels).astype(np.int32)
    code = kernel.set_parameters(Code(o), (bias, q, s, q, s))
    f = kernel.simple_window(1, rows)
    if vector:
        f |= kernel.strides("source", (tiles, 1, rows))
        code.add(isa.VECTOR, operation=1, blocks=tiles, **f)
        x = content.reshape(tiles, rows, lanes).astype(int)
    else:
        weights = kernel.codes(rng, tiles * lanes, lanes)
        code.feed(weights)
        f |= kernel.strides("source", (1, 1, rows))
        code.add(isa.MAT_MUL, blocks=1, tiles=tiles, first=1, last=1, overlap=1, **f)
        x = content[:rows].astype(int) @ weights.reshape(tiles, lanes, lanes).astype(int)
    down, right = strides(rng, rows, tiles)
    a = {"target": 100, "target_col": down, "target_block": right, "space": space}
    down, right = strides(rng, rows, tiles)
    a |= {"residual_base": 3, "residual_col": down, "residual_block": right, "residual": 2}
    low, high = sorted(rng.integers(-128, 128, 2).tolist())
    a |= {"zero_point": int(rng.integers(-128, 128)), "low": low, "high": high}
    q2, s2 = (int(v) for v in requant.encode(2.0 ** rng.uniform(-24, -4), "single_round"))
    code.add(isa.ACTIVATE, **a, parameter_step=1, residual_multiplier=q2, residual_shift=s2)
    expected = {}
    for tile, row in np.ndindex(tiles, rows):
        other = wide[3 + row * down + tile * right].tolist()
        word = []
        for c in range(lanes):
            n = tile * lanes + c
            y = inside(rounded(x[tile, row, c] + bias[n], q[n], s[n]), -32767, 32767)
            y = inside(rounded(y * other[c], q2, s2), -32767, 32767)
            word.append(y if space == 2 else inside(y + a["zero_point"], low, high))
        expected[100 + row * a["target_col"] + tile * a["target_block"]] = word
    return code, content, expected, wide


@pytest.mark.parametrize("space", [0, 2], ids=["codes", "int16"])
@pytest.mark.parametrize("vector", [False, True], ids=["MatMul", "Vector"])
@pytest.mark.parametrize("o", OVERLAYS, ids=lambda o: o.name)
@given(seed=st.integers(0, 1 << 30))
@kernel.examples(15)
def test_every_form_is_the_formula(o, vector, space, seed):
    code, content, expected, wide = random_product(np.random.default_rng(seed), o, vector, space)
    words = kernel.check(code, content, wide=wide)
    halves = words[o.buffer_words :]
    after = halves[1::2].astype(np.int16) * 256 + halves[::2].view(np.uint8)
    for word, lanes in expected.items():
        assert (after if space else words)[word].tolist() == lanes


def test_the_exact_form_computes_alike():
    o = Overlay("nanof", 4, 4, 4, 256, 16, 4, 16, units=UNITS, wide_words=256)
    for space in (0, 2):
        rng = np.random.default_rng(space)
        code, content, _, wide = random_product(rng, o, False, space)
        kernel.check(code, content, wide=wide, forms=("exact", "functional"))


def test_in_place_and_drained_again():
    """The factors may be the words that are written; a second Activate takes the same sums."""
    rng = np.random.default_rng(7)
    wide = rng.integers(-(1 << 15), 1 << 15, (512, 8)).astype(np.int16)
    code = kernel.set_parameters(Code(SMALL), kernel.parameters(rng, 8))
    f = kernel.simple_window(1, 5) | kernel.strides("source", (1, 1, 5))
    code.feed(kernel.codes(rng, 8, 8))
    code.add(isa.MAT_MUL, blocks=1, tiles=1, first=1, last=1, **f)
    where = {"target": 9, "target_col": 1, "residual_base": 9, "residual_col": 1, "residual": 2}
    code.add(isa.ACTIVATE, **where, space=2, residual_multiplier=1 << 30, residual_shift=-12)
    where |= {"low": -100, "high": 100, "residual_base": 40}
    code.add(isa.ACTIVATE, **where, residual_multiplier=-(1 << 30), residual_shift=-20)
    kernel.check(code, kernel.codes(rng, 5, 8), wide=wide)


BAD = {
    "neither": ({"residual": 3, "space": 2}, 2),
    "a sum of codes": ({"residual": 1}, 2),
    "through the lookup": ({"lookup": 1}, 2),
    "raw bytes": ({"mode": 4}, 2),
    "to a buffer that is not there": ({"space": 1}, 2),
    "factors behind the buffer": ({"residual_base": 511}, 3),
    "onto its factors": ({"space": 2, "target": 41}, 7),
    "beside its factors": ({"target": 41}, 0),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_instructions_end_with_the_same_status(case):
    change, status = BAD[case]
    code = kernel.set_parameters(Code(SMALL), (0, 0, 0, 0, 0))
    code.add(isa.VECTOR, **kernel.simple_window(1, 2), source_col=1, blocks=1)
    f = {"target": 9, "target_col": 1, "residual_base": 40, "residual_col": 1, "residual": 2}
    code.add(isa.ACTIVATE, **(f | change))
    for device in ("golden", "csim"):
        if status == 0:
            kernel.run(code, device)
            continue
        with pytest.raises(FaultError) as caught:
            kernel.run(code, device)
        assert caught.value.status == status, device


def test_without_a_wide_buffer_there_are_no_factors():
    o = kernel.OVERLAYS["8x8"]
    code = kernel.set_parameters(Code(o), (0, 0, 0, 0, 0))
    code.add(isa.VECTOR, **kernel.simple_window(1, 1), blocks=1)
    code.add(isa.ACTIVATE, target=9, residual=2)
    for device in ("golden", "csim"):
        with pytest.raises(FaultError) as caught:
            kernel.run(code, device)
        assert caught.value.status == 2
