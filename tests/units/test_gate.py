"""Sigmoid and its family: exact symmetries, and that the argument of GELU's erf form is a fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weft.nonlinear import METHODS
from weft.nonlinear.build import gelu_argument

METHOD_NAMES = ("shift", "dlc", "cordic")


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_tanh_is_odd_and_sigmoids_of_both_signs_make_one(name: str) -> None:
    x = np.arange(1, 1 << 15)
    tanh, sigmoid = (METHODS[f, name].unit for f in ("tanh", "sigmoid"))
    np.testing.assert_array_equal(tanh(-x), -tanh(x))
    assert (np.abs(sigmoid(x) + sigmoid(-x) - 16384) <= 1).all()  # a tie goes up twice
    assert (tanh(x) >= 0).all()
    assert abs(int(sigmoid(np.array(0))) - 8192) <= (name == "cordic")


@pytest.mark.parametrize("name", ["dlc", "cordic"])
def test_silu_and_gelu_differ_from_their_mirror_by_x(name: str) -> None:
    """x·s(x) − (−x)·s(−x) = x, but for a rounding."""
    x = np.arange(1, 1 << 15)
    for function in ("silu", "gelu", "gelu_tanh"):
        unit = METHODS[function, name].unit
        assert np.abs(unit(x) - unit(-x) - x).max() <= 1


def test_argument_is_the_logit_of_the_normal_integral() -> None:
    c1, c3, c5 = gelu_argument()
    assert c1 / (1 << 12) == pytest.approx(4 / math.sqrt(2 * math.pi), abs=3e-3)  # slope at 0
    x = np.linspace(0.1, 4, 40)
    a = x * (c1 / (1 << 12) + x * x * (c3 + x * x * c5) / (1 << 18))
    below = np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in x])
    assert np.abs(x / (1 + np.exp(a)) - x * below).max() < 1e-4
