"""flint: float-int hybrid codes for bell-shaped tensors (Guo et al., ANT, MICRO 2022, section 4).

An unsigned code whose top bit is 0 is an integer; else the leading zeros of the rest give the
exponent: close to 0 the steps are as fine as an integer's, far away as coarse as a float's. A
signed code is a sign and an unsigned code of one bit less. Ties go to the larger number.
"""

from __future__ import annotations

import numpy as np

from weft.format import Format, Grid, on_grid

HPP = "formats/flint.hpp"


def values(bits: int) -> Grid:
    """All 2**bits values in code order: unsigned integers up to 4**(bits − 1)."""
    top = 1 << (bits - 1)
    found = []
    for code in range(2 * top):
        low = code & (top - 1)
        zeros = bits - 1 - low.bit_length()
        if code < top:
            found.append(low)
        else:
            found.append((2 * low) << (2 * zeros) if low else 4 ** (bits - 1))
    return np.array(found, np.float64)


def signed(positive: Grid) -> Grid:
    """A sign bit before the codes of `positive`; the code of −0 is not used."""
    negative = -positive
    negative[0] = np.nan
    return np.concatenate([positive, negative])


def _flint(bits: int, is_signed: bool) -> Format:
    name = f"{'' if is_signed else 'u'}flint{bits}"
    grid = signed(values(bits - 1)) if is_signed else values(bits)
    decoder = f"{'' if is_signed else 'Unsigned'}Flint<{bits}>"
    return on_grid(
        name, bits, grid, HPP, decoder, "ANT, MICRO 2022, section 4",
        activations=float(np.nanmax(grid)) <= 127,
    )  # fmt: skip


FLINTS = [_flint(bits, True) for bits in range(3, 9)]
UNSIGNED = [_flint(bits, False) for bits in range(3, 8)]
