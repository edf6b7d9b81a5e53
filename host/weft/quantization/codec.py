"""Weights in the canonical order of the number formats, whole and in columns.

Formats know weights as [N, *taps, I] (output channels first, input channels last). Here all taps
are one axis: [N, T, I]; column k = t * I + i of the matrix [N, T * I] is tap t of input channel i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft.format import Format
from weft.graph import Array, Quant, Shape

Real = NDArray[np.float64]


def canonical(weights: Array, op: str) -> Array:
    """[N, T, I] of a Conv's [N, I, *taps] or a Linear's [K, N]."""
    if op == "Linear":
        return np.ascontiguousarray(weights.T)[:, None, :]
    n, i = weights.shape[:2]
    return np.ascontiguousarray(weights.reshape(n, i, -1).transpose(0, 2, 1))


def restored(values: Array, op: str, shape: Shape) -> Array:
    """The inverse of `canonical`: values [N, T, I] in the tensor's own `shape`."""
    if op == "Linear":
        return np.ascontiguousarray(values[:, 0, :].T)
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(shape)


def own_quant(quant: Quant, op: str, shape: Shape) -> Quant:
    """`quant` of canonical weights as the tensor keeps it: its axis, the taps' shape."""
    axis = None if quant.axis is None else (1 if op == "Linear" else 0)
    taps = () if op == "Linear" else shape[2:]

    def spread(bytes_: Array | None) -> Array | None:
        if bytes_ is None:
            return None
        return bytes_.reshape(len(bytes_), *taps, bytes_.shape[-1])

    return replace(quant, axis=axis, groups=spread(quant.groups), zeros=spread(quant.zeros))


def scales(quant: Quant, n: int) -> NDArray[np.float32]:
    """One scale per output channel."""
    return np.broadcast_to(np.asarray(quant.scale, np.float32), (n,)).copy()


def with_scale(quant: Quant, scale: Array) -> Quant:
    """`quant` with other scales, one per output channel of canonical weights."""
    return replace(quant, scale=np.asarray(scale, np.float32), axis=0)


def real(operands: Array, quant: Quant) -> Real:
    """Real values of canonical operands."""
    wide = scales(quant, len(operands)).astype(np.float64)
    return np.asarray(operands, np.float64) * wide.reshape(-1, *[1] * (operands.ndim - 1))


@dataclass(frozen=True)
class Columns:
    """Rounds single columns of a weight matrix [N, T * I], with scales that are fixed.

    Columns that a format stores together (OliVe's pairs) are one step of `steps`. Weights that are
    True in `zeros` [N, T * I] are pruned and stay 0, whatever values are asked for.
    """

    fmt: Format
    quant: Quant
    shape: Shape
    zeros: Array | None = None

    @property
    def steps(self) -> list[slice]:
        """The columns in order, those that belong together in one slice."""
        _, taps, channels = self.shape
        width = 2 if self.fmt.pairs else 1
        return [
            slice(t * channels + i, t * channels + min(i + width, channels))
            for t in range(taps)
            for i in range(0, channels, width)
        ]

    def operands(self, step: slice, values: Array) -> Array:
        """Operands of `values` [N, width], which stand in the columns `step`."""
        if self.zeros is not None:
            values = np.where(self.zeros[:, step], 0, values)
        wide = np.asarray(values, np.float32)[:, None, :]
        return np.asarray(self.fmt.quantize(wide, self._part(step)))[:, 0, :]

    def rounded(self, step: slice, values: Array) -> Real:
        """Real values of `operands`."""
        return real(self.operands(step, values), self.quant)

    def _part(self, step: slice) -> Quant:
        if self.quant.groups is None and self.quant.zeros is None:
            return self.quant
        tap, channel = divmod(step.start, self.shape[2])
        bytes_ = self.quant.groups if self.quant.groups is not None else self.quant.zeros
        assert bytes_ is not None, "one of both is there"
        size = self.fmt.group or self.shape[2]
        where = (slice(None), slice(tap, tap + 1), slice(channel // size, channel // size + 1))
        return replace(
            self.quant,
            groups=None if self.quant.groups is None else self.quant.groups[where],
            zeros=None if self.quant.zeros is None else self.quant.zeros[where],
        )


def packed_bytes(shape: Shape, fmt: Format) -> int:
    """Bytes of canonical weights [N, T, I] in a format: codes, group bytes, codebook."""
    n, taps, channels = shape
    count = n * taps * channels
    codes = -(-count // fmt.per_byte) if fmt.per_byte else -(-count * fmt.bits // 8)
    groups = n * taps * -(-channels // (fmt.group or channels))
    records = int(fmt.group > 0 or fmt.asymmetric) + int(fmt.asymmetric)
    return codes + groups * records + (2 ** (fmt.bits + 1) if fmt.codebook else 0)


def matrix(values: Array) -> Real:
    """[N, T * I] in float64 of canonical values."""
    return np.asarray(values.reshape(len(values), math.prod(values.shape[1:])), np.float64)
