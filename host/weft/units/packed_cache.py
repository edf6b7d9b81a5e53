"""Keys and values in 4 or 2 bits: the codec between board memory and the operand buffer.

Golden model and clocks of hls/weft/units/packed_cache.hpp: the instruction PackCache, and SetTable
of packed groups. Formats as in KIVI (Liu et al., ICML 2024): 32 tokens make a group, in which keys
have a range per channel, values one per token, here over the channels of a word. The range is kept
as its least value and its width, both of the int8 that the array multiplies with.

A group lies in memory as rows of ranges (keys: a row of least values, one of widths; values: rows
of the tokens' least values, then as many of their widths), then rows of codes: lane l of row r
holds those of channel l, of 8 / bits tokens behind one another, the first one in the low bits.
Either part is filled up with zeros to whole elements of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weft import isa
from weft.config import Overlay
from weft.state import ISSUE_CLOCKS, Clocks, FaultError, Fields, State, Unit

GROUP = isa.PACKED_GROUP
BITS = (4, 2)
UNIT_NAME = "packed_cache"
Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class GroupRows:
    """Rows of memory of a group of one channel block: of ranges and of codes, without and with
    the rows that fill them up.
    """

    bare_ranges: int
    bare_codes: int
    unit: int  # rows that both are filled up to

    @property
    def ranges(self) -> int:
        """Rows of ranges."""
        return -(-self.bare_ranges // self.unit) * self.unit

    @property
    def codes(self) -> int:
        """Rows of codes."""
        return -(-self.bare_codes // self.unit) * self.unit

    @property
    def total(self) -> int:
        """All rows."""
        return self.ranges + self.codes


def group_rows(overlay: Overlay, bits: int, values: bool) -> GroupRows:
    """Those of keys, or of `values`, in codes of `bits`."""
    ranges = 2 * -(-GROUP // overlay.lanes) if values else 2
    return GroupRows(ranges, GROUP * bits // 8, overlay.run_rows)


def quantized(words: Int8, bits: int, values: bool) -> tuple[Int8, NDArray[np.uint8], Int8]:
    """Least values, widths, and codes [32, lanes] of a group's words [32, lanes].

    code = round((x − least) · (2^bits − 1) / width), ties upwards; 0 where the width is.
    """
    axis = 1 if values else 0
    whole = words.astype(np.int64)
    least = whole.min(axis, keepdims=True)
    width = whole.max(axis, keepdims=True) - least
    steps = (1 << bits) - 1
    codes = (2 * steps * (whole - least) + width) // np.maximum(2 * width, 1)
    return (
        least.reshape(-1).astype(np.int8),
        width.reshape(-1).astype(np.uint8),
        codes.astype(np.int8),
    )


def pack(words: Int8, overlay: Overlay, bits: int, values: bool) -> Int8:
    """Rows of memory [rows, lanes] of a group's words [32, lanes]."""
    size, lanes = group_rows(overlay, bits, values), overlay.lanes
    least, width, codes = quantized(words, bits, values)
    rows = np.zeros((size.total, lanes), np.int8)
    half = size.bare_ranges // 2
    for first, numbers in ((0, least), (half, width.view(np.int8))):
        rows[first : first + half].reshape(-1)[: len(numbers)] = numbers
    per_row = 8 // bits
    parts = codes.view(np.uint8).reshape(-1, per_row, lanes)
    shifts = np.arange(per_row, dtype=np.uint8)[None, :, None] * np.uint8(bits)
    packed = np.bitwise_or.reduce(parts << shifts, axis=1).view(np.int8)
    rows[size.ranges : size.ranges + size.bare_codes] = packed
    return rows


def unpack(rows: Int8, overlay: Overlay, bits: int, values: bool) -> Int8:
    """Words [32, lanes] of a group's rows: least + round(code · width / (2^bits − 1))."""
    size, lanes = group_rows(overlay, bits, values), overlay.lanes
    half, count = size.bare_ranges // 2, GROUP if values else lanes
    shape = (-1, 1) if values else (1, -1)
    least = rows[:half].reshape(-1)[:count].reshape(shape).astype(np.int64)
    width = rows[half : 2 * half].reshape(-1)[:count].reshape(shape).view(np.uint8)
    packed = rows[size.ranges : size.ranges + size.bare_codes].view(np.uint8)
    per_row, steps = 8 // bits, (1 << bits) - 1
    shifts = np.arange(per_row, dtype=np.uint8)[None, :, None] * np.uint8(bits)
    codes = (packed[:, None] >> shifts & steps).reshape(GROUP, lanes).astype(np.int64)
    return np.asarray(least + (2 * codes * width + steps) // (2 * steps)).astype(np.int8)


def check_bits(overlay: Overlay, bits: int) -> None:
    """Raises FaultError for codes that the overlay does not have."""
    if UNIT_NAME not in overlay.units or bits not in BITS:
        raise FaultError(2, f"bits = {bits} on overlay {overlay.name!r}")


def clocks(f: Fields, overlay: Overlay, batch: int, before: Fields) -> Clocks:
    """A word of the operand buffer is read per clock, twice; rows that no word of codes completes
    take a clock each.
    """
    size = group_rows(overlay, f["bits"], bool(f["values"]))
    rest = size.ranges + size.codes - size.bare_codes
    return Clocks(ISSUE_CLOCKS, vector=f["blocks"] * (2 * GROUP + rest))


def golden(state: State, f: Fields, batch: int) -> None:
    """PackCache."""
    o = state.overlay
    if UNIT_NAME not in o.units:
        raise FaultError(1, f"overlay {o.name!r} has no unit {UNIT_NAME}")
    check_bits(o, f["bits"])
    rows = group_rows(o, f["bits"], bool(f["values"])).total
    if batch != 1 or not 1 <= f["blocks"] * rows <= len(state.buffer):
        raise FaultError(2, f"batch {batch}, {f['blocks']} blocks of {rows} words")
    further = f["blocks"] - 1
    for name, count, memory in (
        ("operand", GROUP, state.operands), ("target", rows, state.buffer),
    ):  # fmt: skip
        last = f[name] + further * f[f"{name}_block"] + count - 1
        if last >= len(memory):
            raise FaultError(3, f"{name} word {last} of {len(memory)}")
    for block in range(f["blocks"]):
        first = f["operand"] + block * f["operand_block"]
        to = f["target"] + block * f["target_block"]
        words = state.operands[first : first + GROUP]
        state.buffer[to : to + rows] = pack(words, o, f["bits"], bool(f["values"]))


def stream_rows(f: Fields, overlay: Overlay) -> int:
    """Rows of the stream that a SetTable of packed groups takes."""
    size = group_rows(overlay, f["bits"], bool(f["values"]))
    return int(f["runs"] * (f["count"] // GROUP) * size.total)


def load_clocks(f: Fields, overlay: Overlay) -> int:
    """Clocks of such a SetTable: of each group as long as the ports take to bring it, or as its
    ranges are taken and its words written.
    """
    size, o = group_rows(overlay, f["bits"], bool(f["values"])), overlay
    arriving = size.total * o.beats // o.weight_ports
    filling = size.codes // o.stream_rows - -(-size.bare_codes // o.stream_rows)
    writing = size.ranges // o.stream_rows + GROUP // o.operand_group + filling
    return int(f["runs"] * (f["count"] // GROUP) * max(arriving, writing))


def load(state: State, f: Fields) -> None:
    """SetTable of packed groups: runs of words of the operand buffer."""
    o, (count, runs) = state.overlay, (f["count"], f["runs"])
    values = bool(f["values"])
    rows = state.take(stream_rows(f, o), True).astype(np.int8)
    groups = rows.reshape(runs, count // GROUP, -1, o.lanes)
    for run, packed in enumerate(groups):
        first = f["index"] + run * f["step"]
        words = [unpack(each, o, f["bits"], values) for each in packed]
        state.operands[first : first + count] = np.concatenate(words)


UNIT = Unit(UNIT_NAME, (isa.PACK_CACHE,), golden, clocks, "keys and values → 4- or 2-bit codes")
