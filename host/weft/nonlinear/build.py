"""Units from methods' names: which pieces make a function, and with which parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from weft.nonlinear import fit, nnlut
from weft.nonlinear.functions import FUNCTIONS
from weft.units import cordic, gate, ibert, norm, polynomial, softermax, softmax, wang
from weft.units.fixed import Unit

LUT_ENTRIES, PWL_SEGMENTS, SHIFT_SEGMENTS, LINE_SEGMENTS = 1024, 64, 16, 16
ORDER, CORDIC_STEPS = 3, 16
SCORE_FRACTION = 10
# (d1, d2, c) of Wang et al.: the paper's own, and those that halve the error of a softmax.
PLAIN, CENTRED = (1.0, 1.0, 0.0), (1.0, 0.957, 0.043)

Build = Callable[[str], Unit]


def curve(name: str) -> fit.Curve:
    """The function as a curve from codes to codes."""
    return fit.Curve.from_function(FUNCTIONS[name])


def lut(name: str) -> Unit:
    """A table of 1,024 entries."""
    return fit.lut(curve(name), LUT_ENTRIES)


def pwl(name: str) -> Unit:
    """64 lines over equal bins."""
    return fit.pwl(curve(name), PWL_SEGMENTS)


def pwl2(name: str) -> Unit:
    """16 segments with power-of-two slopes."""
    return fit.shift_segments(curve(name), SHIFT_SEGMENTS)


def trained(name: str) -> Unit:
    """16 segments of a trained network."""
    return nnlut.to_segments(name, nnlut.trained()[name])


def power_of_two(v: Any) -> Any:
    """2**v."""
    return np.exp2(v)


def polynomial_exp(fraction: int, order: int = ORDER) -> polynomial.PolynomialExp:
    """exp by range reduction and a polynomial."""
    return polynomial.PolynomialExp(fraction, fit.polynomial(power_of_two, order))


def polynomial_rsqrt(order: int = ORDER) -> polynomial.PolynomialRsqrt:
    """1/sqrt by two polynomials."""
    low, high = (
        fit.polynomial(lambda v, scale=scale: 1 / np.sqrt(scale * (1 + v)), order)  # type: ignore[misc]
        for scale in (1.0, 2.0)
    )
    return polynomial.PolynomialRsqrt(low, high)


@cache
def gelu_argument() -> tuple[int, int, int]:
    """a(x) of the erf form, logit of the normal integral: an odd polynomial of order 5.

    Least squares, weighted by what an error of a(x) does to x s(a(x)).
    """
    x = np.linspace(0.01, 4.5, 2000)
    below = np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in x])
    weight = x * below * (1 - below)
    powers = np.stack([x, x**3, x**5], -1)
    c = np.linalg.lstsq(powers * weight[:, None], np.log((1 - below) / below) * weight, rcond=None)[
        0
    ]
    return _argument(*map(float, c))


def _argument(c1: float, c3: float, c5: float) -> tuple[int, int, int]:
    return round(c1 * (1 << 12)), round(c3 * (1 << 18)), round(c5 * (1 << 18))


def gated(name: str, exp: Unit, reciprocal: Unit) -> Unit:
    """A function of the sigmoid's family from an exponential and a reciprocal."""
    if name == "gelu":
        return gate.Gate("Gelu", exp, reciprocal, gelu_argument())
    if name == "gelu_tanh":
        c1 = 2 * math.sqrt(2 / math.pi)
        return gate.Gate("Gelu", exp, reciprocal, _argument(c1, 0.044715 * c1, 0.0))
    return gate.Gate(name.capitalize(), exp, reciprocal)


def dlc_gated(name: str) -> Unit:
    """By a polynomial's exponential and Newton's reciprocal."""
    return gated(name, polynomial_exp(gate.GATE_FRACTION), polynomial.NewtonReciprocal())


def cordic_gated(name: str) -> Unit:
    """By CORDIC, twice."""
    exp = cordic.CordicExp(gate.GATE_FRACTION, CORDIC_STEPS)
    return gated(name, exp, cordic.CordicReciprocal())


def shift_exp(fraction: int, d: float = CENTRED[1]) -> Unit:
    """exp by a shift."""
    return wang.ShiftExp(fraction, wang.offset(d))


def shift_gated(name: str) -> Unit:
    """exp(-ln(1 + exp(-x))), by shifts: (1, 1, 0), which is exact at 0 and at the ends."""
    d1, d2, c = map(wang.offset, PLAIN)
    reciprocal = wang.ShiftReciprocal(d2, c)
    return gated(name, wang.ShiftExp(gate.GATE_FRACTION, d1), reciprocal)


def shift_reciprocal() -> Unit:
    """1/w by a logarithm and a power."""
    return wang.ShiftReciprocal(*map(wang.offset, CENTRED[1:]))


def shift_rsqrt() -> Unit:
    """1/sqrt(w) by a logarithm and a power."""
    return wang.ShiftRsqrt(*map(wang.offset, CENTRED[1:]))


def lines(name: str) -> Unit:
    """16 lines over equal bins."""
    return fit.pwl(curve(name), LINE_SEGMENTS)


def line_exp(line: Build) -> Build:
    """exp by range reduction, from what makes 2**v on [0, 1).

    The error is relative then. That of one table for all of exp is not: in the tail of a long row
    it adds up to more than the row's largest exponential.
    """
    return lambda _: softermax.LineExp(softermax.LinePower(SCORE_FRACTION, line("exp2")))


def softermax_of(line: Build) -> Build:
    """Softermax from what makes 2**v and 1/w."""
    return lambda _: softermax.Softermax(
        softermax.LinePower(SCORE_FRACTION, line("exp2")), line("reciprocal")
    )


def softmax_of(exp: Build, reciprocal: Build) -> Build:
    """softmax from what makes its parts."""
    return lambda _: softmax.Softmax(exp("exp"), softmax.ByReciprocal(reciprocal("reciprocal")))


def norm_of(rsqrt: Build) -> Build:
    """A norm from what makes 1/sqrt."""
    return lambda name: norm.Norm(rsqrt("rsqrt"), name == "layernorm")


def i_gelu(_: str) -> Unit:
    """I-BERT's GELU at the scale of the unit's input."""
    step = FUNCTIONS["gelu"].input.step
    return ibert.IGelu.of(step)


def i_exp(_: str) -> Unit:
    """I-BERT's exp at the scale of the unit's input."""
    return ibert.IExp.of(FUNCTIONS["exp"].input.step)
