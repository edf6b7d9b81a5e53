"""Weights of the SNAP engine on their way to the stream: bundles without their zeros."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.graph import Array
from weft.lower.codebook import book_of, codes_of
from weft.lower.precision import Precision
from weft.units import snap_stream
from weft.units.snap_plan import Plan

Int8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class SnapWeights:
    """Integers [N, kernel_h, kernel_w, I] of one MatMul: int8, or at most 15 values besides 0."""

    operands: Array
    overlay: Overlay
    _packed: dict[tuple[int, int], Int8] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def coded(self) -> bool:
        """Whether half a byte per weight and a codebook do, which takes fewer bytes."""
        return self.book is not None

    @cached_property
    def book(self) -> NDArray[np.int16] | None:
        """The codebook [16], its first entry 0; None where there are more values."""
        return book_of(self.operands)

    @property
    def precision(self) -> Precision:
        """The fields of MatMul."""
        return Precision("snap", codes=int(self.coded))

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return -(-len(self.operands) // self.overlay.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-int(self.operands.shape[3]) // self.overlay.lanes)

    @property
    def taps(self) -> int:
        """Taps of the window."""
        return int(self.operands.shape[1] * self.operands.shape[2])

    def rows(self, first: int, last: int) -> int:
        """Stream rows of column tiles first..last-1: MatMul.rows."""
        return len(self.packed(first, last))

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        return {"rows": self.rows(first, last), "format": 0}

    def fits(self, overlay: Overlay, first: int = 0, last: int | None = None) -> str | None:
        """None: what an output needs depends on no other one."""
        return None

    def pace(self, overlay: Overlay) -> int:
        """Clocks per stream row."""
        return overlay.beats

    def packed(self, first: int, last: int) -> Int8:
        """Memory rows of column tiles first..last-1, which one MatMul takes."""
        if (first, last) not in self._packed:
            self._packed[first, last] = self._pack(first, last)
        return self._packed[first, last]

    def _pack(self, first: int, last: int) -> Int8:
        lanes = self.overlay.lanes
        part = self.operands[first * lanes : last * lanes]
        # What a block holds depends on M only in how many positions share a stage.
        plan = Plan.make(1, self.blocks, self.taps, last - first, self.overlay)
        return pack(part, self.book, plan, self.overlay).view(np.int8)


def fits(operands: Array, overlay: Overlay) -> str | None:
    """Why operands [N, kernel_h, kernel_w, I] can't run on the SNAP engine; None if they can."""
    if "snap" not in overlay.engines:
        return f"overlay {overlay.name!r} has no engine snap"
    least, most = int(operands.min(initial=0)), int(operands.max(initial=0))
    if (least < -128 or most > 127) and len(np.unique(operands[operands != 0])) > 15:
        return f"weights {least}..{most} are neither int8 nor at most 15 values"
    if least < -(1 << 15) or most >= 1 << 15:
        return f"weights {least}..{most} exceed 16 bits"
    taps = operands.shape[1] * operands.shape[2]
    per_tap = -(-operands.shape[3] // overlay.snap_bundle)
    limit = overlay.snap_cols * overlay.snap_depth
    if taps * per_tap > limit:
        return f"{taps * per_tap} bundles per output exceed the {limit} that the PEs keep"
    return None


def pack(operands: Array, book: Array | None, plan: Plan, overlay: Overlay) -> NDArray[np.uint8]:
    """Rows [rows, lanes] of operands [N, kernel_h, kernel_w, I], with their codebook if any."""
    lanes, bundle = overlay.lanes, overlay.snap_bundle
    n, channels = len(operands), operands.shape[3]
    flat = operands.reshape(n, -1, channels)
    whole = np.zeros((plan.outputs, flat.shape[1], plan.per_tap * bundle), np.int32)
    whole[:n, :, :channels] = flat
    bundles = whole.reshape(plan.outputs, plan.bundles, bundle)
    parts: list[bytes] = []
    if book is not None:
        parts.append(_padded(book.astype("<i2").tobytes(), lanes))
    for block in range(plan.blocks):
        first = block * plan.slots * plan.units
        body = _block(bundles[first : first + plan.outputs_of(block)], book)
        rows = -(-(len(body) + snap_stream.BLOCK_HEADER) // lanes)
        parts.append(_padded(rows.to_bytes(snap_stream.BLOCK_HEADER, "little") + body, lanes))
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, lanes)


def _padded(content: bytes, lanes: int) -> bytes:
    """Whole rows."""
    return content + bytes(-len(content) % lanes)


def _block(weights: NDArray[np.int32], book: Array | None) -> bytes:
    """Records of outputs [outputs, bundles, channels], byte after byte."""
    heads, output, bundle = _heads(np.asarray(weights.any(axis=2)))
    items = weights[output, bundle]  # [records, channels]
    mask = items != 0
    masks = np.packbits(mask, axis=1, bitorder="little")
    counts = mask.sum(axis=1)
    sizes = 1 + masks.shape[1] + (counts if book is None else -(-counts // 2))
    first = np.cumsum(sizes) - sizes
    out = np.zeros(int(sizes.sum()), np.uint8)
    out[first] = heads
    out[first[:, None] + 1 + np.arange(masks.shape[1])] = masks
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.repeat(first + 1 + masks.shape[1], counts)
    values = items[mask]
    if book is None:
        out[start + within] = values.astype(np.int8).view(np.uint8)
        return out.tobytes()
    codes = codes_of(values, book)
    np.bitwise_or.at(out, start + within // 2, (codes << (4 * (within & 1))).astype(np.uint8))
    return out.tobytes()


def _heads(there: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], Array, Array]:
    """First byte, output and bundle of each record, for bundles [outputs, bundles] with weights.

    An output without any has one record, and so has every step of a long way between two.
    """
    longest = snap_stream.LONGEST_GAP
    there = there.copy()
    there[~there.any(axis=1), 0] = True
    output, bundle = np.nonzero(there)
    before = _before(output, bundle)
    for i in np.flatnonzero(bundle - before > longest + 1):
        there[output[i], before[i] + longest + 1 : bundle[i] : longest + 1] = True
    output, bundle = np.nonzero(there)
    gap = bundle - _before(output, bundle) - 1
    last = np.append(output[1:] != output[:-1], True)
    return (gap | np.where(last, snap_stream.LAST, 0)).astype(np.uint8), output, bundle


def _before(output: Array, bundle: Array) -> Array:
    """The bundle of each record's predecessor in its output; −1 for the first."""
    same = np.append(False, output[1:] == output[:-1])
    return np.where(same, np.append(-1, bundle[:-1]), -1)
