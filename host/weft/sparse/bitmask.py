"""Bitmask: a bit per element, and the values that are not 0, row by row.

Bit i of byte j of a row is its column 8j + i (numpy packbits, bitorder "little"). Rows begin with
a byte of their own, and the bits after the last column are 0.
"""

from __future__ import annotations

import numpy as np

from weft.errors import SparseError
from weft.graph import Array
from weft.sparsity_format import Packed, SparseFormat, check_head, dense, fail, operands, sized


def pack(matrix: Array) -> Packed:
    """`mask` uint8 [rows, bytes], and the non-zeros."""
    whole = dense(matrix)
    kept = whole != 0
    mask = np.packbits(kept, axis=1, bitorder="little")
    values = whole.reshape(-1)[np.flatnonzero(kept)]  # half the time of whole[kept]
    return Packed("bitmask", whole.shape, values, {"mask": mask})


def check(packed: Packed) -> None:
    """Raises SparseError where bits and values differ in number, or bits are past the columns."""
    _checked(packed)


def _checked(packed: Packed) -> Array:
    check_head(packed, "bitmask", ("mask",))
    mask = sized(packed, "mask", (packed.rows, -(-packed.cols // 8)))
    if mask.dtype != np.uint8:
        raise SparseError(f"bitmask: array 'mask' is {mask.dtype}, not uint8")
    if packed.cols % 8:
        wrong = np.zeros(mask.shape, bool)
        wrong[:, -1] = mask[:, -1] >> np.uint8(packed.cols % 8) != 0
        fail(packed, "mask", mask, wrong, f"has bits past column {packed.cols - 1}")
    kept = np.unpackbits(mask, axis=1, count=packed.cols, bitorder="little").astype(bool)
    sized(packed, "values", (int(np.count_nonzero(kept)),))
    return kept


def unpack(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check` does."""
    kept = _checked(packed)
    matrix = np.zeros(packed.shape, packed.values.dtype)
    matrix[kept] = operands(packed)
    return matrix


BITMASK = SparseFormat(
    "bitmask", pack, unpack, check, lambda packed: {"mask": 8}, "a bit per element"
)
