"""Softermax: base 2, sums, one pass against two, and the word size that shows in the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rows
from weft.nonlinear import METHODS, build
from weft.nonlinear.fit import pwl
from weft.units.softermax import LinePower, Softermax
from weft.units.softmax import MASKED

UNIT = METHODS["softmax", "softermax"].unit


@pytest.mark.parametrize("n", [64, 384])
def test_base_two_rows_sum_to_one(n: int) -> None:
    power, inverse = (pwl(build.curve(f), 256) for f in ("exp2", "reciprocal"))
    unit = Softermax(LinePower(10, power), inverse, natural=False)
    x = np.rint(np.random.default_rng(0).normal(0, 2, (100, n)) * 1024).astype(np.int64)
    y = unit(x) / 32768
    real = np.exp2((x - x.max(-1, keepdims=True)) / 1024)
    real /= real.sum(-1, keepdims=True)
    assert np.abs(y - real).max() < 2.0**-14
    assert np.abs(y.sum(-1) - 1).max() < 0.0012


def test_word_size_shows_in_the_last_bits_only() -> None:
    x = next(iter(rows.scores(197)))[1]
    wide = replace(UNIT, lanes=197)(x)
    for lanes in (1, 8, 32):
        assert np.abs(replace(UNIT, lanes=lanes)(x) - wide).max() <= 2


def test_rising_and_falling_rows() -> None:
    """The maximum grows with every word, or never."""
    x = np.arange(-20_000, 20_000, 160)[None]
    up, down = UNIT(x), UNIT(x[:, ::-1])[:, ::-1]
    assert np.abs(up - down).max() <= 2
    assert up.argmax() == x.argmax()


def test_masked_words_come_first() -> None:
    x = np.full((1, 96), MASKED)
    x[0, 64:] = -31_000
    y = UNIT(x)
    assert not y[0, :64].any()
    assert (y[0, 64:] == 1024).all()
