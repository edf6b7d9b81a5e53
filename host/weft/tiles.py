"""Weights in memory: codes [N, taps, I] ↔ rows of `lanes` bytes, in the order of the weight stream.

For every column tile of `lanes` outputs, tap, and block of `lanes` input channels (the last ones
are filled up with the code of 0): first the records of the groups that begin there, a row of
their bytes (and one of zero points), then the codes of the tile, a byte lane per output.

Tile rows are packed eight at a time. A code is cut into planes of 8, 4, 2 or 1 bits, low bits
first (3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1); a plane of p bits takes p rows, whose bytes hold
8 / p tile rows each, the first in the low bits. 16 bits take a row of low and one of high bytes per
tile row. Five base-3 digits share a byte and run on across tiles. A codebook comes first of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.format import Format
from weft.graph import Array, Quant

Rows = NDArray[np.int8]
Shape3 = tuple[int, int, int]
TRITS = 5
_POWERS = 3 ** np.arange(TRITS)


def planes(bits: int) -> tuple[int, ...]:
    """Widths that a code is cut into, low bits first."""
    return (8,) if bits == 8 else tuple(p for p in (4, 2, 1) if bits & p)


def stored_rows(shape: Shape3, fmt: Format, lanes: int, group: int = 0, zeros: bool = False) -> int:
    """Memory rows of codes [N, taps, I]; `group` input channels share a record (0: none)."""
    tiles, blocks = -(-shape[0] // lanes), -(-shape[2] // lanes)
    rows = tiles * shape[1] * blocks * lanes
    packed = -(-rows // TRITS) if fmt.per_byte else rows * fmt.bits // 8
    records = -(-blocks * lanes // group) if group else 0
    head = _codebook_rows(fmt, lanes)
    return head + packed + tiles * shape[1] * records * (1 + zeros)


def _codebook_rows(fmt: Format, lanes: int) -> int:
    return -(-(2 << fmt.bits) // lanes) if fmt.codebook else 0


def group_of(fmt: Format, quant: Quant, channels: int) -> int:
    """Input channels that share a record, a power of two; 0 where there are none.

    Zero points alone are shared by all channels of a tap.
    """
    if quant.groups is None:
        return 0
    return fmt.group or 1 << max(4, (channels - 1).bit_length())


def code_of_zero(fmt: Format, quant: Quant) -> int:
    """The code of operand 0, which input channels that are not there have.

    Binary codes have none: 0.
    """
    values = quant.codebook if fmt.codebook else fmt.grid
    found: Any = [] if values is None else np.flatnonzero(np.asarray(values) == 0)
    return int(found[0]) if len(found) else 0


def pack(codes: Array, quant: Quant, fmt: Format, lanes: int) -> Rows:
    """Memory rows [rows, lanes] of codes [N, taps, I] and of what `quant` carries for them."""
    n, taps, channels = codes.shape
    tiles, blocks = -(-n // lanes), -(-channels // lanes)
    # [tile, tap, input channel, output lane]: each row of a tile is contiguous
    whole = np.full((tiles, taps, blocks * lanes, lanes), code_of_zero(fmt, quant), codes.dtype)
    for tile in range(tiles):
        outputs = slice(tile * lanes, (tile + 1) * lanes)
        part = codes[outputs]
        whole[tile, :, :channels, : len(part)] = part.transpose(1, 2, 0)
        if quant.zeros is not None and channels < blocks * lanes:
            last = quant.zeros[outputs][:, :, -1:]  # the group that is filled up
            whole[tile, :, channels:, : len(part)] = last.transpose(1, 2, 0)
    if fmt.per_byte:
        return _trits(whole.reshape(-1, lanes))
    body = packed_planes(whole.reshape(tiles * taps, blocks * lanes, lanes), fmt.bits)
    group = group_of(fmt, quant, channels)
    if group:
        body = _with_records(body, quant, (n, taps, blocks * lanes), group, lanes)
    rows = body.reshape(-1, lanes)
    if not fmt.codebook:
        return rows.view(np.int8)
    return np.concatenate([_codebook(quant, fmt, lanes), rows.view(np.int8)])


def packed_planes(codes: Array, bits: int) -> NDArray[np.uint8]:
    """Packed rows [runs, rows, lanes] of codes [runs, tile rows, lanes]."""
    runs, rows, lanes = codes.shape
    if bits == 16:
        both = codes.astype("<u2").reshape(runs, rows, lanes)
        low, high = (both & 255).astype(np.uint8), (both >> 8).astype(np.uint8)
        return np.stack([low, high], axis=2).reshape(runs, 2 * rows, lanes)
    if bits == 8:
        return codes
    eights = codes.reshape(runs, rows // 8, 8, lanes)
    found = np.empty((runs, rows // 8, bits, lanes), np.uint8)
    at = shift = 0
    for width in planes(bits):
        per_byte, mask = 8 // width, np.uint8((1 << width) - 1)
        parts = eights.reshape(runs, rows // 8, width, per_byte, lanes)
        target = found[:, :, at : at + width]
        for j in range(per_byte):
            plane = parts[:, :, :, j] if bits == width else parts[:, :, :, j] >> np.uint8(shift)
            if bits != width:
                plane = plane & mask
            if j:
                target |= plane << np.uint8(j * width)
            else:
                target[...] = plane
        at, shift = at + width, shift + width
    return found.reshape(runs, -1, lanes)


def _trits(codes: Array) -> Rows:
    """Rows of five digits of base 3, running on across tiles."""
    rows, lanes = codes.shape
    padded = np.zeros((-(-rows // TRITS) * TRITS, lanes), np.uint8)
    padded[:rows] = codes
    fives = padded.reshape(-1, TRITS, lanes)
    total = np.zeros((len(fives), lanes), np.uint8)
    for j in range(TRITS):
        total += fives[:, j] * np.uint8(_POWERS[j])
    return total.view(np.int8)


def _record_rows(record: Array, n: int, taps: int, lanes: int) -> NDArray[np.uint8]:
    """Bytes [tiles · taps, groups, lanes] of a record [N, taps, groups]."""
    tiles = -(-n // lanes)
    flat = np.asarray(record).reshape(n, taps, -1).view(np.uint8)
    whole = np.zeros((tiles * lanes, taps, flat.shape[2]), np.uint8)
    whole[:n] = flat
    ordered = whole.reshape(tiles, lanes, taps, -1).transpose(0, 2, 3, 1)
    return ordered.reshape(tiles * taps, -1, lanes)


def _with_records(
    body: NDArray[np.uint8], quant: Quant, shape: Shape3, group: int, lanes: int
) -> NDArray[np.uint8]:
    """Packed rows [runs, rows, lanes] with the record of each group in front of its codes."""
    n, taps, channels = shape
    parts = [_record_rows(r, n, taps, lanes) for r in (quant.groups, quant.zeros) if r is not None]
    groups = -(-channels // group)
    record = np.zeros((len(body), groups, len(parts), lanes), np.uint8)
    for number, part in enumerate(parts):
        record[:, : part.shape[1], number] = part[:, :groups]
    rows = body.shape[1] * group // channels if channels > group else body.shape[1]
    made = []
    for index in range(groups):
        made += [record[:, index], body[:, index * rows : (index + 1) * rows]]
    return np.concatenate(made, axis=1)


def with_index(rows: Rows, index: Array, fmt: Format) -> Rows:
    """Packed rows with rows [tiles, n, lanes] of positions: in front of a tile of int8; behind the
    first eight rows of others, which the decoder reads while the tile before leaves.
    """
    lanes = rows.shape[1]
    head = _codebook_rows(fmt, lanes)
    body = rows[head:].reshape(len(index), -1, lanes)
    first = 0 if fmt.name == "int8" else fmt.bits
    parts = [body[:, :first], index.view(np.int8), body[:, first:]]
    return np.concatenate([rows[:head], np.concatenate(parts, axis=1).reshape(-1, lanes)])


def split_index(rows: Rows, tiles: int, count: int, fmt: Format, lanes: int) -> tuple[Rows, Rows]:
    """The inverse of `with_index` for formats other than int8: rows without positions, and the
    positions [tiles, count, lanes].
    """
    if not count:
        return rows, rows[:0]
    head = _codebook_rows(fmt, lanes)
    body = rows[head:].reshape(tiles, -1, lanes)
    first = fmt.bits
    kept = np.concatenate([body[:, :first], body[:, first + count :]], axis=1)
    return np.concatenate([rows[:head], kept.reshape(-1, lanes)]), body[:, first : first + count]


def _codebook(quant: Quant, fmt: Format, lanes: int) -> Rows:
    assert quant.codebook is not None, "a codebook format has its values in the quant"
    rows = np.zeros((_codebook_rows(fmt, lanes), lanes), np.uint8)
    raw = np.asarray(quant.codebook, "<i2").view(np.uint8)
    rows.reshape(-1)[: raw.size] = raw
    return rows.view(np.int8)


def unpack(
    rows: Rows, shape: Shape3, fmt: Format, lanes: int, group: int = 0, zeros: bool = False
) -> tuple[Array, Quant]:
    """Codes [N, taps, I] of memory rows, and a Quant with their records and codebook."""
    n, taps, channels = shape
    tiles, blocks = -(-n // lanes), -(-channels // lanes)
    data = np.asarray(rows).view(np.uint8)
    facts: dict[str, Any] = {"format": fmt.name}
    if fmt.codebook:
        head = _codebook_rows(fmt, lanes)
        book = np.ascontiguousarray(data[:head]).reshape(-1)[: 2 << fmt.bits]
        facts["codebook"], data = book.view("<i2").astype(np.int16), data[head:]
    if group:
        body = data.reshape(tiles * taps, -1, lanes)
        body, facts["groups"], facts["zeros"] = _split_records(body, shape, group, zeros, lanes)
        data = body.reshape(-1, lanes)
    if fmt.per_byte:
        digits = data[:, None] // _POWERS[:, None].astype(np.uint8) % 3
        whole = digits.reshape(-1, lanes)[: tiles * taps * blocks * lanes].astype(np.uint8)
    else:
        whole = unpacked_planes(data.reshape(tiles * taps, -1, lanes), fmt.bits)
    ordered = whole.reshape(tiles, taps, blocks * lanes, lanes).transpose(0, 3, 1, 2)
    codes = np.ascontiguousarray(ordered.reshape(tiles * lanes, taps, -1)[:n, :, :channels])
    return codes, Quant(np.asarray(1, np.float32), **facts)


def _split_records(
    body: NDArray[np.uint8], shape: Shape3, group: int, zeros: bool, lanes: int
) -> tuple[NDArray[np.uint8], Array, Array | None]:
    """Packed rows without their records, and the records [N, taps, groups]."""
    n, taps, channels = shape
    width = -(-channels // lanes) * lanes
    groups, extra = -(-width // group), 1 + zeros
    plain = body.shape[1] - groups * extra
    rows = plain * group // width if width > group else plain
    starts = [index * (rows + extra) for index in range(groups)]
    kept = [body[:, s + extra : s + extra + rows] for s in starts]
    records = [np.stack([body[:, s + i] for s in starts], axis=1) for i in range(extra)]
    back = []
    for record in records:
        ordered = record.reshape(-1, taps, groups, lanes).transpose(0, 3, 1, 2)
        back.append(ordered.reshape(-1, taps, groups)[:n, :, : -(-channels // group)])
    points = np.ascontiguousarray(back[1]).view(np.int8) if zeros else None
    return np.concatenate(kept, axis=1), np.ascontiguousarray(back[0]), points


def unpacked_planes(packed: NDArray[np.uint8], bits: int) -> Array:
    """Codes [runs, tile rows, lanes] of packed rows: the inverse of `packed_planes`."""
    runs, rows, lanes = packed.shape
    if bits == 16:
        both = packed.reshape(runs, rows // 2, 2, lanes).astype(np.uint16)
        return np.asarray(both[:, :, 0] | both[:, :, 1] << 8)
    if bits == 8:
        return packed
    eights = packed.reshape(runs, rows // bits, bits, lanes)
    found = np.zeros((runs, rows // bits, 8, lanes), np.uint8)
    at = shift = 0
    for width in planes(bits):
        mask, per_byte = np.uint8((1 << width) - 1), 8 // width
        for j in range(per_byte):
            plane = eights[:, :, at : at + width] >> np.uint8(j * width) & mask
            found[:, :, j::per_byte] |= plane << np.uint8(shift)
        at, shift = at + width, shift + width
    return found.reshape(runs, -1, lanes)
