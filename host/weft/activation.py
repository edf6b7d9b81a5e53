"""What activations can be: int8 codes, fewer of them, or numbers that bf16 holds.

`int16` is for the residual stream of transformers (`weft.passes.stream`); chosen by name, for what
the products of a decoder read (`weft.passes.wide_products`).

A narrow activation is still a byte in the buffer. `intN` and `uintN` use fewer of the 256 codes,
with a zero point as int8 has one; the grids of flint, powers of two, E2M1, ternary and binary are
symmetric (binary01 is 0 and 1), and their codes are the grid's integers: real = scale * q. bf16
stays real.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from weft.errors import UsageError, unknown
from weft.format import SMALLEST_SCALE
from weft.formats import int8

if TYPE_CHECKING:
    from weft.graph import Array, Quant

INTEGERS = ("int8", *(f"{kind}{n}" for kind in ("int", "uint") for n in range(7, 1, -1)))
GRIDS = ("flint4", "pot4", "e2m1", "ternary", "binary", "binary01")
REAL = "bf16"
WIDE = "int16"
HEADROOM = 1.25  # of int16, for what calibration has not seen: it costs a third of a bit
ACTIVATIONS = (*INTEGERS, *GRIDS, REAL)


def check(name: str) -> str:
    """The name itself. Raises UsageError, with the list, for what activations can't be."""
    known = (*ACTIVATIONS, WIDE)
    if name not in known:
        raise UsageError(unknown("format of activations", name, known))
    return name


def bits(name: str) -> int:
    """How many bits tell the codes apart."""
    if name in (REAL, WIDE):
        return 16
    return {"ternary": 2, "binary": 1, "binary01": 1}.get(name) or int(
        name[-1] if name != "e2m1" else 4
    )


def limits(name: str) -> tuple[int, int]:
    """Smallest and largest code."""
    if name in GRIDS:
        grid = values(name)
        return int(grid[0]), int(grid[-1])
    if name == WIDE:
        return -32767, 32767
    unsigned, n = name.startswith("u"), bits(name)
    return (0, 2**n - 1) if unsigned else (-(2 ** (n - 1)), 2 ** (n - 1) - 1)


@lru_cache
def values(name: str) -> NDArray[np.float64]:
    """The integers of a grid, in increasing order."""
    from weft.formats import parse

    grid = parse(name).grid
    assert grid is not None, f"{name} has a grid"
    return np.asarray(np.unique(grid[~np.isnan(grid)]), np.float64)


def affine(low: float, high: float, name: str = "int8", symmetric: bool = False) -> Quant:
    """Quant of an activation that lies in low..high, as `weft.formats.int8.affine`.

    Grids map the larger of both magnitudes to their largest value. Raises InputError for bounds
    that are not finite.
    """
    quant = int8.affine(low, high, symmetric)
    if name == "int8":
        return quant
    if name == REAL:
        return replace(quant, scale=np.asarray(1, np.float32), zero_point=0, format=name)
    least, most = limits(name)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if low == high:
        return replace(quant, zero_point=0, format=name)
    if name == WIDE:
        scale, zero = HEADROOM * max(-low, high) / most, 0
    elif name in GRIDS or symmetric:
        scale, zero = max(-low / max(-least, 1), high / most), 0
        if name in GRIDS or least == 0:
            scale = max(-low, high) / most
    else:
        scale = high / (most - least) - low / (most - least)
        zero = _zero_point(low, scale, least, most)
    scale = min(max(scale, SMALLEST_SCALE), float(np.finfo(np.float32).max))
    return replace(quant, scale=np.asarray(scale, np.float32), zero_point=zero, format=name)


def _zero_point(low: float, scale: float, least: int, most: int) -> int:
    if scale <= SMALLEST_SCALE:
        return least
    exact = least - low / scale
    nearest = math.floor(exact + 0.5) if exact >= 0 else math.ceil(exact - 0.5)
    return min(max(nearest, least), most)


def to_codes(x: Array, quant: Quant) -> Array:
    """Nearest codes of `x`: int8, saturating, ties as the format has them.

    They are float32 for bf16, int16 for int16.
    """
    real = np.asarray(x, np.float32)
    if quant.format in GRIDS or quant.format == REAL:
        from weft.formats import parse

        flat = parse(quant.format).quantize(real.reshape(1, -1), quant)
        return np.asarray(flat.reshape(real.shape), np.float32 if quant.format == REAL else np.int8)
    low, high = limits(quant.format)
    with np.errstate(over="ignore"):  # clipped
        q = np.rint(real / quant.scale) + np.float32(quant.zero_point)
    return np.asarray(np.clip(q, low, high), np.int16 if quant.format == WIDE else np.int8)


def largest_operand(quant: Quant) -> int:
    """Largest |q - zero_point|: what a product with a weight has on this side at most."""
    low, high = limits(quant.format)
    return max(128, high - quant.zero_point, quant.zero_point - low)
