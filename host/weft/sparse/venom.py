"""V:2:M: four columns of each block of V x M, 2:4 inside of them (Castro et al., VENOM, SC 2023).

`columns` lists the four of each block, rising; a block that needs fewer takes its lowest unused
ones. Blocks at the lower and right edge may be partial.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weft.errors import SparseError
from weft.graph import Array
from weft.sparse import two_four
from weft.sparse.nm import grouped
from weft.sparsity_format import (
    Packed,
    SparseFormat,
    bits_for,
    check_head,
    dense,
    fail,
    indices,
    operands,
    option,
    within,
)

KEPT = 4
MOST_V, MOST_M = 1 << 12, 1 << 8


def _blocks(matrix: Array, v: int, m: int) -> Array:
    """[row blocks, v, column blocks, m], filled up with zeros."""
    wide = grouped(matrix, m)
    rows, groups, _ = wide.shape
    count = -(-rows // v)
    whole = np.zeros((count * v, groups, m), matrix.dtype)
    whole[:rows] = wide
    return whole.reshape(count, v, groups, m)


def pack(matrix: Array, v: int = 32, m: int = 8) -> Packed:
    """`columns` uint8 [row blocks, column blocks, 4]; values and `metadata` as 2:4 has them.

    Raises SparseError for a block with more than four columns that are not 0, and for more than
    two non-zeros of a row in them.
    """
    whole = dense(matrix)
    v, m = within("venom", "v", v, 1, MOST_V), within("venom", "m", m, KEPT + 1, MOST_M)
    blocks = _blocks(whole, v, m)
    used = (blocks != 0).any(axis=1)
    counts = used.sum(axis=2)
    if counts.max() > KEPT:
        i, j = (int(k) for k in np.argwhere(counts > KEPT)[0])
        raise SparseError(
            f"venom: block ({i}, {j}) of {v} x {m} has {counts[i, j]} columns that are not 0, but "
            f"{KEPT} are kept: prune to {v}:2:{m} first"
        )
    columns = np.sort(np.argsort(~used, axis=2, kind="stable")[..., :KEPT], axis=2)
    kept = np.take_along_axis(blocks, columns[:, None], axis=3)
    inside = two_four.pack(kept.reshape(-1, kept.shape[2] * KEPT)[: len(whole)])
    arrays = {"columns": columns.astype(np.uint8), **inside.arrays}
    return Packed("venom", whole.shape, inside.values, arrays, {"v": v, "m": m})


def check(packed: Packed) -> None:
    """Raises SparseError for columns out of a block or not rising, and what `2:4` refuses."""
    _wide(packed)


def _wide(packed: Packed) -> Array:
    check_head(packed, "venom", ("columns", "metadata"))
    v, m = option(packed, "v", 1, MOST_V), option(packed, "m", KEPT + 1, MOST_M)
    shape = (-(-packed.rows // v), -(-packed.cols // m), KEPT)
    columns = indices(packed, "columns", shape, m)
    falls = np.zeros(shape, bool)
    falls[..., 1:] = columns[..., 1:] <= columns[..., :-1]
    fail(packed, "columns", columns, falls, "does not exceed the one before it")
    inside = shape[1] * KEPT
    nibbles = two_four.check_metadata(packed, inside)
    kept = two_four.spread(np.asarray(packed.values), nibbles)
    if not packed.number_format:
        two_four.check_past(packed, kept, inside)
    blocks = np.zeros((packed.rows, shape[1], m), kept.dtype)
    of_rows = np.repeat(columns, v, axis=0)[: packed.rows]
    np.put_along_axis(blocks, of_rows, kept[:, :inside].reshape(of_rows.shape), axis=2)
    wide = blocks.reshape(packed.rows, -1)
    if not packed.number_format:
        two_four.check_past(packed, wide, packed.cols)
    return wide


def unpack(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check` does."""
    wide = _wide(packed)
    operands(packed)
    return np.ascontiguousarray(wide[:, : packed.cols])


def _widths(packed: Packed) -> dict[str, int]:
    own: Any = {"columns": bits_for(packed.options["m"])}
    return {**own, **two_four.widths(packed)}


VENOM = SparseFormat("venom", pack, unpack, check, _widths, "V:2:M, VENOM, Castro et al., SC 2023")
