"""Range reduction and polynomials: the error of each order, Newton's steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weft.nonlinear import FUNCTIONS
from weft.nonlinear.build import polynomial_exp, polynomial_rsqrt
from weft.units.polynomial import NewtonReciprocal


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_exp_is_better_than_the_centred_taylor_polynomial(order: int) -> None:
    f = FUNCTIONS["exp"]
    error = np.abs(polynomial_exp(10, order)(f.codes) / 32768 - f.real(f.codes / 1024))
    # On half the interval around the middle, ln2/2: the bound of Taylor's polynomial.
    taylor = (math.log(2) / 2) ** (order + 1) / math.factorial(order + 1)
    assert error.max() < taylor + 3 * 2.0**-15


@pytest.mark.parametrize("fraction", [8, 10, 12])
def test_exp_of_other_formats(fraction: int) -> None:
    x = np.arange(-(20 << fraction), (1 << fraction) + 1, 3)
    y = polynomial_exp(fraction)(x) / 32768
    real = np.exp(np.clip(x / (1 << fraction), -16, 0))
    assert np.abs(y - real).max() < 0.00013
    assert (y[x >= 0] > 0.9998).all()


def test_two_steps_of_newton_square_the_seeds_error_twice() -> None:
    w = FUNCTIONS["reciprocal"].codes
    error = np.abs(NewtonReciprocal()(w) * w / 2.0**30 - 1)
    assert error.max() < (1 / 17) ** 4 + 3 * 2.0**-15


def test_rsqrt_gains_with_the_order() -> None:
    f = FUNCTIONS["rsqrt"]
    errors = [
        np.abs(polynomial_rsqrt(order)(f.codes) / 32768 - f.real(f.codes / 16384)).max()
        for order in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.00015
