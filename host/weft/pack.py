"""Activations on the host: arrays of samples ↔ rows of activation memory, and their codes.

A `Packer` is made once per region and works out everything that does not depend on the samples,
so that a short vector costs a handful of numpy calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from weft.errors import ShapeError
from weft.graph import Array, Shape
from weft.program import Layout, Region, Rows

LETTERS = ("c", "h", "w")


def packed_codes(codes: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
    """Bytes [..., n · bits / 8] of codes [..., n], the first in the low bits; one bit says > 0."""
    per_byte = 8 // bits
    mask = np.uint8((1 << bits) - 1)
    whole = (codes > 0).view(np.uint8) if bits == 1 else codes.view(np.uint8) & mask
    parts = whole.reshape(*codes.shape[:-1], -1, per_byte)
    packed = parts[..., 0].copy()
    for j in range(1, per_byte):
        packed |= parts[..., j] << np.uint8(j * bits)
    return packed.view(np.int8)


_FLOAT = np.dtype(np.float32)
Codes = NDArray[np.int8] | NDArray[np.int16]
# Arrays, not numbers: numpy takes them as they are.
_LOW, _HIGH = np.asarray(-128, np.float32), np.asarray(127, np.float32)


def extents(layout: Layout) -> dict[str, int]:
    """Sizes of channels, height and width by their letters."""
    return {"c": layout.channels, "h": layout.height, "w": layout.width}


def sequence(layout: Layout) -> tuple[str, ...]:
    """The letters larger than 1 in the order in which the tensor's elements run."""
    size = extents(layout)
    return tuple(letter for dim in layout.dims for letter in dim if size[letter] > 1)


def words(region: Region, lanes: int) -> int:
    """Rows of activation memory per sample of the region."""
    if region.unfold is not None:
        return region.unfold.height * region.unfold.width
    return region.layout.words(lanes)


@dataclass
class Packer:
    """Packs and unpacks samples of one region for an overlay of `lanes`."""

    region: Region
    lanes: int
    words: int = field(init=False)

    def __post_init__(self) -> None:
        layout, quant = self.region.layout, self.region.quant
        self.words = words(self.region, self.lanes)
        size, letters = extents(layout), sequence(layout)
        self._order = letters + tuple(c for c in LETTERS if c not in letters)
        self._sizes = tuple(size[letter] for letter in self._order)
        self._axes = (0, *(1 + self._order.index(letter) for letter in LETTERS))
        self._back = (0, *(1 + LETTERS.index(letter) for letter in self._order))
        self._shape = (layout.channels, layout.height, layout.width)
        self._blocks = layout.blocks(self.lanes)
        self._elements = layout.channels * layout.height * layout.width
        self._scale = np.asarray(quant.scale, np.float32).reshape(())
        self._zero = np.asarray(quant.zero_point, np.float32)
        self._moved = quant.zero_point != 0
        # Element order and word order agree: a vector, or channels innermost (NHWC).
        innermost = letters == tuple(c for c in ("h", "w", "c") if size[c] > 1)
        full = layout.channels == self._blocks * self.lanes
        plain = self._blocks == 1 or layout.height * layout.width == 1
        assert layout.bits in (8, 16), "what crosses to the host has a byte or two per code"
        self._kind = np.dtype(np.int8 if layout.bits == 8 else np.int16)
        self._direct = innermost and full and plain and self.region.unfold is None

    def pack(self, x: Array) -> Rows:
        """Rows [n·words, lanes] of samples `x` [n, ...]: real values, or codes of their dtype.

        Raises ShapeError if a sample has another number of elements than the region.
        """
        n = len(x)
        if x.size != n * self._elements:
            raise ShapeError(
                f"samples of shape {x.shape[1:]} have {x.size // max(n, 1)} elements, the region "
                f"{self._elements} ({self._shape[0]} channels × {self._shape[1]} × "
                f"{self._shape[2]})"
            )
        codes = x if x.dtype == self._kind else self._quantize(x)
        words = self._words(codes, n)
        return split(words) if self._kind.itemsize > 1 else np.asarray(words, np.int8)

    def _words(self, codes: Codes, n: int) -> Codes:
        """Words [n·words, lanes] of the codes of n samples."""
        if self._direct:
            return codes.reshape(-1, self.lanes)
        chw = codes.reshape((n, *self._sizes)).transpose(self._axes)
        if self.region.unfold is not None:
            return self._unfolded(chw)
        channels, height, width = self._shape
        if self._blocks == 1:
            rows = np.zeros((n, height, width, self.lanes), self._kind)
            rows[..., :channels] = chw.transpose(0, 2, 3, 1)
            return rows.reshape(-1, self.lanes)
        rows = np.zeros((n, self._blocks, height, width, self.lanes), self._kind)
        for block in range(self._blocks):
            part = chw[:, block * self.lanes : (block + 1) * self.lanes]
            rows[:, block, :, :, : part.shape[1]] = part.transpose(0, 2, 3, 1)
        return rows.reshape(-1, self.lanes)

    def unpack(self, rows: Rows, n: int, shape: Shape) -> Codes:
        """Codes [n, *shape[1:]] of the samples in `rows` [n·words, lanes]."""
        words: Codes = rows if self._kind.itemsize == 1 else joined(rows)
        if self._direct:
            return words.reshape((n, *shape[1:]))
        channels, height, width = self._shape
        if self._blocks == 1:
            nhwc = words.reshape(n, height, width, self.lanes)[..., :channels]
            chw = nhwc.transpose(0, 3, 1, 2)
        else:
            blocks = words.reshape(n, self._blocks, height, width, self.lanes)
            chw = blocks.transpose(0, 1, 4, 2, 3).reshape(n, -1, height, width)[:, :channels]
        return chw.transpose(self._back).reshape((n, *shape[1:]))

    def _quantize(self, x: Array) -> Codes:
        """What `Quant.quantize` gives, with fewer temporaries."""
        if self.region.quant.format != "int8":
            return self.region.quant.quantize(x)
        scale = self._scale
        q: Any = x / scale if x.dtype == _FLOAT else np.divide(x, scale, dtype=np.float32)
        np.rint(q, q)
        if self._moved:
            np.add(q, self._zero, q)
        np.maximum(q, _LOW, out=q)
        np.minimum(q, _HIGH, out=q)
        codes: NDArray[np.int8] = q.astype(np.int8)
        return codes

    def _unfolded(self, chw: Codes) -> Rows:
        """Gathers the taps of a shallow convolution into lanes (see `Unfold`)."""
        u = self.region.unfold
        assert u is not None
        n, channels = chw.shape[:2]
        height = (u.height - 1) * u.step_y + (u.rows - 1) * u.dilation_y + 1
        width = (u.width - 1) * u.stride_x + (u.kernel_w - 1) * u.dilation_x + 1
        padded = np.full((n, height, width, channels), self.region.quant.zero_point, np.int8)
        _copy_inside(padded, chw.transpose(0, 2, 3, 1), u.pad_y, u.pad_x)
        sn, sy, sx, sc = padded.strides
        taps = as_strided(
            padded,
            (n, u.height, u.width, u.rows, u.kernel_w, channels),
            (sn, sy * u.step_y, sx * u.stride_x, sy * u.dilation_y, sx * u.dilation_x, sc),
            writeable=False,
        )
        rows = np.zeros((n, u.height, u.width, self.lanes), np.int8)
        lanes = rows[..., : u.rows * u.kernel_w * channels].reshape(taps.shape)  # a view
        for i, j in np.ndindex(u.rows, u.kernel_w):
            lanes[:, :, :, i, j] = taps[:, :, :, i, j]
        return rows.reshape(-1, self.lanes)


def _copy_inside(target: Array, source: Array, pad_y: int, pad_x: int) -> None:
    """Copies the part of `source` [n, h, w, c] that lies in `target`, moved by the pads."""
    height, width = source.shape[1:3]
    y0, x0 = max(0, -pad_y), max(0, -pad_x)
    y1 = min(height, target.shape[1] - pad_y)
    x1 = min(width, target.shape[2] - pad_x)
    if y0 < y1 and x0 < x1:
        to = target[:, y0 + pad_y : y1 + pad_y, x0 + pad_x : x1 + pad_x]
        to[...] = source[:, y0:y1, x0:x1]


def pack(x: Array, region: Region, lanes: int) -> Rows:
    """Rows [n·words, lanes] of samples `x` [n, ...] for `region`: real values, or codes."""
    return Packer(region, lanes).pack(x)


def split(words: Codes) -> Rows:
    """Rows [2n, lanes] of int16 words [n, lanes]: the low bytes of a word, then its high bytes."""
    planes = words.astype("<i2").view(np.int8).reshape(*words.shape, 2)
    return planes.transpose(0, 2, 1).reshape(-1, words.shape[-1])


def joined(rows: Rows) -> NDArray[np.int16]:
    """int16 words [n, lanes] of rows [2n, lanes]: the inverse of `split`."""
    planes = rows.reshape(-1, 2, rows.shape[-1]).transpose(0, 2, 1)
    words = np.ascontiguousarray(planes).view("<i2")[..., 0]
    return words.astype(np.int16)


def unpack(rows: Rows, region: Region, n: int, shape: Shape, lanes: int = 0) -> Codes:
    """Codes [n, *shape[1:]] of the rows of `region`; multiply out with `region.quant`."""
    return Packer(region, lanes or rows.shape[-1]).unpack(rows, n, shape)
