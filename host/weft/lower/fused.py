"""Weights for engines whose cells make several products per clock: codes side by side in bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.formats import NUMBERS
from weft.lower.precision import Precision

Int8 = NDArray[np.int8]
Codes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FusedWeights:
    """Codes [N, kernel_h, kernel_w, I] of one MatMul in a precision; `lanes` rows and columns.

    What lies in memory are the stream rows themselves: a cell's codes in 1, 2 or 4 bytes.
    """

    codes: Codes
    precision: Precision
    lanes: int

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return -(-len(self.codes) // self.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input, in words of packed activations."""
        return -(-int(self.codes.shape[3]) // (self.lanes * self.precision.per_byte))

    @property
    def groups(self) -> int:
        """Folds of a tap."""
        return -(-self.blocks // self.precision.words)

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        taps = self.codes.shape[1] * self.codes.shape[2]
        rows = (last - first) * taps * self.groups * self.lanes * self.precision.weight_rows
        return {"rows": rows, "format": NUMBERS["int8"]}

    def pace(self, overlay: Overlay) -> int:
        """Clocks per tile row."""
        return overlay.beats * self.precision.weight_rows

    def packed(self, first: int, last: int) -> Int8:
        """Memory rows of column tiles first..last-1."""
        p, lanes = self.precision, self.lanes
        part = self.codes[first * lanes : last * lanes]
        n, height, width, channels = part.shape
        whole = np.zeros(
            (last - first, lanes, height * width, self.groups, p.words, lanes, p.per_byte), np.uint8
        )
        flat = whole.reshape((last - first) * lanes, height * width, -1)
        flat[:n, :, :channels] = part.reshape(n, height * width, channels)
        # [tile, tap, group, lane, (word, code in its byte), column]
        ordered = whole.transpose(0, 2, 3, 5, 4, 6, 1)
        cells = ordered.reshape(*ordered.shape[:4], p.products, lanes)
        return self._bytes(cells).reshape(-1, lanes)

    def _bytes(self, cells: Codes) -> Int8:
        """Rows [..., rows, columns] of bytes of codes [..., products, columns]."""
        bits = self.precision.weight_bits
        if self.precision.engine == "binary" and self.precision.activation_bits == 1 and bits == 2:
            cells = np.concatenate([cells & 1, cells >> 1 & cells], axis=-2)  # planes: +1, then −1
            cells[..., : cells.shape[-2] // 2, :] &= 1 - cells[..., cells.shape[-2] // 2 :, :]
            bits = 1
        per_byte = 8 // bits
        missing = -cells.shape[-2] % per_byte
        padded = np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(0, missing), (0, 0)])
        parts = padded.reshape(*padded.shape[:-2], -1, per_byte, padded.shape[-1])
        found = np.zeros(parts.shape[:-2] + parts.shape[-1:], np.uint8)
        for j in range(per_byte):
            found |= parts[..., j, :] << np.uint8(j * bits)
        return found.view(np.int8)
