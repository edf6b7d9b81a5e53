"""Powers of two (Miyashita et al. 2016; Li, Dong, Wang, ICLR 2020): a multiplier is a shifter.

A sign, then 0 for zero or one more than the exponent. Ties go to the larger number.
"""

from __future__ import annotations

import numpy as np

from weft.format import Format, on_grid
from weft.formats.flint import signed


def _pot(bits: int) -> Format:
    exponents = np.arange((1 << (bits - 1)) - 1)
    positive = np.concatenate([[0.0], 2.0**exponents])
    return on_grid(
        f"pot{bits}", bits, signed(positive), "formats/pot.hpp", f"PowerOfTwo<{bits}>",
        "power of two, Li et al., ICLR 2020", activations=bits <= 4,
    )  # fmt: skip


POTS = [_pot(bits) for bits in (3, 4, 5)]
