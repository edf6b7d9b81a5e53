"""CORDIC: the error of each number of steps, and what happens without the repeated ones."""

from __future__ import annotations

import numpy as np
import pytest

from weft.nonlinear import FUNCTIONS
from weft.units import cordic
from weft.units.cordic import CordicExp, CordicReciprocal


def error(steps: int) -> float:
    codes = np.arange(-(8 << 10), 1)
    return float(np.abs(CordicExp(10, steps)(codes) / 32768 - np.exp(codes / 1024)).max())


@pytest.mark.parametrize(("steps", "published"), [(8, 0.0077), (12, 0.00048), (16, 0.00006)])
def test_exp_has_the_published_errors(steps: int, published: float) -> None:
    assert error(steps) <= published + 2 * 2.0**-15
    assert error(steps) >= published / 2


def test_sequence_repeats_steps_4_and_13() -> None:
    assert cordic.shifts(16) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 14]
    assert CordicExp(10).start / 2**20 == pytest.approx(1.2074970670, abs=1e-6)


def test_without_the_repeats_it_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cordic.shifts
    monkeypatch.setattr(cordic, "shifts", lambda steps: right(steps, ()))
    assert error(16) > 100 * 0.00006


def test_reciprocal_ends_within_three_steps_of_the_output() -> None:
    f = FUNCTIONS["reciprocal"]
    y = CordicReciprocal()(f.codes)
    assert np.abs(y - f.real(f.codes / 32768) * 32768).max() < 3
