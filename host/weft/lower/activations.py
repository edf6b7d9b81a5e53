"""Activations in other formats than int8: what the epilogue makes of sums.

Integers of fewer bits are codes within a narrower clamp. Formats whose values are not equally far
apart take two steps: the sum becomes an int8 code of a finer scale, and the lookup table finds the
nearest value of the format's grid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from weft import activation
from weft.formats import parse
from weft.graph import Quant
from weft.lower.stage import Epilogue

Int8 = NDArray[np.int8]
FINEST = 127  # code of the intermediate that stands for the grid's largest value


def intermediate(y: Quant) -> tuple[Quant, Int8 | None]:
    """Quant of the codes that requantization makes, and the lookup behind it, if there is one."""
    if y.format not in activation.GRIDS:
        return y, None
    step = np.float32(np.abs(activation.values(y.format)).max() / FINEST)
    unit = Quant(np.asarray(1, np.float32), format=y.format)
    table = activation.to_codes(np.arange(-128, 128, dtype=np.float32) * step, unit)
    return Quant(np.asarray(y.scale * step, np.float32)), np.asarray(table, np.int8)


def packed_epilogue(done: Epilogue, name: str, bits: int) -> Epilogue:
    """The epilogue that leaves codes of `bits` bits side by side."""
    lookup = done.lookup
    if lookup is not None and bits > 1:
        grid = parse(name).grid
        assert grid is not None, "formats with a lookup have a grid"
        known = {int(v): code for code, v in reversed(list(enumerate(grid))) if v == v}
        lookup = np.array([known[int(v)] for v in lookup], np.uint8).view(np.int8)
    return replace(done, pack={4: 1, 2: 2, 1: 3}[bits], lookup=lookup)
