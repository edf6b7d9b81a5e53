"""Activations in other formats than int8: what the epilogue makes of sums.

Integers of fewer bits are codes within a narrower clamp. Formats whose values are not equally far
apart take two steps: the sum becomes an int8 code of a finer scale, and the lookup table finds the
nearest value of the format's grid.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from weft.formats import parse
from weft.graph import Quant
from weft.lower.stage import Epilogue

Int8 = NDArray[np.int8]
FINEST = 127  # code of the intermediate that stands for the grid's largest value


def code_range(name: str) -> tuple[int, int]:
    """Smallest and largest code of activations in a format."""
    found = re.fullmatch(r"(u?)int([2-7])", name)
    if not found:
        return -128, 127
    bits = int(found[2])
    return (0, (1 << bits) - 1) if found[1] else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


@cache
def nearest(name: str) -> Int8 | None:
    """Grid value for every intermediate code −128..127; None for formats of equal steps."""
    if re.fullmatch(r"u?int\d+|bf16", name):
        return None
    grid = parse(name).grid
    assert grid is not None, "formats of activations have a grid"
    values = np.unique(grid[~np.isnan(grid)])
    fine = np.arange(-128, 128) * (np.abs(values).max() / FINEST)
    distance = np.abs(fine[:, None] - values)
    # Ties go to the larger number, as in the formats' own rounding.
    best = len(values) - 1 - np.argmin(distance[:, ::-1], axis=1)
    return values[best].astype(np.int8)


def intermediate(y: Quant) -> tuple[Quant, Int8 | None]:
    """Quant of the codes that requantization makes, and the lookup behind it, if there is one."""
    table = nearest(y.format)
    if table is None:
        return y, None
    step = np.float32(np.abs(table.astype(int)).max() / FINEST)
    return Quant(np.asarray(y.scale * step, np.float32)), table


def packed_epilogue(done: Epilogue, name: str, bits: int) -> Epilogue:
    """The epilogue that leaves codes of `bits` bits side by side."""
    lookup = done.lookup
    if lookup is not None and bits > 1:
        grid = parse(name).grid
        assert grid is not None, "formats with a lookup have a grid"
        codes = {int(v): code for code, v in reversed(list(enumerate(grid))) if v == v}
        lookup = np.array([codes[int(v)] for v in lookup], np.uint8).view(np.int8)
    return replace(done, pack={4: 1, 2: 2, 1: 3}[bits], lookup=lookup)
