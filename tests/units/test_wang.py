"""Shifts for powers and logarithms: the published offsets and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from weft.nonlinear.build import CENTRED, PLAIN
from weft.nonlinear.functions import softmax
from weft.units.softmax import ShiftSoftmax
from weft.units.wang import ShiftExp, by_log2e, offset, shift_power


def unit(d1: float, d2: float, c: float) -> ShiftSoftmax:
    return ShiftSoftmax(10, offset(d1), offset(d2), offset(c))


def test_power_of_two_has_the_published_errors() -> None:
    t = np.arange(-1024, 0)
    real = np.exp2(t / 1024)
    for d, published in ((1.0, 0.086), (0.957, 0.043)):
        relative = shift_power(t, 10, offset(d)) / 32768 / real - 1
        # (v + d) is off by as much for v in [0, 1): half of that one octave below.
        assert np.abs(relative * 2 * real).max() == pytest.approx(published, abs=2e-3)


def test_logarithm_of_e_is_close_enough() -> None:
    x = np.arange(-(16 << 10), 1)
    assert np.abs(by_log2e(x) / x.clip(max=-1)).min() == 0  # x = 0
    ratio = by_log2e(x[:-64]) / x[:-64]
    assert np.abs(ratio - 1.4375).max() < 2.0 / 64
    assert abs(np.log2(np.e) - 1.4375) < 0.0052


@pytest.mark.parametrize(
    ("offsets", "error", "row_sum"),
    [(PLAIN, 0.09, 0.13), (CENTRED, 0.05, 0.065), ((0.957, 0.957, 0.043), 0.072, 0.105)],
)
def test_softmax_has_the_published_bounds(
    offsets: tuple[float, float, float], error: float, row_sum: float
) -> None:
    worst = worst_sum = 0.0
    for n in (8, 32, 64, 197):
        x = np.rint(np.random.default_rng(n).normal(0, 2, (400, n)) * 1024).astype(np.int64)
        y = unit(*offsets)(x) / 32768
        worst = max(worst, float(np.abs(y - softmax(x / 1024)).max()))
        worst_sum = max(worst_sum, float(np.abs(y.sum(-1) - 1).max()))
    assert worst <= error
    assert worst_sum <= row_sum + 197 * 2.0**-15
    assert worst > error / 3


def test_a_one_hot_row_is_exactly_one_with_the_papers_offsets() -> None:
    x = np.array([[-20000, 10000, -20000]])
    assert unit(*PLAIN)(x).tolist() == [[0, 32768, 0]]
    assert unit(*CENTRED)(x)[0, 1] / 32768 == pytest.approx(0.957, abs=1e-3)


def test_only_the_plain_exponential_is_monotone() -> None:
    x = np.arange(-(16 << 10), 1)
    assert (np.diff(ShiftExp(10, offset(1.0))(x)) >= 0).all()
    assert (np.diff(ShiftExp(10, offset(0.957))(x)) < 0).any()
