"""Engine: what the arrays of an overlay have in common, and where they differ.

Every engine is a MatMul with another `engine` field: same operands, accumulators and epilogue. An
engine whose cells make several products per clock gets codes of fewer bits side by side
(hls/weft/units/precision.hpp): `words` channel blocks at once, `8 // activation_bits` codes in a
byte, and as many weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.state import Fields

Bytes = NDArray[np.uint8]
Values = NDArray[np.int64]


@dataclass(frozen=True)
class Engine:
    """One kind of array.

    `legal(fields, overlay)` says whether it takes a MatMul's precision. `activations(words,
    fields)` makes numbers [M, folds, lanes, products] of the bytes [M, folds, words, lanes] that
    reach its left edge; `weights(rows, fields)` makes numbers [tiles, folds, lanes, products,
    columns] of stream rows [tiles, folds, lanes, rows, columns]. `latency`: clocks that a partial
    sum takes per row; `is_float`: sums are float32; `index(fields, lanes)`: stream rows of
    positions in front of a tile, which `weights` then gets in front of its rows, [tiles, folds,
    index + lanes, 1, columns].
    """

    name: str
    legal: Callable[[Fields, Overlay], bool]
    activations: Callable[[Bytes, Fields], Values]
    weights: Callable[[NDArray[np.int16], Fields], Values]
    doc: str
    latency: int = 1
    is_float: bool = False
    index: Callable[[Fields, int], int] = lambda f, lanes: 0

    def flush(self, overlay: Overlay) -> int:
        """Clocks from a row's activations to its last sum."""
        groups = overlay.column_groups if self.name == "systolic" else overlay.cols
        return overlay.rows * self.latency + groups - 2


def products(f: Fields) -> int:
    """Products of a cell per clock."""
    return f["words"] * 8 // f["activation_bits"]


def weight_rows(f: Fields) -> int:
    """Stream rows of a tile row: the bytes that a cell's weights take."""
    return max(1, products(f) * f["weight_bits"] // 8)


def codes(packed: Bytes, bits: int) -> Bytes:
    """Codes [..., bytes · 8 // bits] of bytes [..., bytes], the first in the low bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(found.reshape(*packed.shape[:-1], -1))


def signed(code: Bytes, bits: int) -> Values:
    """Codes as two's complement numbers."""
    top = 1 << (bits - 1)
    return np.asarray((code.astype(np.int64) ^ top) - top)


def operand_codes(rows: NDArray[np.int16], bits: int) -> Bytes:
    """Codes [tiles, folds, lanes, products, columns] of a cell's weights in its stream rows."""
    per_column = np.moveaxis(rows.astype(np.uint8), -2, -1)  # [..., columns, rows]
    return np.moveaxis(codes(per_column, bits), -1, -2)


def lane_codes(words: Bytes, bits: int) -> Bytes:
    """Codes [M, folds, lanes, products] of the words of a clock."""
    return codes(np.moveaxis(words, -2, -1), bits)
