"""Every nonlinear unit of the registry in C++, native and with ap_int, against its golden model.

Elements: every code of the input format. Rows: random and degenerate ones of many lengths.
"""

from __future__ import annotations

import numpy as np
import pytest

import nonlinear_hls as hls
import rows
from weft.nonlinear import METHODS
from weft.units import ibert, softermax, softmax
from weft.units.norm import Norm

HARDWARE = [m for m in METHODS.values() if m.cpp]
ELEMENTS = [m for m in HARDWARE if not m.of.row]
SOFTMAX = [m for m in HARDWARE if m.function == "softmax"]
NORMS = [m for m in HARDWARE if m.of.row and m.function != "softmax"]
# The registry's types, and options that it does not list.
EIGHT_BIT = softmax.Softmax(ibert.IExp.of(1 / 1024), softmax.ByQuotient(rounds=True), out=8)
BASE_TWO = softermax.Softermax(
    METHODS["softmax", "softermax"].unit.power, METHODS["reciprocal", "softermax"].unit,
    natural=False, out=8,
)  # fmt: skip
TYPES = tuple(dict.fromkeys([m.cpp for m in HARDWARE] + [EIGHT_BIT.cpp, BASE_TWO.cpp]))


def name_of(method):
    return f"{method.function}-{method.name}"


def every_code(method):
    """All codes of a signed input; of mantissas those that a normalization gives."""
    f = method.of
    return np.arange(f.input.low, f.input.high + 1) if f.input.signed else f.codes


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("method", ELEMENTS, ids=name_of)
def test_every_input_code(method, form):
    x = every_code(method)
    np.testing.assert_array_equal(hls.run(TYPES, form, method.unit, x), method.golden(x))


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("method", SOFTMAX, ids=name_of)
def test_softmax_rows(method, form):
    for n in rows.LENGTHS:
        for what, x in rows.scores(n):
            got = hls.run(TYPES, form, method.unit, x)
            np.testing.assert_array_equal(got, method.golden(x), f"{what}, {n}")


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("unit", [EIGHT_BIT, BASE_TWO], ids=["8 bits, rounded", "base 2"])
def test_other_softmaxes(unit, form):
    for n in (1, 33, 197):
        for what, x in rows.scores(n, seed=1):
            np.testing.assert_array_equal(hls.run(TYPES, form, unit, x), unit(x), f"{what}, {n}")


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("method", NORMS, ids=name_of)
def test_norm_rows(method, form):
    rng = np.random.default_rng(1)
    for n in (*rows.LENGTHS, 4096):
        gamma, beta = rng.integers(-32768, 32768, n), rng.integers(-(1 << 28), 1 << 28, n)
        for what, x in rows.elements(n):
            plain = hls.run(TYPES, form, method.unit, x)
            np.testing.assert_array_equal(plain, method.golden(x), f"{what}, {n}")
        options = {"gamma": gamma, "beta": beta, "shift": 14}
        if isinstance(method.unit, Norm):
            options["epsilon"] = 12345
        got = hls.run(TYPES, form, method.unit, x, **options)
        np.testing.assert_array_equal(got, method.unit(x, **options), f"affine, {n}")
