"""COO: row, column and value of each non-zero, row by row. For interchange (scipy's coo_array)."""

from __future__ import annotations

import numpy as np

from weft.graph import Array
from weft.sparse.nonzeros import by_row, lines
from weft.sparsity_format import (
    Packed,
    SparseFormat,
    bits_for,
    check_head,
    dense,
    indices,
    operands,
    rising,
    sized,
    smallest,
)


def pack(matrix: Array) -> Packed:
    """The non-zeros of [rows, cols]; `rows` and `columns` are uint16, uint32 where needed."""
    whole = dense(matrix)
    found = by_row(whole)
    arrays = {"rows": smallest(lines(found.pointers), len(whole)), "columns": found.indices}
    return Packed("coo", whole.shape, found.values, arrays)


def check(packed: Packed) -> None:
    """Raises SparseError for indices out of range, unsorted or twice, and arrays of other sizes."""
    _checked(packed)


def _checked(packed: Packed) -> tuple[Array, Array]:
    check_head(packed, "coo", ("rows", "columns"))
    count = packed.values.size
    sized(packed, "values", (count,))
    rows = indices(packed, "rows", (count,), packed.rows)
    columns = indices(packed, "columns", (count,), packed.cols)
    rising(packed, "row * cols + column", rows * packed.cols + columns, np.zeros(1, np.int64))
    return rows, columns


def unpack(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check` does."""
    at = _checked(packed)
    matrix = np.zeros(packed.shape, packed.values.dtype)
    matrix[at] = operands(packed)
    return matrix


COO = SparseFormat(
    "coo", pack, unpack, check,
    lambda packed: {"rows": bits_for(packed.rows), "columns": bits_for(packed.cols)},
    "coordinates, as scipy's coo_array",
)  # fmt: skip
