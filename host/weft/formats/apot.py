"""Additive powers of two (Li, Dong, Wang, ICLR 2020): sums of terms, each 0 or a power of two.

A code holds the indices of its terms, two bits each (the last one may have a single bit), the first
term in the lowest bits; index 0 is 0. Signed codes have a sign bit on top. Ties go to the smaller
magnitude (the reference's order is that of a set, so only distances can be compared).
"""

from __future__ import annotations

import numpy as np

from weft.format import Format, Grid, on_grid, toward_zero
from weft.formats.flint import signed

# Values of the indices of each term, by the bits of the unsigned code.
TERMS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((0, 1),),
    2: ((0, 4, 2, 1),),
    3: ((0, 8, 4, 1), (0, 2)),
    4: ((0, 32, 8, 2), (0, 16, 4, 1)),
    5: ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4)),
    6: ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1)),
}


def values(bits: int) -> Grid:
    """All 2**bits unsigned values in code order."""
    code = np.arange(1 << bits)
    total = np.zeros(1 << bits)
    for number, term in enumerate(TERMS[bits]):
        total += np.array(term)[code >> (2 * number) & (len(term) - 1)]
    return total


def _apot(bits: int) -> Format:
    return on_grid(
        f"apot{bits}", bits, signed(values(bits - 1)), "formats/apot.hpp",
        f"AdditivePowers<{bits}>", "additive powers of two, Li et al., ICLR 2020", toward_zero,
    )  # fmt: skip


APOTS = [_apot(bits) for bits in (2, 3, 4, 5, 6)]
