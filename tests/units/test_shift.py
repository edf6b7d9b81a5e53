"""The shift-multiply cell: values of every code, and the array around it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa
from weft.units import shift

seeds = st.integers(0, 2**32 - 1)
FLINT = [0, 1, 2, 3, 16, 8, 4, 6]  # ANT, MICRO 2022, table of signed 4-bit codes
POT = [0, 1, 2, 4, 8, 16, 32, 64]
E2M1 = [0, 1, 2, 3, 4, 6, 8, 12]  # twice the values

TERMS = r"""
#include "units/shift.hpp"
using namespace weft;
extern "C" void values(int kind, int width, int *found) {
  for (int byte = 0; byte < 256; ++byte) {
    const unsigned terms = unsigned(terms_of(UInt<32>(byte), width, kind, 1));
    for (int i = 0; i < 2; ++i)
      found[2 * byte + i] = int(term_product(int(terms >> (8 * i)) & 0xff, int(term(false, 0, 1))));
  }
}
"""


def precision(a: int, w: int, of_a: str = "int", of_w: str = "int") -> dict[str, int]:
    return {
        "engine": isa.ENGINES.index("shift"),
        "activation_bits": a,
        "weight_bits": w,
        "words": 8 // w,
        "codes": shift.kinds(of_a if a == 4 else "int", of_w if w == 4 else "int"),
    }


@pytest.mark.parametrize("form", ["cycle", "exact"])
@pytest.mark.parametrize("kind", isa.TERMS)
def test_terms_of_every_byte(kind, form):
    library = kernel.unit_library(TERMS, wide.NANO, form)
    found = np.zeros((256, 2), np.int32)
    library.values(isa.TERMS.index(kind), 4, ctypes.c_void_p(found.ctypes.data))
    np.testing.assert_array_equal(found, shift.values(kind))


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_a_number_of_8_bits_is_two_terms(form):
    library = kernel.unit_library(TERMS, wide.NANO, form)
    found = np.zeros((256, 2), np.int32)
    library.values(0, 8, ctypes.c_void_p(found.ctypes.data))
    np.testing.assert_array_equal(found.sum(axis=1), np.arange(256, dtype=np.uint8).view(np.int8))


@pytest.mark.parametrize(("kind", "positive"), [("flint", FLINT), ("pot", POT), ("e2m1", E2M1)])
def test_values_are_those_of_the_papers(kind, positive):
    table = shift.values(kind)[:16, 0]
    np.testing.assert_array_equal(table, positive + [-v for v in positive])


def test_unsigned_flint():
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 64, 32, 16, 24, 8, 10, 12, 14]
    np.testing.assert_array_equal(shift.values("uflint")[:16, 0], expected)


def test_olives_golden_sequence():
    """OliVe, ISCA 2023: bytes of the reference's pairs, in units of int4."""
    bytes_ = [1, 131, 232, 130, 119, 129]
    expected = [1, 0, 24, 0, 0, -64, 16, 0, 7, 7, 12, 0]
    np.testing.assert_array_equal(shift.values("olive")[bytes_].reshape(-1), expected)


@pytest.mark.parametrize("name", wide.OVERLAYS)
@pytest.mark.parametrize(("a", "w"), [(4, 4), (8, 4), (4, 8), (8, 8)])
@given(
    seed=seeds,
    batch=st.integers(1, 2),
    of_a=st.sampled_from(isa.TERMS),
    of_w=st.sampled_from(isa.TERMS),
)
@kernel.examples(8)
def test_every_form_computes_and_counts_alike(name, a, w, seed, batch, of_a, of_w):
    rng = np.random.default_rng(seed)
    wide.check(rng, wide.OVERLAYS[name], precision(a, w, of_a, of_w), batch)


@pytest.mark.parametrize(("a", "w"), [(4, 4), (8, 4), (8, 8)])
def test_the_exact_form_agrees(a, w):
    forms = ("exact", *kernel.FORMS)
    wide.check(
        np.random.default_rng(1),
        wide.NANO,
        precision(a, w, "uflint", "olive"),
        forms=forms,
        small=True,
    )
