"""The non-zeros of a matrix, row by row or column by column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array
from weft.sparsity_format import bits_for, index_type


class Nonzeros(NamedTuple):
    """`values` of the non-zeros and their `indices` on the minor axis, which rise on each line.

    Those of line i of the major axis are at pointers[i] .. pointers[i + 1] - 1.
    """

    pointers: NDArray[np.uint32]
    indices: Array
    values: Array


def by_row(matrix: Array) -> Nonzeros:
    """Non-zeros of [rows, cols] row by row; indices are columns."""
    rows, cols = matrix.shape
    at = np.flatnonzero(matrix != 0)
    starts = np.arange(rows + 1) * cols
    pointers = np.searchsorted(at, starts)
    values = np.ascontiguousarray(matrix).reshape(-1)[at]
    at -= np.repeat(starts[:-1], np.diff(pointers))
    return Nonzeros(pointers.astype(np.uint32), at.astype(index_type(cols)), values)


def by_column(matrix: Array) -> Nonzeros:
    """Non-zeros of [rows, cols] column by column; indices are rows."""
    rows, cols = matrix.shape
    pointers, columns, _ = by_row(matrix)
    bits = bits_for(rows)
    kind: Any = np.uint32 if bits + bits_for(cols) <= 32 else np.uint64
    # numpy sorts whole integers several times as fast as it sorts an order.
    keys = columns.astype(kind) << kind(bits)
    keys |= np.repeat(np.arange(rows, dtype=kind), np.diff(pointers))
    keys.sort()
    ends = np.searchsorted(keys, np.arange(cols + 1, dtype=np.uint64) << np.uint64(bits))
    indices = (keys & kind((1 << bits) - 1)).astype(index_type(rows))
    values = matrix[indices, keys >> kind(bits)]
    return Nonzeros(ends.astype(np.uint32), indices, values)


def lines(pointers: Array) -> NDArray[np.int64]:
    """The line of the major axis that each non-zero is on."""
    starts = np.asarray(pointers, np.int64)
    return np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])
