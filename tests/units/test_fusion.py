"""BitFusion's cell: every precision and sign, exact; the array around it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import wide
from hypothesis import given
from hypothesis import strategies as st

import kernel
from weft import isa
from weft.units import fusion

seeds = st.integers(0, 2**32 - 1)
PAIRS = [(a, w) for a in fusion.WIDTHS for w in fusion.WIDTHS]

CELL = r"""
#include "units/fusion.hpp"
using namespace weft;
extern "C" void products(int a, int w, int codes, int count, const unsigned *x, const unsigned *y,
                         int *sums) {
  MatMul f = {};
  f.activation_bits = a; f.weight_bits = w; f.words = 8 / w; f.codes = codes;
  FusionCell cell;
  cell.begin(f);
  for (int i = 0; i < count; ++i) sums[i] = int(cell.fused(UInt<32>(x[i]), UInt<32>(y[i])));
}
"""


def precision(a: int, w: int, codes: int = 3) -> dict[str, int]:
    return {
        "engine": isa.ENGINES.index("fusion"),
        "activation_bits": a,
        "weight_bits": w,
        "words": 8 // w,
        "codes": codes,
    }


@pytest.mark.parametrize("form", ["cycle", "exact"])
@pytest.mark.parametrize("codes", range(4))
@pytest.mark.parametrize(("a", "w"), PAIRS)
def test_bricks_are_exact_for_every_pair_of_codes(a, w, codes, form):
    library = kernel.unit_library(CELL, wide.NANO, form)
    x, y = (v.reshape(-1) for v in np.meshgrid(np.arange(1 << a), np.arange(1 << w)))
    count = (8 // w) * (8 // a)
    for j in range(count):  # each product by itself
        bus_x = (x.astype(np.uint64) << np.uint64(j * a)).astype(np.uint32)
        bus_y = (y.astype(np.uint64) << np.uint64(j * w)).astype(np.uint32)
        found = np.zeros(len(x), np.int32)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (bus_x, bus_y, found))
        library.products(a, w, codes, len(x), *pointers)
        signed_x = np.where((codes & 1) & (x >> (a - 1)), x - (1 << a), x)
        signed_y = np.where((codes >> 1) & (y >> (w - 1)), y - (1 << w), y)
        np.testing.assert_array_equal(found, signed_x * signed_y)


def test_the_papers_example():
    """−7 · 5 in digits of two bits: 1 + 4 − 8 − 32."""
    library = kernel.unit_library(CELL, wide.NANO, "exact")
    x, y, found = (np.array([v], np.uint32) for v in (-7 & 15, 5, 0))
    library.products(4, 4, 3, 1, *(ctypes.c_void_p(v.ctypes.data) for v in (x, y, found)))
    assert found.view(np.int32)[0] == -35


@pytest.mark.parametrize("name", wide.OVERLAYS)
@pytest.mark.parametrize(("a", "w"), PAIRS)
@given(seed=seeds, batch=st.integers(1, 2), codes=st.integers(0, 3))
@kernel.examples(4)
def test_every_form_computes_and_counts_alike(name, a, w, seed, batch, codes):
    rng = np.random.default_rng(seed)
    wide.check(rng, wide.OVERLAYS[name], precision(a, w, codes) | {"shift": 8 * (seed % 2)}, batch)


@pytest.mark.parametrize(("a", "w"), [(8, 8), (4, 4), (2, 2), (8, 2)])
def test_the_exact_form_agrees(a, w):
    rng = np.random.default_rng(a + w)
    forms = ("exact", *kernel.FORMS)
    wide.check(rng, wide.NANO, precision(a, w), forms=forms, small=True)


@pytest.mark.parametrize(
    ("a", "w", "share"), [(8, 8, 1), (8, 4, 2), (4, 4, 4), (4, 2, 8), (2, 2, 16)]
)
def test_compute_clocks_shrink_with_the_precision(a, w, share):
    """Resident weights: M rows outlast the shift of a tile, so only the folds count."""
    from weft.units import systolic

    channels, overlay = 1024, wide.OVERLAYS["wide8"]
    blocks = channels * a // 8 // overlay.lanes
    f = {**precision(a, w), "blocks": blocks, "kernel_h": 1, "kernel_w": 1, "out_h": 8, "out_w": 8}
    f |= {"tiles": 1, "overlap": 1, "pace": 8 // a}
    assert systolic.clocks(f, overlay, 1, {}).matrix == 64 * channels // overlay.lanes // share
