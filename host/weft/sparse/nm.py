"""N:M: of every M consecutive columns of a row, N values and where in the group they belong.

A group with fewer than N non-zeros keeps zeros at its lowest unused positions; the N positions of
a group rise. Columns after the last, in a group that is not full, are zeros like others.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from weft.errors import SparseError
from weft.graph import Array
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
    sized,
    within,
)

MOST = 16


@cache
def tables(n: int, m: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """For each of 2**m masks of a group: positions [n] to keep, and how many bits are set."""
    bits = np.arange(1 << m)[:, None] >> np.arange(m) & 1
    order = np.argsort(1 - bits, axis=1, kind="stable")  # set bits first, both in order
    return np.sort(order[:, :n], axis=1).astype(np.uint8), bits.sum(axis=1).astype(np.uint8)


def grouped(matrix: Array, m: int) -> Array:
    """The matrix as [rows, groups, m], filled up with columns of zeros."""
    rows, cols = matrix.shape
    groups = -(-cols // m)
    if cols != groups * m:
        whole = np.zeros((rows, groups * m), matrix.dtype)
        whole[:, :cols] = matrix
        matrix = whole
    return matrix.reshape(rows, groups, m)


def require(fmt: str, counts: Array, n: int, m: int) -> None:
    """Raises SparseError where a group [row, group] has more than `n` non-zeros."""
    if counts.max(initial=0) <= n:
        return
    row, group = (int(i) for i in np.argwhere(counts > n)[0])
    raise SparseError(
        f"{fmt}: row {row}, group {group} (columns {group * m}..{group * m + m - 1}) has "
        f"{counts[row, group]} non-zeros, but {n}:{m} keeps {n}: prune to {n}:{m} first"
    )


def _masks(groups: Array) -> Array:
    """Which elements of each group are not 0, in the bits of a uint16, element 0 in the lowest."""
    kept = (groups != 0).view(np.uint8)
    masks = np.zeros(groups.shape[:2], np.uint16)
    for i in range(groups.shape[2]):  # packbits takes six times as long for groups of four
        masks |= kept[..., i].astype(np.uint16) << np.uint16(i)
    return masks


def pack(matrix: Array, n: int = 2, m: int = 4) -> Packed:
    """Values [rows, groups, n] and `positions` uint8 of that shape, for 0 < n < m <= 16.

    Raises SparseError for a group with more than n non-zeros.
    """
    whole = dense(matrix)
    m = within("nm", "m", m, 2, MOST)
    n = within("nm", "n", n, 1, m - 1)
    groups = grouped(whole, m)
    masks = _masks(groups)
    kept, counts = tables(n, m)
    require("nm", counts.take(masks), n, m)
    positions = kept.take(masks, axis=0)
    starts = np.arange(0, groups.size, m).reshape(*masks.shape, 1)
    values = groups.reshape(-1).take(starts + positions)
    return Packed("nm", whole.shape, values, {"positions": positions}, {"n": n, "m": m})


def check(packed: Packed) -> None:
    """Raises SparseError for positions out of a group or not rising, and values past the row."""
    _checked(packed)


def _checked(packed: Packed) -> Array:
    check_head(packed, "nm", ("positions",))
    m = option(packed, "m", 2, MOST)
    n = option(packed, "n", 1, m - 1)
    shape = (packed.rows, -(-packed.cols // m), n)
    values = sized(packed, "values", shape)
    positions = indices(packed, "positions", shape, m)
    falls = np.zeros(shape, bool)
    falls[..., 1:] = positions[..., 1:] <= positions[..., :-1]
    fail(packed, "positions", positions, falls, "does not exceed the one before it")
    if packed.cols % m and not packed.number_format:
        wrong = np.zeros(shape, bool)
        wrong[:, -1] = (positions[:, -1] >= packed.cols % m) & (values[:, -1] != 0)
        fail(packed, "values", values, wrong, f"belongs to a column past {packed.cols - 1}")
    return positions


def unpack(packed: Packed) -> Array:
    """The matrix [rows, cols]. Raises SparseError as `check` does."""
    positions, values = _checked(packed), operands(packed)
    groups = np.zeros((*values.shape[:2], packed.options["m"]), values.dtype)
    np.put_along_axis(groups, positions, values, axis=2)
    return np.ascontiguousarray(groups.reshape(packed.rows, -1)[:, : packed.cols])


NM = SparseFormat(
    "nm", pack, unpack, check, lambda packed: {"positions": bits_for(packed.options["m"])},
    "N of each M, Mishra et al. 2021",
)  # fmt: skip
