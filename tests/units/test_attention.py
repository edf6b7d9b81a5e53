"""Attend and its Activates: golden against real attention, and every simulation against golden."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import kernel

from weft import isa
from weft.config import Overlay
from weft.units import requant

UNITS = ("requant", "vector", "lookup", "attention")
SMALL = Overlay(
    "8x8a", 8, 8, 4, 512, 64, 8, 64, units=UNITS, wide_words=512, operand_words=256,
    softmax=("pwl", "dlc", "table"),
)  # fmt: skip
PACKED = replace(SMALL, name="8x8ap", bus_bytes=8, multiplier="packed", softmax=("pwl",))
NANO = Overlay(
    "nanoa", 4, 4, 4, 64, 16, 2, 16, units=UNITS, wide_words=64, operand_words=32
)  # fmt: skip
OVERLAYS = [SMALL, PACKED]


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


def attention_code(o, q, k, v, score_scale, **mask):
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
    common = {"rows": m, "operand_block": tiles * lanes, "overlap": 1}
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


def test_the_exact_form_computes_alike():
    rng = np.random.default_rng(0)
    q, k, v = heads(rng, NANO, 5, 7, 1)
    code, content, _ = attention_code(NANO, q, k, v, 0.2)
    kernel.check(code, content, forms=("exact", "functional"))
