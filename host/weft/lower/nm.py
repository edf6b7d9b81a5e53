"""N:M sparse weights on their way to the stream: values of a group's slots, and their positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weft import tiles
from weft.config import Overlay
from weft.format import Format
from weft.formats import NUMBERS, base_name, parse
from weft.graph import Array, Quant
from weft.lower.precision import Precision
from weft.units import nm

Int8 = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class NmWeights:
    """Operands [N, kernel_h, kernel_w, I], of `group` channels at most `kept` of them not 0."""

    operands: Array
    quant: Quant
    kept: int
    group: int
    lanes: int

    @property
    def format(self) -> Format:
        """How memory keeps the values."""
        return parse(self.quant.format)

    @property
    def words(self) -> int:
        """Channel blocks of a fold."""
        return nm.words_of(self.kept, self.group)

    @property
    def precision(self) -> Precision:
        """The fields of MatMul."""
        return Precision("nm", self.words, codes=nm.codes(self.kept, self.group))

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return -(-len(self.operands) // self.lanes)

    @property
    def blocks(self) -> int:
        """Channel blocks of the input."""
        return -(-int(self.operands.shape[3]) // self.lanes)

    @property
    def folds(self) -> int:
        """Folds of a tap."""
        return -(-self.blocks // self.words)

    @property
    def taps(self) -> int:
        """Taps of the window."""
        return int(self.operands.shape[1] * self.operands.shape[2])

    @property
    def index_rows(self) -> int:
        """Rows of positions in front of a tile."""
        return self.lanes // 8 * (self.group.bit_length() - 1)

    def fields(self, first: int, last: int) -> dict[str, int]:
        """ReadWeights of column tiles first..last-1, without its place in memory."""
        runs = (last - first) * self.taps
        rows = runs * self.folds * (self.lanes + self.index_rows)
        number = NUMBERS[base_name(self.format.name)]
        if not number:
            return {"rows": rows, "format": 0}
        sizes = {"blocks": self.folds, "runs": runs, "index": self.index_rows}
        return {"rows": rows, "format": number, **sizes}

    def pace(self, overlay: Overlay) -> int:
        """Clocks per row of a tile and its positions."""
        rows = self.taps * self.folds * (self.lanes + self.index_rows)
        return max(1, -(-len(self.packed(0, 1)) * overlay.beats // rows))

    def packed(self, first: int, last: int) -> Int8:
        """Memory rows of column tiles first..last-1."""
        part = self.operands[first * self.lanes : last * self.lanes]
        values, position = self._slots(part.reshape(len(part), self.taps, -1))
        codes = self.format.encode(values, replace(self.quant, groups=None, zeros=None))
        rows = tiles.pack(codes, self.quant, self.format, self.lanes)
        return tiles.with_index(rows, self._index(position, last - first), self.format)

    def _slots(self, flat: Array) -> tuple[Array, NDArray[np.uint8]]:
        """Values and positions [N, taps, folds · lanes] of operands [N, taps, I].

        Positions of a group ascend; slots that are left over are those of its first zeros.
        """
        n, taps, channels = flat.shape
        width = self.words * self.lanes
        whole = np.zeros((n, taps, self.folds * width), flat.dtype)
        whole[:, :, :channels] = flat
        groups = whole.reshape(n, taps, self.folds, width // self.group, self.group)
        order = np.argsort(groups == 0, axis=-1, kind="stable")[..., : self.kept]
        order.sort(axis=-1)
        values = np.zeros((n, taps, self.folds, self.lanes), flat.dtype)
        position = np.zeros(values.shape, np.uint8)
        used = width // self.group * self.kept
        found = np.take_along_axis(groups, order, axis=-1)
        values[..., :used] = found.reshape(n, taps, self.folds, used)
        position[..., :used] = order.reshape(n, taps, self.folds, used)
        return values.reshape(n, taps, -1), position.reshape(n, taps, -1)

    def _index(self, position: NDArray[np.uint8], count: int) -> Array:
        """Rows [tiles, index rows, lanes] of packed positions; columns without an output, too."""
        n, taps, _ = position.shape
        whole = np.zeros((count * self.lanes, taps, self.folds, self.lanes), np.uint8)
        used = self.words * self.lanes // self.group * self.kept
        whole[..., :used] = np.arange(used) % self.kept
        whole[:n] = position.reshape(n, taps, self.folds, self.lanes)
        ordered = whole.reshape(count, self.lanes, taps * self.folds, self.lanes)
        per_tile = ordered.transpose(0, 2, 3, 1).reshape(-1, self.lanes, self.lanes)
        return tiles.packed_planes(per_tile, self.group.bit_length() - 1)


def runs_as(operands: Array, kept: int, group: int, overlay: Overlay) -> tuple[int, int] | str:
    """N and M with which engine nm runs operands [N, kernel_h, kernel_w, I]; or why it can't.

    The pattern itself where the engine has it. Another M (no power of two, or too large for the
    overlay) runs as the pattern that takes the fewest folds of those that hold all its weights.
    """
    if "nm" not in overlay.engines or not (group & (group - 1) or group > overlay.nm_group):
        return fits(operands, kept, group, overlay) or (kept, group)
    found = []
    for own in (1 << bits for bits in range(1, overlay.nm_group.bit_length())):
        most = max(1, int(densest(operands, own).max(initial=0)))
        if most < own and fits(operands, most, own, overlay) is None:
            found.append((-nm.words_of(most, own), own, most))
    if not found:
        return (
            f"engine nm takes M of powers of two up to {overlay.nm_group}, and of these no N:M "
            f"with N at most M / 2 holds the weights of {kept}:{group}"
        )
    _, own, most = min(found)
    return most, own


def fits(operands: Array, kept: int, group: int, overlay: Overlay) -> str | None:
    """Why operands [N, kernel_h, kernel_w, I] can't run as N:M weights; None if they can."""
    if "nm" not in overlay.engines:
        return f"overlay {overlay.name!r} has no engine nm"
    if group & (group - 1) or group > overlay.nm_group:
        return f"M = {group}: engine nm takes powers of two up to {overlay.nm_group}"
    if nm.words_of(kept, group) == 1:
        return f"{kept}:{group} leaves more than half: no fold is saved"
    if group > nm.words_of(kept, group) * overlay.lanes:
        return f"M = {group} exceeds the channels that a clock reads"
    if int(densest(operands, group).max(initial=0)) > kept:
        return f"a group of {group} channels has more than {kept} weights"
    return None


def densest(operands: Array, group: int) -> NDArray[np.int64]:
    """Non-zeros per group of consecutive channels [N, taps, groups]."""
    channels = operands.shape[3]
    flat = (operands != 0).reshape(len(operands), -1, channels)
    whole = np.zeros((*flat.shape[:2], -(-channels // group) * group), bool)
    whole[:, :, :channels] = flat
    return np.asarray(whole.reshape(*flat.shape[:2], -1, group).sum(axis=-1))
