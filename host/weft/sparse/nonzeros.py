"""The non-zeros of a matrix, row by row or column by column.

Large matrices are gathered by column with a small C++ kernel (columns.cpp) where a compiler is
found; numpy gives the same arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.errors import DeviceError, MissingDependency
from weft.graph import Array
from weft.sparsity_format import bits_for, index_type

LARGE = 1 << 20  # elements from which on the kernel may be built: that takes a second, once


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
    return next(interleaved(matrix, 1))


def interleaved(matrix: Array, parts: int) -> Iterator[Nonzeros]:
    """Non-zeros by column of rows 0, parts, 2 parts, ..., then of rows 1, parts + 1, ..."""
    library = kernel() if matrix.size >= LARGE else None
    for part in range(min(parts, len(matrix))):
        rows = matrix[part::parts]
        yield gathered(library, rows) if library else sorted_by_column(rows)


def sorted_by_column(matrix: Array) -> Nonzeros:
    """`by_column` in numpy: integers of column, row and value, sorted."""
    rows, cols = matrix.shape
    pointers, columns, values = by_row(matrix)
    low = 8 * matrix.itemsize
    high = low + bits_for(rows)
    kind: Any = np.uint32 if high + bits_for(cols) <= 32 else np.uint64
    keys = columns.astype(kind) << kind(high)
    keys |= np.repeat(np.arange(rows, dtype=kind) << kind(low), np.diff(pointers))
    keys |= values.view(f"u{matrix.itemsize}")
    keys.sort()  # several times as fast as finding an order
    ends = np.searchsorted(keys, np.arange(1, cols, dtype=kind) << kind(high))
    found = np.concatenate([[0], ends, [len(keys)]]).astype(np.uint32)
    indices = (keys >> kind(low)).astype(index_type(rows))
    indices &= index_type(rows)((1 << bits_for(rows)) - 1)
    return Nonzeros(found, indices, keys.astype(f"u{matrix.itemsize}").view(matrix.dtype))


@cache
def kernel() -> ctypes.CDLL | None:
    """The kernel of columns.cpp; None where it can't be built."""
    from weft import build

    try:
        library = ctypes.CDLL(str(build.host_kernel(Path(__file__).with_name("columns.cpp"))))
    except (MissingDependency, DeviceError, OSError):
        return None  # numpy gives the same, in more time
    pointer, size, width = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.weft_count.argtypes = [pointer, width, size, size, size, pointer]
    library.weft_gather.argtypes = [
        *(pointer, width, size, size, size),
        *(pointer, pointer, width, pointer),
    ]
    library.weft_count.restype = library.weft_gather.restype = None
    return library


def gathered(library: ctypes.CDLL, matrix: Array) -> Nonzeros:
    """`by_column` by the kernel. Rows of `matrix` are contiguous, but may lie apart."""
    rows, cols = matrix.shape
    assert matrix.dtype in (np.int8, np.int16), "the kernel knows two types"
    assert cols == 1 or matrix.strides[1] == matrix.itemsize, "rows must be contiguous"
    where = (matrix.ctypes.data, matrix.itemsize, rows, cols, matrix.strides[0])
    pointers = np.zeros(cols + 1, np.uint32)
    library.weft_count(*where, pointers[1:].ctypes.data)
    np.cumsum(pointers, dtype=np.uint32, out=pointers)
    indices = np.empty(pointers[-1], index_type(rows))
    values = np.empty(pointers[-1], matrix.dtype)
    free = pointers[:-1].copy()
    library.weft_gather(
        *where, free.ctypes.data, indices.ctypes.data, indices.itemsize, values.ctypes.data
    )
    return Nonzeros(pointers, indices, values)


def lines(pointers: Array) -> NDArray[np.int64]:
    """The line of the major axis that each non-zero is on."""
    starts = np.asarray(pointers, np.int64)
    return np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])
