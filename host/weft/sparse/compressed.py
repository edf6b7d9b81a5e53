"""CSR and CSC: non-zeros line by line, with a pointer to where each row or column begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.graph import Array
from weft.sparse.nonzeros import Nonzeros, lines
from weft.sparsity_format import (
    Packed,
    SparseFormat,
    bits_for,
    check_head,
    dense,
    indices,
    operands,
    pointers,
    rising,
    sized,
)

Positions = NDArray[np.int64]


def make(name: str, axis: int, gather: Callable[[Array], Nonzeros], doc: str) -> SparseFormat:
    """A format with a pointer per line of `axis` (0: rows, 1: columns); the other is indexed."""
    minor = ("columns", "rows")[axis]

    def pack(matrix: Array) -> Packed:
        whole = dense(matrix)
        found = gather(whole)
        arrays = {"pointers": found.pointers, minor: found.indices}
        return Packed(name, whole.shape, found.values, arrays)

    def checked(packed: Packed) -> tuple[Positions, Positions]:
        check_head(packed, name, ("pointers", minor))
        count = packed.values.size
        sized(packed, "values", (count,))
        starts = pointers(packed, "pointers", (packed.shape[axis] + 1,))
        at = indices(packed, minor, (count,), packed.shape[1 - axis])
        rising(packed, minor, at, starts)
        return starts, at

    def check(packed: Packed) -> None:
        checked(packed)

    def unpack(packed: Packed) -> Array:
        starts, at = checked(packed)
        matrix = np.zeros(packed.shape, packed.values.dtype)
        major = lines(starts)
        matrix[(major, at) if axis == 0 else (at, major)] = operands(packed)
        return matrix

    def widths(packed: Packed) -> dict[str, int]:
        count = packed.values.size
        return {"pointers": bits_for(count + 1), minor: bits_for(packed.shape[1 - axis])}

    return SparseFormat(name, pack, unpack, check, widths, doc)
