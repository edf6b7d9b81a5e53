"""How memories map to a part: block RAM, UltraRAM, LUTs. Sizes may be numbers or numpy arrays.

Shapes are those of UG953 and UG573; rules and their sources: docs/estimates.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Number = int | float | NDArray[Any]

# depth × width of a tile as one port pair (simple dual port), and how many RAMB36 it takes.
BRAM_SHAPES = (
    *((depth, width, 1.0) for depth, width in ((512, 72), (1024, 36), (2048, 18), (4096, 9))),
    *((depth, width, 1.0) for depth, width in ((8192, 4), (16384, 2), (32768, 1))),
    *((depth, width, 0.5) for depth, width in ((512, 36), (1024, 18), (2048, 9), (4096, 4))),
    *((depth, width, 0.5) for depth, width in ((8192, 2), (16384, 1))),
)
URAM_DEPTH, URAM_WIDTH = 4096, 72
URAM_FROM = 4096  # a memory of so many words takes UltraRAM where the part has it
SMALL_BITS = 1024  # a RAM with fewer bits goes to LUTs (FINN's and fpgaConvNet's rule)
SHALLOW = 64  # so does one that a single LUT per bit holds
SHORT_FIFO = 32  # a FIFO of this depth is a shift register, one LUT per bit


def ceil_div(a: Number, b: Number) -> Any:
    """⌈a / b⌉."""
    return -(-np.asarray(a) // b)


def bram36(depth: Number, width: Number) -> Any:
    """RAMB36 of a memory, halves for a RAMB18: the cheapest shape, as Vivado takes."""
    counts = [
        cost * ceil_div(width, tile_width) * ceil_div(depth, tile_depth)
        for tile_depth, tile_width, cost in BRAM_SHAPES
    ]
    return np.minimum.reduce(counts)


def uram(depth: Number, width: Number) -> Any:
    """UltraRAMs of a memory: 4096 × 72 each, no other shape."""
    return ceil_div(width, URAM_WIDTH) * ceil_div(depth, URAM_DEPTH)


def lutram(depth: Number, width: Number) -> Any:
    """LUTs of a simple dual-port RAM: four hold 32 × 6 (RAM32M) or 64 × 3 (RAM64M) bits."""
    depth, width = np.asarray(depth), np.asarray(width)
    shallow = 4 * ceil_div(width, 6)
    banks = ceil_div(depth, 64)
    deep = 4 * ceil_div(width, 3) * banks + np.where(banks > 1, ceil_div(width * banks, 4), 0)
    return np.where(depth <= 32, shallow, deep)


def small(depth: Number, width: Number) -> Any:
    """Whether a RAM goes to LUTs."""
    depth, width = np.asarray(depth), np.asarray(width)
    return (depth * width < SMALL_BITS) | (depth <= SHALLOW)


def ram(depth: Number, width: Number) -> tuple[Any, Any]:
    """(LUT, RAMB36) of a simple dual-port RAM."""
    tiny = small(depth, width)
    return np.where(tiny, lutram(depth, width), 0), np.where(tiny, 0, bram36(depth, width))


def fifo(depth: Number, width: Number) -> tuple[Any, Any, Any]:
    """(LUT, FF, RAMB36) of an hls::stream: a shift register if short, else block RAM."""
    depth, width = np.asarray(depth), np.asarray(width)
    short = depth <= SHORT_FIFO
    lut = np.where(short, width + 12, 0.97 * width + 14)
    ff = np.where(short, 7, 2 * width + 31)
    return lut, ff, np.where(short, 0, bram36(depth, width))
