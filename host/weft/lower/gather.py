"""Weights for the gather engine: masks and values, packet by packet (weft.units.gather)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.graph import Array
from weft.lower.codebook import book_of, codes_of
from weft.lower.precision import Precision
from weft.units import gather

Int8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class GatherWeights:
    """Operands [N, K] of one MatMul of a few rows; `dense`: without masks.

    Where at most 15 values besides 0 occur, a codebook holds them and codes are of 4 bits.
    """

    operands: Array
    lanes: int
    dense: bool = False
    _packed: dict[tuple[int, int], Int8] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def book(self) -> NDArray[np.int16] | None:
        """The values that occur, 0 first; None where there are more than 4 bits can tell apart."""
        return book_of(self.operands)

    @property
    def precision(self) -> Precision:
        """The fields of MatMul."""
        codes = gather.BOOK * (self.book is not None) | gather.DENSE * self.dense
        return Precision("gather", gather.WINDOW, codes=codes)

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return -(-len(self.operands) // self.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-int(self.operands.shape[1]) // self.lanes)

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        return {"rows": len(self.packed(first, last)), "format": 0}

    def rows(self, first: int, last: int) -> int:
        """Rows that the MatMul takes."""
        return len(self.packed(first, last))

    def pace(self, overlay: Overlay) -> int:
        """Clocks per memory row."""
        return overlay.beats

    def fits(self, overlay: Overlay, first: int = 0, last: int | None = None) -> str | None:
        """None: nothing is kept of column tiles first..last-1."""
        return None

    def clocks(self, overlay: Overlay, rows: int) -> int:
        """Clocks for `rows` rows of activations, the drain left out."""
        layout, masks = self.layout(0, self.tiles), self._masks(0, self.tiles)
        head = gather.book_rows(self.lanes) * overlay.beats if self.book is not None else 0
        return gather.clocks_of(layout, masks, self.blocks, rows, overlay.beats, head).total

    def layout(self, first: int, last: int) -> gather.Layout:
        """How column tiles first..last-1 lie in the stream."""
        blocks = (last - first) * self.lanes * self.blocks
        return gather.Layout(blocks, self.lanes, self.precision.codes)

    def packed(self, first: int, last: int) -> Int8:
        """Memory rows of column tiles first..last-1."""
        if (first, last) not in self._packed:
            self._packed[first, last] = self._pack(first, last)
        return self._packed[first, last]

    def _pack(self, first: int, last: int) -> Int8:
        layout = self.layout(first, last)
        flat = self._flat(first, last)
        there = np.ones(len(flat), bool) if self.dense else flat != 0
        values = self._values(flat[there], layout.per_row)
        head = [] if self.book is None else [self._book_rows()]
        if self.dense:
            return np.concatenate([*head, values]).view(np.int8)
        masks = self._masks(first, last)
        due = layout.value_rows(gather.weights_of(masks))
        rows = np.zeros((len(masks) + len(values), self.lanes), np.uint8)
        before = np.concatenate([[0], due[:-1]])
        rows[np.arange(len(masks)) + before] = masks
        packet = np.searchsorted(due, np.arange(len(values)), side="right")
        rows[np.arange(len(values)) + packet + 1] = values
        return np.concatenate([*head, rows]).view(np.int8)

    def _masks(self, first: int, last: int) -> NDArray[np.uint8]:
        """Rows of masks, of all weights where none are left out."""
        layout = self.layout(first, last)
        bits = np.zeros(layout.packets * gather.MASKS * self.lanes, bool)
        flat = self._flat(first, last)
        bits[: len(flat)] = True if self.dense else flat != 0
        return np.packbits(bits, bitorder="little").reshape(-1, self.lanes)

    def _flat(self, first: int, last: int) -> Array:
        """Operands of the tiles, output by output, whole blocks."""
        part = self.operands[first * self.lanes : last * self.lanes]
        whole = np.zeros(((last - first) * self.lanes, self.blocks * self.lanes), part.dtype)
        whole[: len(part), : part.shape[1]] = part
        return whole.reshape(-1)

    def _values(self, values: Array, per_row: int) -> NDArray[np.uint8]:
        """Rows of values: a byte each, or codes of 4 bits, the first in the low bits."""
        padded = np.zeros(-(-len(values) // per_row) * per_row, np.int64)
        padded[: len(values)] = values
        if self.book is None:
            return padded.astype(np.int8).view(np.uint8).reshape(-1, self.lanes)
        codes = codes_of(padded, self.book)
        return np.asarray(codes[::2] | codes[1::2] << 4).reshape(-1, self.lanes)

    def _book_rows(self) -> NDArray[np.uint8]:
        assert self.book is not None, "the caller has looked"
        rows = np.zeros((gather.book_rows(self.lanes), self.lanes), np.uint8)
        raw = self.book.astype("<i2").view(np.uint8)
        rows.reshape(-1)[: len(raw)] = raw
        return rows
