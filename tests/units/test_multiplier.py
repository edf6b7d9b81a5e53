"""Two int8 products from one DSP multiplication: every pair of weights with every activation."""

from __future__ import annotations

import ctypes

import pytest

import kernel

EVERY_TRIPLE = r"""
#include "units/multiplier.hpp"
using namespace weft;
/// Triples out of 2^24 for which a packed or plain product is wrong.
extern "C" int wrong() {
  int count = 0;
  for (int a = -128; a < 128; ++a)
    for (int w0 = -128; w0 < 128; ++w0) {
      count += int(product(Int<8>(a), Int<8>(w0))) != a * w0;
      for (int w1 = -128; w1 < 128; ++w1) {
        Int<16> low, high;
        packed_product(Int<8>(a), Int<8>(w0), Int<8>(w1), low, high);
        count += int(low) != a * w0 || int(high) != a * w1;
      }
    }
  return count;
}
"""


@pytest.mark.parametrize("form", ["cycle", "exact"])
def test_packed_products_are_the_plain_ones(form):
    library = kernel.unit_library(EVERY_TRIPLE, kernel.OVERLAYS["8x8p"], form)
    library.wrong.restype = ctypes.c_int
    assert library.wrong() == 0
