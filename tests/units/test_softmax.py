"""Softmax by every method: stated bounds, row sums, order, masks, degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rows
from weft.nonlinear import FUNCTIONS, METHODS
from weft.units.softmax import MASKED

SOFTMAX = [m for m in METHODS.values() if m.function == "softmax"]
every_method = pytest.mark.parametrize("method", SOFTMAX, ids=lambda m: m.name)
REAL = FUNCTIONS["softmax"].real


@every_method
def test_rows_are_within_their_bounds(method):
    for n in rows.LENGTHS:
        bound, sum_bound = method.row_bounds(n)
        for what, x in rows.scores(n):
            y = method.output.decode(method.golden(x))
            error = np.abs(y - REAL(method.input.decode(x))).max()
            assert error <= bound, f"{what}, {n}"
            live = (x != MASKED).any(-1)
            assert (np.abs(y.sum(-1) - 1)[live] <= sum_bound).all(), f"{what}, {n}"
            assert not y[~live].any()
            assert not y[x == MASKED].any()


@every_method
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=70))
def test_any_row_is_within_its_bounds(method, row):
    x = np.array([row])
    y = method.output.decode(method.golden(x))
    assert np.abs(y - REAL(method.input.decode(x))).max() <= method.row_bounds(len(row))[0]


@every_method
def test_argmax_stays_or_the_method_says_that_it_may_not(method):
    flips = 0
    rng = np.random.default_rng(0)
    for n in (2, 8, 64, 384):
        x = rows.close(rng, n, 256)
        y = method.golden(x)
        flips += int((y[np.arange(len(x)), x.argmax(-1)] < y.max(-1)).sum())
    assert (flips == 0) == method.keeps_argmax
    if method.keeps_argmax and method.name not in ("host", "softermax"):
        e = method.unit.exp(FUNCTIONS["exp"].codes)
        assert e[-1] == e.max()  # of the largest score, so no row has any


@every_method
def test_equal_scores_have_equal_shares(method):
    for n in (1, 3, 64):
        for value in (-32767, 0, 32767):
            y = method.golden(np.full((1, n), value))
            assert len(set(y[0].tolist())) == 1
            assert abs(y[0, 0] / 32768 - 1 / n) <= method.row_bounds(n)[0]


@every_method
def test_shifting_all_scores_changes_nothing(method):
    x = np.random.default_rng(0).integers(-5000, 5000, (20, 40))
    moved = np.abs(method.golden(x) - method.golden(x + 6144)).max()
    # Softermax's maximum is a whole power of two: where v begins within it moves with the row.
    assert moved <= (40 if method.name == "softermax" else 0)
