"""Every nonlinear unit of the registry in C++, native and with ap_int, against its golden model.

Elements: every code of the input format. Rows: random and degenerate ones of many lengths.
"""

from __future__ import annotations

import numpy as np
import pytest

import nonlinear_hls as hls
import rows
from weft.nonlinear import METHODS
from weft.units.norm import Norm

HARDWARE = [m for m in METHODS.values() if m.name != "host"]
ELEMENTS = [m for m in HARDWARE if not m.of.row]
SOFTMAX = [m for m in HARDWARE if m.function == "softmax"]
NORMS = [m for m in HARDWARE if m.of.row and m.function != "softmax"]


def name_of(method):
    return f"{method.function}-{method.name}"


def in_forms(methods):
    """Each row unit in both forms. ap_int takes long to compile: most of them are slow tests."""
    quick = ("ibert", "shift", "dlc")
    return [
        pytest.param(
            method,
            form,
            id=f"{name_of(method)}-{form}",
            marks=[pytest.mark.slow] if form == "exact" and method.name not in quick else [],
        )
        for method in methods
        for form in hls.FORMS
    ]


def every_code(method):
    """All codes of a signed input; of mantissas those that a normalization gives."""
    f = method.of
    return np.arange(f.input.low, f.input.high + 1) if f.input.signed else f.codes


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("method", ELEMENTS, ids=name_of)
def test_every_input_code(method, form):
    x = every_code(method)
    np.testing.assert_array_equal(hls.run(form, method.unit, x), method.golden(x))


@pytest.mark.parametrize(("method", "form"), in_forms(SOFTMAX))
def test_softmax_rows(method, form):
    for n in rows.LENGTHS:
        for what, x in rows.scores(n):
            got = hls.run(form, method.unit, x)
            np.testing.assert_array_equal(got, method.golden(x), f"{what}, {n}")


@pytest.mark.parametrize("form", hls.FORMS)
@pytest.mark.parametrize("unit", hls.OTHERS.values(), ids=hls.OTHERS)
@pytest.mark.slow
def test_other_softmaxes(unit, form):
    for n in (1, 33, 197):
        for what, x in rows.scores(n, seed=1):
            np.testing.assert_array_equal(hls.run(form, unit, x), unit(x), f"{what}, {n}")


@pytest.mark.parametrize("form", hls.FORMS)
def test_a_table_for_each_lane(form):
    method = METHODS["softmax", "lut"]
    for n in (1, 33, 197):
        for what, x in rows.scores(n):
            got = hls.run(form, method.unit, x, cpp=hls.LANES)
            np.testing.assert_array_equal(got, method.golden(x), f"{what}, {n}")


@pytest.mark.parametrize(("method", "form"), in_forms(NORMS))
def test_norm_rows(method, form):
    rng = np.random.default_rng(1)
    for n in (*rows.LENGTHS, 4096):
        gamma, beta = rng.integers(-32768, 32768, n), rng.integers(-(1 << 28), 1 << 28, n)
        for what, x in rows.elements(n):
            plain = hls.run(form, method.unit, x)
            np.testing.assert_array_equal(plain, method.golden(x), f"{what}, {n}")
        options = {"gamma": gamma, "beta": beta, "shift": 14}
        if isinstance(method.unit, Norm):
            options["epsilon"] = 12345
        got = hls.run(form, method.unit, x, **options)
        np.testing.assert_array_equal(got, method.unit(x, **options), f"affine, {n}")
