"""Requantization in C++, native and with integers only, against the golden model."""

from __future__ import annotations

import numpy as np
import pytest

import kernel
from weft.isa import MODES
from weft.units import requant

LOW, HIGH = -(1 << 31), (1 << 31) - 1
EDGES = np.array(
    [
        *(LOW, LOW + 1, -(1 << 30), -(1 << 24) - 1, -(1 << 24), -3, -1, 0, 1, 2, 3),
        *((1 << 24) - 1, 1 << 24, (1 << 24) + 1, (1 << 24) + 3, 1 << 30, HIGH - 1, HIGH),
    ],
    np.int32,
)
COUNT = 200_000

ALL_MODES = r"""
#include "units/requant.hpp"
using namespace weft;
extern "C" void scale(int mode, int n, const int *x, const int *q, const signed char *s, int *y) {
  for (int i = 0; i < n; ++i) {
    const Int<32> a = x[i], m = q[i];
    const Int<8> shift = s[i];
    y[i] = int(mode == 0 ? single_round(a, m, shift)
               : mode == 1 ? double_round(a, m, shift) : float_even(a, m, shift));
  }
}
"""


def operands(mode: str):
    """x, multiplier, shift: edges with edges, random ones, products near a tie."""
    rng = np.random.default_rng(MODES.index(mode))
    x, q, s = np.meshgrid(EDGES, EDGES, np.array([-31, -30, -8, -1, 0, 1, 29, 30]))
    random = rng.integers(LOW, HIGH, COUNT, np.int64, endpoint=True)
    magnitude = rng.integers(0, 32, COUNT)
    parts = [(x.ravel(), q.ravel(), s.ravel())]
    shifts = rng.integers(-31, 31, COUNT)
    parts.append((random >> magnitude, rng.permutation(random), shifts))
    # Accumulators as they come, with scales as they come; powers of two make ties.
    scale = 2.0 ** rng.uniform(-20, 2, COUNT) * rng.choice([-1, 1], COUNT)
    scale[::3] = 2.0 ** rng.integers(-16, 3, len(scale[::3]))
    encoded = requant.encode(scale, mode)
    parts.append((rng.integers(-(1 << 20), 1 << 20, COUNT), *encoded))
    if mode == "float_even":
        exponents = rng.integers(-32, 30, COUNT)
        whole = np.ldexp(rng.uniform(1, 2, COUNT), exponents) * rng.choice([-1, 1], COUNT)
        bits = whole.astype(np.float32).view(np.int32)
        parts = [parts[2], (random >> magnitude, bits, np.zeros(COUNT))]
        special = np.array([0, LOW, 0x7F800000, -0x800000, 0x7FC00000, 0x7F7FFFFF], np.int32)
        grid = np.meshgrid(EDGES, np.concatenate([special, EDGES]))
        parts.append((grid[0].ravel(), grid[1].ravel(), np.zeros(grid[0].size)))
    kinds = (np.int32, np.int32, np.int8)
    columns = zip(*parts, strict=True)
    return [np.concatenate(c).astype(k) for c, k in zip(columns, kinds, strict=True)]


@pytest.mark.parametrize("form", ["cycle", "exact"])
@pytest.mark.parametrize("mode", MODES)
def test_hardware_rounds_as_golden_does(mode, form):
    library = kernel.unit_library(ALL_MODES, kernel.OVERLAYS["4x4"], form)
    x, q, s = operands(mode)
    assert len(x) >= COUNT
    y = np.zeros(len(x), np.int32)
    arrays = (array.ctypes.data_as(kernel.ctypes.c_void_p) for array in (x, q, s, y))
    library.scale(MODES.index(mode), len(x), *arrays)
    np.testing.assert_array_equal(y, requant.requantize(x, q, s, mode))
