"""Leading ones, mantissas, rounding shifts: Python's integers, and the C++."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nonlinear_hls as hls
from weft.units.fixed import leading_one, normalized, normalized_even, rounded

EDGES = sorted({max((1 << b) + d, 0) for b in range(63) for d in (-1, 0, 1)} - {1 << 62 | 1})


@given(st.integers(0, (1 << 62)))
def test_leading_one_is_the_bit_length(x: int) -> None:
    assert int(leading_one(x)) == max(x.bit_length() - 1, 0)


@given(st.integers(1, (1 << 62)))
def test_mantissas_are_in_range_and_within_a_step(x: int) -> None:
    for function, low in ((normalized, 1 << 15), (normalized_even, 1 << 14)):
        mantissa, exponent = (int(v) for v in function(x))
        assert low <= mantissa < 1 << 16
        assert mantissa * 2.0**exponent <= x < (mantissa + 1) * 2.0**exponent
    assert int(normalized_even(x)[1]) % 2 == 0


def test_zero_has_no_mantissa() -> None:
    assert [int(v) for v in (*normalized(0), *normalized_even(0))] == [0, -15, 0, -14]


@given(st.integers(-(1 << 50), 1 << 50), st.integers(1, 62))
def test_rounded_goes_up_at_ties(x: int, shift: int) -> None:
    assert int(rounded(np.int64(x), shift)) == (x + (1 << (shift - 1))) >> shift


@pytest.mark.parametrize("form", hls.FORMS)
def test_hardware(form: str) -> None:
    library = hls.library(form)
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 62, 20_000) >> rng.integers(0, 62, 20_000)
    x = np.concatenate([np.array(EDGES, np.int64), random])
    y = np.zeros((len(x), 4), np.int32)
    library.normals(len(x), hls.pointer(x), hls.pointer(y))
    np.testing.assert_array_equal(y.T, [*normalized(x), *normalized_even(x)])
    shift = rng.integers(1, 40, len(x)).astype(np.int32)
    z, narrow = np.zeros(len(x), np.int32), (x - (1 << 61) >> 31).astype(np.int32)
    library.round_all(len(x), hls.pointer(narrow), hls.pointer(shift), hls.pointer(z))
    np.testing.assert_array_equal(z, rounded(narrow.astype(np.int64), shift))
