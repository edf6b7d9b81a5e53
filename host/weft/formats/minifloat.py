"""Small floats: E2M1, E3M0 (as integers), E4M3, E5M2 (as bf16), and the elements of MX.

E2M1 is multiplied by 2 and E3M0 by 4 to make integers: the scale takes the factor. Ties go to the
even code (IEEE 754); numbers beyond the largest become that. E4M3 and E5M2 are those of OCP OFP8:
E4M3 has no infinities; the codes of infinities and NaNs are not used.
"""

from __future__ import annotations

import numpy as np

from weft.format import Format, Grid, on_grid, to_even

HPP = "formats/minifloat.hpp"


def values(exponent_bits: int, mantissa_bits: int, bias: int) -> Grid:
    """Values of the codes without their sign, subnormal numbers included."""
    code = np.arange(1 << (exponent_bits + mantissa_bits))
    exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    normal = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
    subnormal = mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias)
    return np.asarray(np.where(exponent == 0, subnormal, normal))


def signed(positive: Grid) -> Grid:
    """Codes with a sign bit; that of −0 is not used."""
    negative = -positive
    negative[0] = np.nan
    return np.concatenate([positive, negative])


def every(exponent_bits: int, mantissa_bits: int) -> Grid:
    """Values of all codes, those of infinities and NaNs as if they were numbers."""
    positive = values(exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1)
    return np.concatenate([positive, -positive])


def ofp8(exponent_bits: int) -> Grid:
    """E4M3 or E5M2 of OCP OFP8, with NaN for what is no number."""
    mantissa_bits = 7 - exponent_bits
    positive = values(exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1)
    if exponent_bits == 4:
        positive[-1:] = np.nan
    else:
        positive[-4:] = np.nan
    return signed(positive)


E2M1_GRID = signed(values(2, 1, 1))
E2M3_GRID = signed(values(2, 3, 1))
E3M2_GRID = signed(values(3, 2, 3))

E2M1 = on_grid(
    "e2m1", 4, 2 * E2M1_GRID, HPP, "E2M1Integer", "FP4, OCP MX 1.0, times 2",
    to_even(2 * E2M1_GRID), activations=True,
)  # fmt: skip
E3M0 = on_grid(
    "e3m0", 4, 4 * signed(np.concatenate([[0.0], 2.0 ** (np.arange(1, 8) - 3)])), HPP,
    "E3M0Integer", "4-bit float without mantissa, times 4",
    to_even(4 * signed(np.concatenate([[0.0], 2.0 ** (np.arange(1, 8) - 3)]))),
)  # fmt: skip


def _ofp8(name: str, exponent_bits: int) -> Format:
    grid = ofp8(exponent_bits)
    return on_grid(
        name, 8, grid, HPP, f"Minifloat<{exponent_bits}, {7 - exponent_bits}>", "OCP OFP8 1.0",
        to_even(grid), operand="bf16", every=every(exponent_bits, 7 - exponent_bits),
    )  # fmt: skip


E4M3, E5M2 = _ofp8("e4m3", 4), _ofp8("e5m2", 5)
FLOATS = [E2M1, E3M0, E4M3, E5M2]
