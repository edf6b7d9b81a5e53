"""Nearest values and their codes by table, at a few nanoseconds each.

The upper 16 bits of a float32 (its bf16 number, cut off) index a table of 65,536 entries. That
settles to which of a grid's steps a number belongs, but for the steps that end inside the entry:
a comparison each. Operands fit 16 bits, so that the code of one is a look-up as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.errors import InputError
from weft.graph import Array, Shape

Grid = NDArray[np.float64]
Float = NDArray[np.float32]
BLOCK = 1 << 15  # elements that are worked on at a time; with their indices they stay in cache
_ENTRIES = 1 << 16
_ROUNDS = 6  # more steps than this inside an entry: binary search is as fast


def blocks(shape: Shape) -> Iterator[slice]:
    """Slices of the first axis that hold about BLOCK elements each."""
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return (slice(i, i + step) for i in range(0, shape[0], step))


@dataclass(frozen=True, eq=False)
class Steps:
    """A grid as nearest-value rounding uses it: values in order, and where each ends."""

    values: Float
    edges: Float  # from edges[i] on, values[i + 1] is nearest

    @cached_property
    def _table(self) -> tuple[NDArray[np.intp], int]:
        """Step of the least number of each entry; how many steps may end inside one."""
        pattern = np.arange(_ENTRIES, dtype=np.uint32) << np.uint32(16)
        ends = (pattern.view(np.float32), (pattern | np.uint32(0xFFFF)).view(np.float32))
        beyond = np.where(pattern >> np.uint32(31), -np.inf, np.inf)  # the entries of NaNs
        found = [
            np.searchsorted(self.edges, np.where(np.isnan(e), beyond, e), side="right")
            for e in ends
        ]
        return np.minimum(*found), int(np.abs(found[0] - found[1]).max(initial=0))

    def indices(self, x: Float) -> NDArray[np.intp]:
        """Index of the nearest value, for a contiguous array."""
        if x.size < _ENTRIES // 8 and "_table" not in self.__dict__:
            return np.asarray(np.searchsorted(self.edges, x, side="right"))
        table, rounds = self._table
        if rounds > _ROUNDS:
            return np.asarray(np.searchsorted(self.edges, x, side="right"))
        at = table.take(x.view(np.uint32) >> np.uint32(16))
        last = np.append(self.edges, np.float32(np.nan))  # never reached
        for _ in range(rounds):
            at += x >= last.take(at)
        return at

    def nearest(self, x: Array, dtype: Any = np.float32) -> Array:
        """Nearest values."""
        flat = np.ascontiguousarray(x, np.float32).reshape(-1)
        found, values = np.empty(flat.shape, dtype), self.values.astype(dtype)
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            found[part] = values.take(self.indices(flat[part]))
        return found.reshape(np.shape(x))


def steps(grid: Grid, up: Callable[[float, float], bool]) -> Steps:
    """`up(low, high)`: whether the middle between two neighbours belongs to the higher one."""
    values = np.unique(grid[~np.isnan(grid)])
    values = values + 0.0  # −0 and 0 are one
    middle = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    beyond = np.nextafter(middle, np.float32(np.inf))
    ups = [up(float(a), float(b)) for a, b in pairwise(values)]
    return Steps(values.astype(np.float32), np.where(ups, middle, beyond).astype(np.float32))


def _keys(operands: Array) -> tuple[Array, bool]:
    """Entries of operands, and whether 16 bits hold each of them."""
    whole = np.asarray(operands)
    if whole.dtype.kind == "f":
        bits = (np.ascontiguousarray(whole, np.float32) + np.float32(0)).view(np.uint32)
        return bits >> np.uint32(16), not np.bitwise_and(bits, np.uint32(0xFFFF)).any()
    held = whole.dtype.itemsize <= 2 or bool((np.abs(whole) < _ENTRIES // 2).all())
    return whole.astype(np.int16).view(np.uint16), held


@dataclass(frozen=True, eq=False)
class Encoder:
    """Codes of operands, by the value that each code stands for (NaN: not used)."""

    name: str
    grid: Grid
    kind: str = "integer"  # or "float": operands that bf16 holds

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        found = np.full(_ENTRIES, -1, np.int16)
        used = np.flatnonzero(~np.isnan(self.grid))[::-1]  # the first of equal values stays
        values = self.grid[used]
        keys, _ = _keys(values if self.kind == "float" else values.astype(np.int64))
        found[keys] = used
        return found

    def codes(self, operands: Array) -> NDArray[np.uint8]:
        """Codes; raises InputError where operands are none of the values."""
        whole = np.asarray(operands)
        if self.kind == "integer" and whole.dtype.kind == "f":
            whole = whole.astype(np.int64)
        elif self.kind == "float":
            whole = whole.astype(np.float32, copy=False)
        flat = np.ascontiguousarray(whole).reshape(-1)
        found = np.empty(flat.shape, np.uint8)
        for start in range(0, flat.size, BLOCK):
            part = slice(start, start + BLOCK)
            keys, held = _keys(flat[part])
            codes = self._table.take(keys)
            if not held or codes.min(initial=0) < 0:
                known = np.nan_to_num(self.grid[codes], nan=np.inf)
                known[codes < 0] = np.inf
                check_operands(self.name, flat[part], known)
            found[part] = codes
        return found.reshape(np.shape(operands))


def check_operands(name: str, operands: Array, again: Array) -> None:
    """Raises InputError where operands are none of the format's values."""
    wrong = np.asarray(operands) != again
    if wrong.any():
        raise InputError(
            f"{np.count_nonzero(wrong)} of {np.size(operands)} operands are no values of {name}, "
            f"{np.asarray(operands)[wrong].flat[0]} for one"
        )
