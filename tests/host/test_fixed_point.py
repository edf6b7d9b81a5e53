"""Fixed-point conversions against ap_fixed as the standard words it, in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from fixed_standard import limited, rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import UnsupportedError
from weft.fixed import OVERFLOW, ROUNDING, FixedType, cast, from_real, to_real


def types(widest: int = 12) -> st.SearchStrategy[FixedType]:
    return st.builds(
        FixedType,
        st.integers(1, widest),
        st.integers(-3, 8),
        st.booleans(),
        st.sampled_from(sorted(ROUNDING)),
        st.sampled_from(OVERFLOW),
    )


@settings(max_examples=60, deadline=None)
@given(types(), st.lists(st.integers(-(1 << 20), 1 << 20), min_size=1), st.integers(-4, 16))
def test_cast_is_the_standard(kind, codes, frac):
    expected = [
        limited(rounded(Fraction(q) * Fraction(2) ** (kind.frac - frac), kind.rounding), kind)
        for q in codes
    ]
    np.testing.assert_array_equal(cast(codes, frac, kind), np.array(expected, int))


@settings(max_examples=60, deadline=None)
@given(types(), st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_from_real_is_the_standard(kind, values):
    expected = [
        limited(rounded(Fraction(x) * Fraction(2) ** kind.frac, kind.rounding), kind)
        for x in values
    ]
    found = from_real(np.array(values, np.float32), kind)
    np.testing.assert_array_equal(found, np.array(expected, int))


@settings(max_examples=60, deadline=None)
@given(types())
def test_codes_survive_real_numbers(kind):
    codes = np.arange(kind.low, kind.high + 1)
    if kind.overflow == "SAT_SYM" and kind.signed:
        codes = codes[1:]
    np.testing.assert_array_equal(from_real(to_real(codes, kind.frac), kind), codes)
    assert FixedType.of(kind.attribute) == kind


def test_what_is_not_fixed_point_is_refused():
    with pytest.raises(UnsupportedError, match="RND_CONV"):
        FixedType(8, 3, rounding="RND_CON")
    with pytest.raises(UnsupportedError, match="SAT_SYM"):
        FixedType(8, 3, overflow="SAT_SIM")
    with pytest.raises(UnsupportedError, match="fixed<64,3>"):
        FixedType(64, 3)
