"""Weights for the EIE engine: outputs dealt out over its PEs, zeros left out (units/eie.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weft.config import Overlay
from weft.errors import CapacityError, UsageError
from weft.graph import Array
from weft.units.eie import CODEBOOK_BYTES, Shape, refusal

Counts = NDArray[np.int64]
MOST_ENTRIES = (1 << 16) - 1  # of a PE: what a pointer tells


@dataclass(frozen=True)
class Entries:
    """Entries of a matrix, PE by PE and column by column, pads among them.

    `value` and `zeros` [entries], the zero rows before each one; `pe` [entries], `counts` [K, P];
    `nonzeros` are those that are no pads.
    """

    value: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    pe: Counts
    counts: Counts
    nonzeros: int

    @property
    def pad_ratio(self) -> float:
        """Entries per non-zero weight: the price of few bits for the zeros."""
        return len(self.value) / max(1, self.nonzeros)


def entries(w: Array, pes: int, span: int) -> Entries:
    """Entries of weights [N, K], output i in PE i mod `pes`; a pad stands for `span` zeros.

    With g zeros before a weight come ⌊g / span⌋ pads, then the weight with g mod span (Han et al.,
    ISCA 2016, section III). Zeros behind a column's last weight are not stored.
    """
    n, k = w.shape
    whole = np.zeros((-(-n // pes) * pes, k), w.dtype)
    whole[:n] = w
    by_pe = np.ascontiguousarray(whole.reshape(-1, pes, k).transpose(1, 2, 0))  # [P, K, rows]
    pe, column, row = np.nonzero(by_pe)
    run = pe * k + column
    goes_on = np.concatenate([[False], run[1:] == run[:-1]])
    gap = row - np.where(goes_on, np.concatenate([[0], row[:-1]]), -1) - 1
    sizes = gap // span + 1
    end = np.cumsum(sizes)
    total = int(end[-1]) if len(end) else 0
    value, zeros = np.zeros(total, np.uint8), np.full(total, span - 1, np.uint8)
    value[end - 1] = by_pe[pe, column, row].view(np.uint8)
    zeros[end - 1] = gap % span
    counts = np.bincount(run, sizes, pes * k).astype(np.int64).reshape(pes, k).T
    return Entries(value, zeros, np.repeat(pe, sizes), counts, len(row))


@dataclass(frozen=True, eq=False)
class EieWeights:
    """Weights [N, K] of one MatMul on the EIE engine: int8, or codes 0..15 into a `codebook`.

    Entry 0 of the codebook (int16, 16 of them) must be 0, as pads have code 0: raises UsageError.
    """

    values: Array
    lanes: int
    pes: int
    codebook: NDArray[np.int16] | None = None
    _found: dict[tuple[int, int], Entries] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.values.dtype not in (np.int8, np.uint8) or self.values.ndim != 2:
            raise UsageError(
                f"weights of {self.values.dtype} {list(self.values.shape)}: the EIE engine takes "
                "int8 or codes in uint8, [N, K]"
            )
        if (self.codebook is None) != (self.values.dtype == np.int8):
            raise UsageError("codes (uint8) come with their codebook, int8 weights without one")
        if self.codebook is not None and (len(self.codebook) != 16 or self.codebook[0] != 0):
            raise UsageError(
                f"a codebook of {len(self.codebook)} entries, the first {self.codebook[0]}: "
                "the EIE engine takes 16, of which entry 0 is 0"
            )
        if self.codebook is not None and self.values.max(initial=0) > 15:
            raise UsageError(f"code {self.values.max()} is outside 0..15")

    @property
    def tiles(self) -> int:
        """Column tiles of the output."""
        return -(-len(self.values) // self.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-int(self.values.shape[1]) // self.lanes)

    @property
    def codes(self) -> int:
        """MatMul.codes: whether values are codes."""
        return int(self.codebook is not None)

    @property
    def shape(self) -> Shape:
        """Sizes in the stream."""
        return Shape(self.blocks * self.lanes, self.lanes, self.pes, self.codebook is not None)

    def entries(self, first: int, last: int) -> Entries:
        """Entries of column tiles first..last-1; of inputs up to a whole word."""
        if (first, last) not in self._found:
            part = self.values[first * self.lanes : last * self.lanes]
            whole = np.zeros((len(part), self.shape.inputs), part.dtype)
            whole[:, : part.shape[1]] = part
            span = 16 if self.codebook is not None else 256
            self._found[first, last] = entries(whole, self.pes, span)
        return self._found[first, last]

    def rows(self, first: int, last: int) -> int:
        """MatMul.rows: stream rows of column tiles first..last-1."""
        return self._rows(self.entries(first, last))

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        return {"rows": self.rows(first, last), "format": 0, "group": 0, "zeros": 0}

    def pace(self, overlay: Overlay) -> int:
        """Clocks per stream row: of memory."""
        return overlay.beats

    def fits(self, overlay: Overlay, first: int = 0, last: int | None = None) -> str | None:
        """Why column tiles first..last-1 have no place in the PEs of `overlay`; None: they have."""
        last = self.tiles if last is None else last
        why = refusal(overlay, self.blocks, last - first)
        if why is not None or "eie" not in overlay.engines:
            return why or f"overlay {overlay.name!r} has no EIE engine"
        most = int(self.entries(first, last).counts.sum(axis=0).max(initial=0))
        if most > MOST_ENTRIES:
            return f"{most} entries in a PE, more than pointers of 16 bits tell"
        if most * self.shape.bytes > overlay.eie_entries:
            nbytes = most * self.shape.bytes
            return f"{nbytes} bytes of entries in a PE, eie_entries = {overlay.eie_entries}"
        return None

    def packed(self, first: int, last: int) -> NDArray[np.int8]:
        """Memory rows [rows, lanes] of column tiles first..last-1.

        Raises CapacityError where a PE gets more entries than 16-bit pointers tell.
        """
        found, shape = self.entries(first, last), self.shape
        pointers = np.concatenate([np.zeros((1, self.pes), np.int64), found.counts]).cumsum(axis=0)
        if pointers[-1].max() > MOST_ENTRIES:
            raise CapacityError(f"{pointers[-1].max()} entries in a PE, at most {MOST_ENTRIES}")
        rows = np.zeros((self._rows(found), self.lanes), np.uint8)
        if self.codebook is not None:
            book = rows[: shape.codebook_rows].reshape(-1)
            book[:CODEBOOK_BYTES] = np.asarray(self.codebook, "<i2").view(np.uint8)
        planes = np.stack([pointers & 255, pointers >> 8], axis=1).astype(np.uint8)
        rows[shape.codebook_rows : shape.header] = planes.reshape(-1, self.lanes)
        packed = rows[shape.header :].reshape(-1, shape.bytes, self.pes)
        starts = np.cumsum(pointers[-1]) - pointers[-1]
        at = np.arange(len(found.pe)) - starts[found.pe]
        if self.codebook is not None:
            packed[at, 0, found.pe] = found.value | found.zeros << 4
        else:
            packed[at, 0, found.pe] = found.value
            packed[at, 1, found.pe] = found.zeros
        return rows.view(np.int8)

    def _rows(self, found: Entries) -> int:
        most = int(found.counts.sum(axis=0).max(initial=0))
        return self.shape.header + most * self.shape.groups * self.shape.bytes
